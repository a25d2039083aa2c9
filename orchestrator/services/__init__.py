"""Services: one module for each kind of server; the module defines ``SERVICE``.

A service declares its role and image, and renders a node: files, command, limits. No service imports the engine.
``known()`` finds all services; the contract tests check each service.
"""

import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from hdrh.histogram import HdrHistogram

from orchestrator.agents.contract import TICK_S, LoadOrder, LoadReport
from orchestrator.bed.addressing import Delivery
from orchestrator.bed.model import Bed, Families, Strict
from orchestrator.errors import InvalidInput

S = TypeVar("S", bound=Strict)


class Role(StrEnum):
    """Function of a node in a bed."""

    GATE = "gate"
    """Stands before the DNS server; other nodes query the gate, not the server."""
    DNS = "dns"
    RELAY = "relay"
    SINK = "sink"
    LOAD = "load"


class Purpose(StrEnum):
    """Purpose of a load."""

    MEASURE = "measure"
    """The load whose figures are the result of the run."""
    CALIBRATE = "calibrate"
    """A load without a relay, to measure the throughput of generator and sink."""
    PROBE = "probe"
    """A short load, to find out whether a number of connections is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site(Generic[S]):
    """Input of ``Service.render``: one node and its bed."""

    node: str
    release: str
    settings: S
    v4: IPv4Address
    """The node's service address."""
    v6: IPv6Address
    addresses: tuple[IPv4Address, ...]
    """Addresses of the node, without ``block``; the service address is first. Each has a corresponding IPv6 address."""
    lab: IPv4Network
    lab6: IPv6Network
    block: IPv4Network | None
    """Prefix of the delivery addresses, if the node accepts the bed's mail; the node answers on all these addresses."""
    nodes: Mapping[str, IPv4Address]
    """The service address of every node of the bed, by name."""
    first: Mapping[Role, IPv4Address]
    """The service address of the first node of each role."""
    relays: Mapping[str, IPv4Address]
    """The service address of every relay of the bed, by name."""
    families: Families
    """Address families of mail and DNS; published ports always lead to ``v4``."""
    deliveries: tuple[Delivery, ...]
    """Every domain of the bed, with its delivery addresses."""
    records: Mapping[str, Mapping[str, Sequence[str]]]
    """Further DNS records of the bed: owner -> type -> data."""
    zones: Mapping[str, str]
    """The user's own zones: name -> text."""
    workers: int
    """Number of CPUs that the node may use; by default, a daemon starts one thread for each CPU."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The user's own files for the node: absolute path -> text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A setting in a user's own file that the bed overrides."""

    setting: str
    """Name of the setting, with the file or the entry in front."""
    old: str | None
    """The user's value; ``None`` if not set."""
    new: str | None
    """The bed's value; ``None`` if the bed leaves the setting out."""
    reason: str

    def __str__(self) -> str:
        old, new = ("unset" if value is None else value or "empty" for value in (self.old, self.new))
        return f"{self.setting}: {old} -> {new} ({self.reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A rendered node: its files, its command, and its needs of the host."""

    command: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Absolute path -> content."""
    taken: frozenset[str] = frozenset()
    """Paths of user files that ``files`` includes or leaves out; the node gets all other user files unchanged."""
    changes: tuple[Override, ...] = ()
    """Changes to the user's own files and settings."""
    detours: tuple[str, ...] = ()
    """The user's settings that can route mail to another host than its domain's MX: ``name = value``."""
    publish: tuple[str, ...] = ()
    """Ports of the service address that can be published on the host's 127.0.0.1, such as ``25/tcp``."""
    fds: int = 64
    """Maximum number of file descriptors that the node's busiest process needs."""
    fd_limit: int | None = None
    """The daemon's own limit of file descriptors, whatever the host's limit is; ``None``: no such limit."""
    memory_mb: int = 64
    """Expected memory, in MiB."""
    enumerates6: bool = False
    """Whether the daemon listens on each IPv6 address that it finds on the node's interfaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A message in a relay's queue."""

    id: str
    sender: str
    """Envelope sender; empty: a notification."""
    recipients: Mapping[str, str]
    """Remaining recipient -> reason of the last failed attempt; empty before the first attempt."""
    state: str
    """``deferred``: waits for the next attempt; ``hold``: waits for the administrator; any other state: on its way."""

    @property
    def on_its_way(self) -> bool:
        """Whether the message waits neither for its next attempt nor for the administrator."""
        return self.state not in {"deferred", "hold"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Commands that list a relay's queue."""

    command: tuple[str, ...]
    """Command that lists the queue, including each message that moves meanwhile."""
    read: Callable[[str], Sequence[Queued]]
    """Converts the output of ``command``. A message that moved meanwhile may have no sender and no recipients."""
    head: Callable[[str], tuple[str, ...]]
    """Id of a message -> command that prints the header section; it fails if the message has left the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Commands that read and flush a relay's queue."""

    command: tuple[str, ...]
    length: Callable[[str], int]
    """Converts the output of ``command`` to the number of messages."""
    flush: tuple[str, ...] | None = None
    """Command that retries every queued message now; ``None``: the relay has no such command."""
    listing: Listing | None = None
    """Commands that list the queue; ``None``: the relay has no such commands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One kind of trouble, and the lines of a relay's log that report it."""

    reason: str
    """The lines' common text, with placeholders for hosts, addresses, queue ids and numbers."""
    count: int
    example: str
    """The first of these lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLog:
    """Figures from a relay's log."""

    hops: Mapping[str, HdrHistogram]
    """Name of a hop -> durations in microseconds, one for each delivery attempt. Hops are in the order of the path."""
    statuses: Mapping[str, int]
    """Outcome in the relay's own words (``sent``, ``deferred``, ``SOFTBOUNCE``, ...) -> number of delivery attempts."""
    queue: Sequence[tuple[float, int]]
    """Unix time and queue length at the end of each second in which the length changed."""
    troubles: Sequence[Trouble]
    """One trouble for each reason, the most frequent first."""


class Service(ABC, Generic[S]):
    """One kind of server; a subclass overrides the defaults that do not fit its server."""

    name: str
    role: Role
    image: str
    """Name of the folder in images/ from which the image is built."""
    settings: type[S]
    """Model of the node's ``settings`` in a bed file."""
    ready: re.Pattern[str]
    """Pattern of the log line that the daemon prints once it serves."""
    capabilities: tuple[str, ...] = ()
    """Capabilities of the daemon (capabilities(7), without ``CAP_``)."""
    takes_mail: bool = False
    """Whether the node answers on the delivery address of every domain (AnyIP)."""
    version: tuple[str, ...] = ()
    """Command that prints the daemon's version first; empty: there is no such command."""
    queue: Queue | None = None
    """The mail queue of a relay."""
    restart: tuple[str, ...] = ()
    """Command that restarts the daemon in its container, and waits until the daemon serves; empty: no such command."""
    control: tuple[str, ...] = ()
    """Start of a command; the words of a request follow (``agents.control``). A sink with such a command accounts for
    each message, and counts messages without a sequence number."""
    relays: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """Only for a sink: name of a relay service -> settings that this relay needs in a bed with the sink."""

    @abstractmethod
    def render(self, site: Site[S]) -> Rendered:
        """Render one node of this kind."""

    def addresses(self, files: Mapping[str, str], families: Families) -> int:  # noqa: ARG002
        """Return the number of addresses that the user's own files require of a node."""
        return 1

    def verify(self, files: Mapping[str, bytes]) -> None:
        """Check the files of a node without starting the daemon; raises InvalidInput if a file is invalid."""

    def read_log(self, lines: Iterable[tuple[float, str]]) -> RelayLog | None:  # noqa: ARG002
        """Read a relay's log (Unix time and text of each line); ``None``: the log does not record every delivery."""
        return None


class GeneratesLoad(Service[S]):
    """A load generator. Its node waits for orders, and sends one load for each order."""

    role = Role.LOAD
    # The shell reaps orphans of an exec. Its trap ends the shell at once on SIGTERM.
    wait = ("sh", "-c", "trap 'exit 0' TERM; echo waiting for orders; sleep infinity & wait")
    """Start command of the generator's container; it only waits, and each load is an exec."""
    ready = re.compile(r"^waiting for orders$")
    burst_s: float = TICK_S
    """Period of the bursts, in seconds. They start at its multiples in Unix time. Rates are means of whole periods."""
    numbers: bool = False
    """Whether messages are numbered. A numbered message is accounted for, and can go straight to a domain's address."""
    most_per_minute: float | None = None
    """The generator's own limit, in messages a minute, at any speed of the server; ``None``: no such limit."""

    @abstractmethod
    def command(self, order: LoadOrder) -> tuple[str, ...]:
        """Return the command that sends a load; raises InvalidInput if the generator cannot send this load."""

    @abstractmethod
    def read(
        self, printed: Iterable[str], order: LoadOrder, tick: Callable[[dict[str, Any]], None]
    ) -> LoadReport | None:
        """Read the command's output as a stream; call ``tick`` with each tick. ``None``: the output has no report."""


class OpensFiles(Protocol):
    """A server whose number of open files follows from its settings."""

    def open_files(self, addresses: int, workers: int, release: str) -> int:
        """Return an idle server's number of open files; ``addresses``: number of listening addresses, both families."""
        ...

    def most_files(self, release: str, max_sockets: int | None = None) -> int | None:
        """Return the daemon's own limit of open files, or ``None``; ``max_sockets``: the setting of the node."""
        ...


@runtime_checkable
class TakesUpdates(Protocol):
    """A DNS server whose records can be changed while it runs."""

    def update(self, plan: Mapping[str, bytes], address: str, lines: Sequence[str]) -> tuple[str, ...] | None:
        """Return the command that sends these changes (lines of nsupdate(1)) to the server at this address.

        ``plan``: the files of the server's node. ``None``: this node accepts no changes.
        """
        ...


def require_v4(site: Site[Any], program: str) -> None:
    """Raise InvalidInput if the bed has no IPv4. To be called for a program without IPv6."""
    if not site.families.has_v4:
        raise InvalidInput(
            f"IPv4 for node {site.node}: {program} has no IPv6",
            "families: v6",
            "take `families: both` or `v4`, or another service",
        )


@cache
def known() -> dict[str, Service[Any]]:
    """Return every service, by name."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    kinds: list[Service[Any]] = [m.SERVICE for m in modules if hasattr(m, "SERVICE")]
    return {service.name: service for service in sorted(kinds, key=lambda s: s.name)}


def service(name: str) -> Service[Any]:
    """Return a service; raises InvalidInput if none has this name."""
    try:
        return known()[name]
    except KeyError:
        raise InvalidInput("the name of a service", repr(name), f"choose one of {', '.join(known())}") from None


def burst_s(name: str) -> float:
    """Return the period of a load generator's bursts in seconds; ``TICK_S`` for other or unknown services."""
    kind = known().get(name)
    return kind.burst_s if isinstance(kind, GeneratesLoad) else TICK_S


def most_per_minute(name: str) -> float | None:
    """Return a load generator's own limit in messages a minute; ``None`` for other or unknown services."""
    kind = known().get(name)
    return kind.most_per_minute if isinstance(kind, GeneratesLoad) else None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a bed file, with the settings of every service."""
    whole = Bed.model_json_schema()
    node = whole["$defs"]["NodeSpec"]
    node["properties"]["service"]["enum"] = list(known())
    node["allOf"] = [
        {
            "if": {"properties": {"service": {"const": name}}},
            "then": {"properties": {"settings": kind.settings.model_json_schema()}},
        }
        for name, kind in known().items()
    ]
    return whole
