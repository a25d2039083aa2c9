"""The nameds of the bed: settings, and the predicted open files, limit and threshold."""

from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.bed.model import Limits, Node
from orchestrator.scenarios.bind_fd_limit.params import Params
from orchestrator.services import bind

REPORTED, FIXED = "dns", "fixed"
ADDRESSES, FULL_WORKERS = 2560, 24
BOTH_FAMILIES = 800
"""Addresses of each family for the fix listen-on-v6: 6,432 open files are over -S 4096, and 3,232 of IPv4 are not."""
RESERVED = 512
"""File descriptors that 9.16 leaves to what is not a socket (``reserved-sockets``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """How one named of the bed is set up."""

    addresses: int
    """That it has, of each family."""
    workers: int
    max_sockets: int | None
    nofile: int | None
    release: str
    listen: Literal["lab", "service"] = "lab"
    listen_v6: Literal["lab", "none"] = "none"

    def __str__(self) -> str:
        limits = [f"-S {self.max_sockets:,}"] if self.max_sockets else []
        limits += [f"{self.nofile:,} open files allowed"] if self.nofile else []
        return ", ".join([f"{self.listening:,} addresses", f"{self.workers} workers", *limits])

    @property
    def listening(self) -> int:
        """On how many addresses it listens, both families together."""
        return (self.addresses if self.listen == "lab" else 1) + (self.addresses if self.listen_v6 == "lab" else 0)

    @property
    def open_files(self) -> int:
        """The prediction."""
        return bind.open_files(self.listening, self.workers, self.release)

    @property
    def limit(self) -> int | None:
        """At how many open files the next one fails; ``None``: the engine's limit, which the host's check knows."""
        limits = [self.nofile, (self.max_sockets or bind.DEBIAN_MAX_SOCKETS) if self.release == "bullseye" else None]
        return min((limit for limit in limits if limit), default=None)

    @property
    def threshold(self) -> int | None:
        """The smallest number of addresses with which the open files reach the limit before anything is fetched."""
        if self.limit is None:
            return None
        each = 2 * self.workers * (2 if self.listen_v6 == "lab" else 1)
        return -(-(self.limit - bind.open_files(0, self.workers, self.release)) // each)

    def node(self) -> Node:
        """Return it as a node of a bed; it may end where the kernel's limit ends it while it starts."""
        settings = {
            "listen": self.listen,
            "listen_v6": self.listen_v6,
            "workers": self.workers,
            "max_sockets": self.max_sockets,
            "resolver": True,
        }
        return Node(
            service="bind",
            release=self.release,  # type: ignore[arg-type]  # one of them, as the parameters say
            addresses=self.addresses,
            limits=Limits(nofile=self.nofile),
            settings=settings,
            may_end=self.nofile is not None and self.nofile <= self.open_files,
        )


def enough(named: Named) -> int:
    """Return a limit that its open files stay well under, in thousands."""
    return -(-(named.open_files + RESERVED) // 1000) * 1000


def servers(params: Params) -> dict[str, Named]:
    """Return the nodes of the bed: as reported, and with the fix."""
    v6: Literal["lab", "none"] = "lab" if params.fix == "listen-on-v6" else "none"
    addresses = params.addresses or (BOTH_FAMILIES if v6 == "lab" else ADDRESSES)
    named = Named(
        addresses=addresses,
        workers=params.workers,
        max_sockets=params.max_sockets,
        nofile=params.nofile,
        release=params.dns_release,
        listen_v6=v6,
    )
    if params.full:
        named = replace(named, addresses=ADDRESSES, workers=FULL_WORKERS, max_sockets=None)
        named = replace(named, nofile=enough(named))
    fixes = {
        "listen-on": replace(named, listen="service", listen_v6="none"),
        "maxsockets": replace(named, max_sockets=enough(named)),
        "listen-on-v6": replace(named, listen_v6="none"),
    }
    return {REPORTED: named} | ({FIXED: fixes[params.fix]} if params.fix else {})
