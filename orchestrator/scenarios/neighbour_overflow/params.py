"""Params of the scenario neighbour-overflow, and constants that its bed(), drive() and judge() share."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.scenarios import OverIPv4

REPORTED, FIXED = "as-reported", "fixed"
"""Names of the two passes over one bed."""
CONNECT_TIMEOUT_S = 4
"""Postfix's smtp_connect_timeout in this bed: each failed delivery takes this long. Postfix's default is 30 s."""


class Params(OverIPv4):
    """Parameters of the scenario."""

    addresses: Annotated[int, Field(ge=1, le=16_384)] = 2560
    """Number of the DNS server's addresses on the link, queried over UDP; the sink has as many, one for each domain."""
    messages: Annotated[int, Field(ge=1, le=16_384)] = 100
    """Messages sent while the table is kept full, each to another domain; at most one for each address."""
    fix: Literal["gc-thresh", "route", "permanent"] | None = None
    """Prove a fix in a second pass: a larger table, one route via each server, or permanent entries."""
    allow_host_changes: bool = False
    """Consent to the fix gc-thresh, which raises gc_thresh1, 2 and 3 of the whole machine for the run's time."""
