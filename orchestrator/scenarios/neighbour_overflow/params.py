"""Parameters and constants of the scenario neighbour-overflow."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.scenarios import OverIPv4

REPORTED, FIXED = "as-reported", "fixed"
"""The two passes over one bed."""
CONNECT_TIMEOUT_S = 4
"""Postfix's smtp_connect_timeout in this bed; at the default of 30 s, each failed delivery takes that long."""


class Params(OverIPv4):
    """Parameters of the scenario."""

    addresses: Annotated[int, Field(ge=1, le=16_384)] = 2560
    """Addresses on the link of the DNS server, queried over UDP, and as many of the sink, one for each domain."""
    messages: Annotated[int, Field(ge=1, le=16_384)] = 100
    """Messages, one to each of as many domains, while the table is kept full; at most one for each address."""
    fix: Literal["gc-thresh", "route", "permanent"] | None = None
    """Prove a fix in a second pass: a larger table, one route via each server, permanent entries."""
    allow_host_changes: bool = False
    """Consent to the fix gc-thresh: it raises gc_thresh1 to 3 of the whole machine, and restores them."""
