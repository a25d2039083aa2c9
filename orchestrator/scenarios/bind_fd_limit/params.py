"""The parameters of the scenario."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.bed.model import MAX_DOMAINS, Release
from orchestrator.scenarios import OverIPv4


class Params(OverIPv4):
    """What can be varied."""

    addresses: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] | None = None
    """IPv4 addresses that named listens on; unset: 2,560, and 800 of each family with the fix listen-on-v6."""
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    """Worker threads (-n)."""
    max_sockets: Annotated[int, Field(ge=1024, le=1 << 20)] | None = 4096
    """Where 9.16 stops to open sockets (-S); other releases take no notice."""
    nofile: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    """Open files that the kernel allows (RLIMIT_NOFILE); unset: what the engine gives."""
    dns_release: Release = "bullseye"
    """The Debian release that BIND comes from: 9.16 (bullseye), 9.18 (bookworm), 9.20 (trixie)."""
    fix: Literal["listen-on", "maxsockets", "listen-on-v6"] | None = None
    """Prove a fix beside the unfixed server: one address to listen on, a higher -S, no IPv6."""
    full: bool = False
    """Full size instead of addresses, workers, max-sockets and nofile: 2,560 addresses, 24 workers, Debian's own -S."""
