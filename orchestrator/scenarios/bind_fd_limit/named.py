"""Params, and the nodes of bed(): settings of each named, its predicted open files, its limit and its threshold."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, cast

from pydantic import Field

from orchestrator.bed.model import MAX_DOMAINS, Limits, NodeSpec, Release
from orchestrator.scenarios import OverIPv4
from orchestrator.services import OpensFiles, service

BIND = "bind"
REPORTED, FIXED = "dns", "fixed"
ADDRESSES, FULL_WORKERS = 2560, 24
BOTH_FAMILIES = 800
"""Addresses of each family for the fix listen-on-v6: with both families, named opens 6,432 files, above -S 4096; with
IPv4 alone, 3,232."""
RESERVED = 512
"""File descriptors that BIND 9.16 reserves for uses other than sockets (``reserved-sockets``)."""


class Params(OverIPv4):
    """Parameters of the scenario."""

    addresses: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] | None = None
    """IPv4 addresses that named listens on; unset: 2,560 (with the fix listen-on-v6: 800 of each family)."""
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    """Worker threads (-n)."""
    max_sockets: Annotated[int, Field(ge=1024, le=1 << 20)] | None = 4096
    """Limit of sockets in BIND 9.16 (-S); other releases ignore the option."""
    nofile: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    """Limit of open files in the kernel (RLIMIT_NOFILE); unset: the engine's default."""
    dns_release: Release = "bullseye"
    """Debian release of BIND: 9.16 (bullseye), 9.18 (bookworm), 9.20 (trixie)."""
    fix: Literal["listen-on", "maxsockets", "listen-on-v6"] | None = None
    """Prove a fix on a second server: listen on one address only, raise -S, or do not listen on IPv6."""
    full: bool = False
    """Full size instead of addresses, workers, max-sockets and nofile: 2,560 addresses, 24 workers, Debian's own -S."""


def files_of_named() -> OpensFiles:
    """Return the service that predicts named's open files."""
    return cast("OpensFiles", service(BIND))


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
        """Number of addresses that named listens on, both families together."""
        return (self.addresses if self.listen == "lab" else 1) + (self.addresses if self.listen_v6 == "lab" else 0)

    @property
    def open_files(self) -> int:
        """Predicted open files."""
        return files_of_named().open_files(self.listening, self.workers, self.release)

    @property
    def limit(self) -> int | None:
        """Number of open files at which named can open no further file; ``None``: the engine's default limit."""
        limits = [self.nofile, files_of_named().most_files(self.release, self.max_sockets)]
        return min((limit for limit in limits if limit), default=None)

    @property
    def threshold(self) -> int | None:
        """Smallest number of addresses for which the open files reach the limit even before the first fetch."""
        if self.limit is None:
            return None
        each = 2 * self.workers * (2 if self.listen_v6 == "lab" else 1)
        return -(-(self.limit - files_of_named().open_files(0, self.workers, self.release)) // each)

    def node(self) -> NodeSpec:
        """Return the node; the node may end by itself if the kernel's limit is too low for named to start."""
        settings = {
            "listen": self.listen,
            "listen_v6": self.listen_v6,
            "workers": self.workers,
            "max_sockets": self.max_sockets,
            "resolver": True,
        }
        return NodeSpec(
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
    """Return the settings by node: ``dns`` as in the report and, if a fix is given, ``fixed`` with the fix."""
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
