"""RelayLoad, the parameters of a relay and its load: checks them, and makes the bed and the load order from them."""

from dataclasses import replace
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from orchestrator import services
from orchestrator.agents.contract import LoadOrder
from orchestrator.agents.order import BadOrder, check
from orchestrator.bed import builtin, user_files
from orchestrator.bed.model import MAX_DOMAINS, Bed, Domain, Families, Files, NodeSpec, Recipients, Release, Strict
from orchestrator.bed.user_files import FromDisk
from orchestrator.errors import InvalidInput
from orchestrator.services import Role

CALIBRATION, SINGLE = "calibration", "calibration-single"
"""Names of the loads straight to the sink; ``SINGLE`` opens a connection for each message."""
OURS = "smtp-load"
"""The load generator that keeps an account of every message."""
MOST_CONNECTIONS = 10_000


def require(role: Role, *names: str) -> None:
    """Raise InvalidInput if one of these services does not fill the role."""
    known = [name for name, kind in services.known().items() if kind.role is role]
    if others := [name for name in names if name not in known]:
        needed, found = f"a service that fills the role {role}", ", ".join(map(repr, others))
        raise InvalidInput(needed, found, f"choose from {', '.join(known)}")


class RelayLoad(Strict):
    """A relay and its load."""

    domains: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] = 2560
    """Number of domains that receive mail, each with an address of its own."""
    domain_names: Annotated[
        Annotated[list[Domain], Field(min_length=1)] | None, FromDisk(user_files.read_lines, "FILE")
    ] = None
    """Names of the domains under .test, one a line; unset: the recipients' domains, else d0.test, d1.test, ..."""
    recipients: Annotated[Recipients | None, FromDisk(user_files.read_lines, "FILE")] = None
    """Recipients, one a line: local parts (in every domain) or full addresses; unset: user."""
    families: Families = Families.BOTH
    """IP versions of mail and DNS: v4, v6 or both; v4 needs no IPv6 on the host."""
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Messages a second, open-loop; unset: as fast as the relay accepts them."""
    size: Annotated[int, Field(ge=64, le=50 * 1024 * 1024)] = 2048
    """Bytes in the body of a message."""
    connections: Annotated[int, Field(ge=1, le=MOST_CONNECTIONS)] | None = None
    """Maximum number of open connections of the load generator; unset: found by short loads (at a rate: up to 640,
    opened on demand)."""
    probe: Annotated[float, Field(ge=1, le=60)] = 3.0
    """Duration of each short load that helps to find the number of connections, in seconds."""
    calibration: Annotated[float, Field(ge=1, le=600)] = 4.0
    """Duration of each of the two loads straight to the sink before the run, in seconds."""
    drain: Annotated[float, Field(ge=1, le=86_400)] = 1800.0
    """Seconds that the relay may take to empty its queue after each load."""
    per_connection: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Messages sent over one connection."""
    relay: str = "postfix"
    """The service under test."""
    relay_release: Release = "bookworm"
    """Debian release of the relay."""
    relay_files: Annotated[Files | None, FromDisk(user_files.read_tree, "FOLDER")] = None
    """Your own files for the relay, as a tree copied over its /: etc/postfix/main.cf, ..."""

    @model_validator(mode="before")
    @classmethod
    def _named_domains(cls, given: Any) -> Any:
        """Derive the domains, and their number if unset, from ``domain_names`` or the recipients' addresses."""
        if not isinstance(given, dict):
            return given
        names, recipients = given.get("domain_names"), given.get("recipients")
        if names is None and isinstance(recipients, list):
            domains = dict.fromkeys(address.partition("@")[2] for address in recipients if isinstance(address, str))
            names = [name for name in domains if name] or None
        return {"domains": len(names), **given, "domain_names": names} if names and isinstance(names, list) else given

    @model_validator(mode="after")
    def _as_many_as_named(self) -> Self:
        if self.domain_names is not None and len(self.domain_names) != self.domains:
            raise ValueError(
                f"domains: {self.domains}, but {len(self.domain_names)} named by domain_names or recipients: "
                "leave domains out"
            )
        return self

    def bed(self, seconds: float, *, load: str = OURS, cpus: float | None = None) -> Bed:
        """Return the built-in relay bed with the chosen relay; ``cpus``: the relay's CPU limit, in cores.

        ``seconds``, ``load``: time and generator of the measured load. Raises InvalidInput if the chosen service is no
        relay, or the generator cannot send this load.
        """
        self._check(self.order(seconds, self.connections or 1), load)
        require(Role.RELAY, self.relay)
        base = builtin.bed("relay")
        limits = base.nodes["relay"].limits.model_copy(update={"cpus": cpus})
        files, release = self.relay_files or {}, self.relay_release
        addresses = services.service(self.relay).addresses(files, self.families)
        relay = NodeSpec(service=self.relay, release=release, addresses=addresses, limits=limits, files=files)
        ours = NodeSpec(service=OURS, settings={"recipients": self.recipients} if self.recipients else {})
        nodes = {**base.nodes, "relay": relay, "load": ours}
        domains = self.domain_names or self.domains
        return base.model_copy(update={"domains": domains, "families": self.families, "nodes": nodes})

    @staticmethod
    def _check(order: LoadOrder, generator: str) -> None:
        """Raise InvalidInput if the generator cannot send this load; the order gets run, target and sender later."""
        full = replace(order, run="0" * 8, target="192.0.2.1", domains=["d0.test"])
        kind = services.service(generator)
        if isinstance(kind, services.GeneratesLoad):
            kind.command(full)
        try:
            check(full)
        except BadOrder as error:
            raise InvalidInput(f"a load that {generator} can send", str(error), "change the parameter") from error

    def order(self, seconds: float, connections: int) -> LoadOrder:
        """Return the order for the load generator."""
        return LoadOrder(
            seconds=seconds,
            rate=self.rate,
            connections=connections,
            per_connection=self.per_connection,
            sizes=[self.size],
        )
