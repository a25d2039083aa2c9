"""Parameters of the scenario bind-fd-limit."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.bed.model import MAX_DOMAINS, Release
from orchestrator.scenarios import OverIPv4


class Params(OverIPv4):
    """Parameters of the scenario."""

    addresses: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] | None = None
    """IPv4 addresses that named listens on; unset: 2,560 (with the fix listen-on-v6: 800 of each family)."""
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    """Worker threads (-n)."""
    max_sockets: Annotated[int, Field(ge=1024, le=1 << 20)] | None = 4096
    """Limit of sockets in BIND 9.16 (-S); other releases ignore it."""
    nofile: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    """Limit of open files in the kernel (RLIMIT_NOFILE); unset: the engine's default."""
    dns_release: Release = "bullseye"
    """Debian release of BIND: 9.16 (bullseye), 9.18 (bookworm), 9.20 (trixie)."""
    fix: Literal["listen-on", "maxsockets", "listen-on-v6"] | None = None
    """Prove a fix on a second server: listen on one address, a higher -S, no IPv6."""
    full: bool = False
    """Full size instead of addresses, workers, max-sockets and nofile: 2,560 addresses, 24 workers, Debian's own -S."""
