"""Parameters of a load through a relay, and names of loads and services."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from orchestrator.agents.contract import LoadOrder
from orchestrator.bed import user_files
from orchestrator.bed.model import MAX_DOMAINS, Domain, Families, Files, Recipients, Release, Strict
from orchestrator.bed.user_files import FromDisk

CALIBRATION, SINGLE = "calibration", "calibration-single"
"""Loads straight to the sink; the second has one message for each connection."""
OURS = "smtp-load"
"""The load generator that keeps an account of every message."""
MOST_CONNECTIONS = 10_000


class RelayLoad(Strict):
    """A relay, and the load that it gets."""

    domains: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] = 2560
    """Domains that receive mail, each with an address of its own; given by name, their number."""
    domain_names: Annotated[
        Annotated[list[Domain], Field(min_length=1)] | None, FromDisk(user_files.read_lines, "FILE")
    ] = None
    """Their names under .test, one a line; unset: those of the recipients, else d0.test, d1.test, ..."""
    recipients: Annotated[Recipients | None, FromDisk(user_files.read_lines, "FILE")] = None
    """Who gets the mail, one a line: local parts, which every domain has, or full addresses; unset: user."""
    families: Families = Families.BOTH
    """What mail and DNS go over: v4, v6 or both; v4 asks for no IPv6 of the host."""
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Messages a second, open-loop; unset: as fast as the relay takes them."""
    size: Annotated[int, Field(ge=64, le=50 * 1024 * 1024)] = 2048
    """Bytes in the body of a message."""
    connections: Annotated[int, Field(ge=1, le=MOST_CONNECTIONS)] | None = None
    """Connections that the load generator keeps open at most; unset: as many as the relay needs, found by short loads
    (at a rate: up to 640, opened as they are needed)."""
    probe: Annotated[float, Field(ge=1, le=60)] = 3.0
    """Seconds of each of those short loads."""
    calibration: Annotated[float, Field(ge=1, le=600)] = 4.0
    """Seconds of load straight into the sink, before the run, for each of two shapes."""
    drain: Annotated[float, Field(ge=1, le=86_400)] = 1800.0
    """Seconds that the relay may take to empty its queue after each load."""
    per_connection: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Messages sent over one connection."""
    relay: str = "postfix"
    """The service under test."""
    relay_release: Release = "bookworm"
    """The Debian release it comes from."""
    relay_files: Annotated[Files | None, FromDisk(user_files.read_tree, "FOLDER")] = None
    """Files of your own for the relay, as a tree that is laid over its /: etc/postfix/main.cf, ..."""

    @model_validator(mode="before")
    @classmethod
    def _named_domains(cls, given: Any) -> Any:
        """Take the domains from their names, or from the recipients' addresses; their number, too, if none is given."""
        if not isinstance(given, dict):
            return given
        names, recipients = given.get("domain_names"), given.get("recipients")
        if names is None and isinstance(recipients, list):
            found = dict.fromkeys(address.partition("@")[2] for address in recipients if isinstance(address, str))
            names = [name for name in found if name] or None
        return {"domains": len(names), **given, "domain_names": names} if names and isinstance(names, list) else given

    @model_validator(mode="after")
    def _as_many_as_named(self) -> Self:
        if self.domain_names is not None and len(self.domain_names) != self.domains:
            raise ValueError(
                f"domains: {self.domains}, but {len(self.domain_names)} named by domain_names or recipients: "
                "leave domains out"
            )
        return self

    def order(self, seconds: float, connections: int) -> LoadOrder:
        """Return the load."""
        return LoadOrder(
            seconds=seconds,
            rate=self.rate,
            connections=connections,
            per_connection=self.per_connection,
            sizes=[self.size],
        )
