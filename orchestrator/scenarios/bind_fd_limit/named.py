"""Settings of each named of the bed, with predicted open files, limit and threshold."""

from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.bed.model import Limits, Node
from orchestrator.scenarios.bind_fd_limit.params import Params
from orchestrator.services import files_of

BIND = "bind"
REPORTED, FIXED = "dns", "fixed"
ADDRESSES, FULL_WORKERS = 2560, 24
BOTH_FAMILIES = 800
"""Addresses of each family for the fix listen-on-v6: 6,432 open files are over -S 4096, and 3,232 of IPv4 are not."""
RESERVED = 512
"""File descriptors that 9.16 reserves for other uses than sockets (``reserved-sockets``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Settings of one named of the bed."""

    addresses: int
    """Addresses of each family."""
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
        """Number of addresses it listens on, both families together."""
        return (self.addresses if self.listen == "lab" else 1) + (self.addresses if self.listen_v6 == "lab" else 0)

    @property
    def open_files(self) -> int:
        """Predicted open files."""
        return files_of(BIND).open_files(self.listening, self.workers, self.release)

    @property
    def limit(self) -> int | None:
        """Number of open files at which the next one fails; ``None``: the engine's default limit."""
        limits = [self.nofile, files_of(BIND).most_files(self.release, self.max_sockets)]
        return min((limit for limit in limits if limit), default=None)

    @property
    def threshold(self) -> int | None:
        """Smallest number of addresses whose open files reach the limit before the first fetch."""
        if self.limit is None:
            return None
        each = 2 * self.workers * (2 if self.listen_v6 == "lab" else 1)
        return -(-(self.limit - files_of(BIND).open_files(0, self.workers, self.release)) // each)

    def node(self) -> Node:
        """Return the node; it may end if the kernel's limit is too low for its start."""
        settings = {
            "listen": self.listen,
            "listen_v6": self.listen_v6,
            "workers": self.workers,
            "max_sockets": self.max_sockets,
            "resolver": True,
        }
        return Node(
            service=BIND,
            release=self.release,  # type: ignore[arg-type]  # checked by Params
            addresses=self.addresses,
            limits=Limits(nofile=self.nofile),
            settings=settings,
            may_end=self.nofile is not None and self.nofile <= self.open_files,
        )


def enough(named: Named) -> int:
    """Return a limit well above the open files of a named, rounded up to thousands."""
    return -(-(named.open_files + RESERVED) // 1000) * 1000


def servers(params: Params) -> dict[str, Named]:
    """Return name -> named: as reported and, with a fix, the fixed one."""
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
