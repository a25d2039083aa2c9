"""Services, one file each, discovered: a new kind of server is a new file with a ``SERVICE`` in it.

A service says which role it fills and which image it needs, and renders a node: files, command, limits. It knows
nothing of engines. ``known()`` finds them all; the contract tests run over whatever is there.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from hdrh.histogram import HdrHistogram

from orchestrator.agents.contract import TICK_S, LoadOrder, LoadReport
from orchestrator.bed.addressing import Delivery
from orchestrator.bed.model import Bed, Families, Strict
from orchestrator.errors import InvalidInput

S = TypeVar("S", bound=Strict)


class Role(StrEnum):
    """What a scenario asks for."""

    DNS = "dns"
    RELAY = "relay"
    SINK = "sink"
    LOAD = "load"


class Purpose(StrEnum):
    """Why a load is sent."""

    MEASURE = "measure"
    """The question of the run is asked with it."""
    CALIBRATE = "calibrate"
    """It shows what the instrument carries without a relay."""
    PROBE = "probe"
    """It shows whether a number of connections is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site(Generic[S]):
    """What a service knows when it renders one node: itself, and the bed around it."""

    node: str
    release: str
    settings: S
    v4: IPv4Address
    """Its service address."""
    v6: IPv6Address
    addresses: tuple[IPv4Address, ...]
    """All its real addresses, the service address first; each has an IPv6 twin."""
    lab: IPv4Network
    lab6: IPv6Network
    block: IPv4Network | None
    """The prefix that it answers on as a whole, when it takes the bed's mail."""
    nodes: Mapping[str, IPv4Address]
    """The service address of every node of the bed, by name."""
    dns: IPv4Address | None
    """The bed's DNS server."""
    families: Families
    """What mail and DNS of the bed go over; published ports lead to ``v4`` in any case."""
    deliveries: tuple[Delivery, ...]
    """Every domain of the bed."""
    workers: int
    """CPUs that the node may use: what a daemon takes for its number of threads."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The user's own files for the node: absolute path -> text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A setting in a user's own file that the bed overrides."""

    setting: str
    """Its name, with the file or entry that it stands in."""
    old: str | None
    """``None``: it was not set."""
    new: str | None
    """``None``: it is left out."""
    reason: str

    def __str__(self) -> str:
        old, new = ("unset" if value is None else value or "empty" for value in (self.old, self.new))
        return f"{self.setting}: {old} -> {new} ({self.reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One node, rendered: what to put where, how to start it, and what it will need of the host."""

    command: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Absolute path -> content."""
    taken: frozenset[str] = frozenset()
    """Those of the user's own files that have gone into ``files``, or are left out; the others are laid beside."""
    changes: tuple[Change, ...] = ()
    """What had to be changed in the user's own files and settings."""
    detours: tuple[str, ...] = ()
    """Settings of the user that can lead mail another way than to the MX of its domain: ``name = value``."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    publish: tuple[str, ...] = ()
    """Ports of the service address that the host may reach on its 127.0.0.1: ``25/tcp``."""
    fds: int = 64
    """File descriptors of its busiest process, at most."""
    fd_limit: int | None = None
    """File descriptors that its daemon refuses to go beyond, whatever the host allows."""
    memory_mb: int = 64
    """Memory it is expected to use, in MiB."""
    peers: int = 1
    """Addresses that it talks to directly on the link: entries in the kernel's neighbour table, per family."""
    enumerates6: bool = False
    """Its daemon looks for each of its IPv6 addresses on the node's interfaces, and listens on it."""


class Service(Protocol[S]):
    """One kind of server."""

    name: str
    role: Role
    image: str
    """The folder under images/ that makes its image."""
    settings: type[S]
    """What a bed file may say of it."""
    capabilities: tuple[str, ...]
    """What the daemon itself needs (capabilities(7), without ``CAP_``)."""
    takes_mail: bool
    """It answers on the delivery address of every domain (AnyIP)."""
    ready: re.Pattern[str]
    """A log line that says it serves."""

    def render(self, site: Site[S]) -> Rendered:
        """Render one node of this kind."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """How a relay is asked how much mail it still holds."""

    command: tuple[str, ...]
    length: Callable[[str], int]
    """From what the command prints."""
    flush: tuple[str, ...] | None = None
    """The command that has it try every queued message now; ``None``: it has none."""


@runtime_checkable
class HoldsMail(Protocol):
    """What a service adds that may hold mail back: a relay."""

    queue: Queue


@runtime_checkable
class GeneratesLoad(Protocol):
    """Added by a load generator: a node that waits, and sends what it is ordered."""

    burst_s: float
    """Period of its bursts, in seconds: it hands out its work at multiples of it. A rate is one over whole periods."""
    numbers: bool
    """It numbers its messages, so that each is accounted for; it also sends straight to the address of each domain."""

    def command(self, order: LoadOrder) -> tuple[str, ...]:
        """Return the command that sends a load.

        Raises:
            InvalidInput: it cannot send this one.
        """
        ...

    def read(
        self, printed: Iterable[str], order: LoadOrder, tick: Callable[[dict[str, Any]], None]
    ) -> LoadReport | None:
        """Read what the command prints, as it comes; ``tick`` takes each reading, ``None``: it printed no report."""
        ...


@runtime_checkable
class LimitsItself(Protocol):
    """Added by a load generator with a limit of its own, however fast the server is."""

    most_per_minute: float
    """Messages a minute."""


@runtime_checkable
class AdaptsRelay(Protocol):
    """Added by a sink that needs settings of the relay."""

    relays: Mapping[str, Mapping[str, Any]]
    """Relay service -> its settings in a bed with this sink."""


@runtime_checkable
class OpensFiles(Protocol):
    """Added by a server whose open files follow from its settings."""

    def open_files(self, addresses: int, workers: int, release: str) -> int:
        """Return the open files of an idle server; ``addresses``: of both families."""
        ...

    def most_files(self, release: str, max_sockets: int | None = None) -> int | None:
        """Return the daemon's own limit; ``None``: it has none. ``max_sockets``: as set for the node."""
        ...


@runtime_checkable
class Counts(Protocol):
    """What a sink adds that accounts for each message, and for those of other generators by their number."""

    control: tuple[str, ...]
    """The command that asks it (``agents.control``); the words of the request follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Lines of a relay's log that report the same trouble."""

    reason: str
    """Without what differs between them: hosts, addresses, queue ids, numbers."""
    count: int
    example: str
    """The first line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLog:
    """What a relay's own log says of the mail that went through it."""

    hops: Mapping[str, HdrHistogram]
    """Name of the hop -> durations in microseconds, one for each delivery attempt, in the order of the hops."""
    statuses: Mapping[str, int]
    """Delivery attempts by outcome, in the relay's own word: ``sent``, ``deferred``, ``SOFTBOUNCE``, ..."""
    queue: Sequence[tuple[float, int]]
    """Messages in the queue, at the end of every second in which that changed (Unix time)."""
    troubles: Sequence[Trouble]
    """What went wrong, by reason, the most frequent first."""


@runtime_checkable
class ReadsLog(Protocol):
    """What a relay adds whose log tells of every delivery."""

    def read_log(self, lines: Iterable[tuple[float, str]]) -> RelayLog:
        """Read a log: Unix time and text of each line."""
        ...


@runtime_checkable
class Verifies(Protocol):
    """What a service adds that can check its rendered files without being started."""

    def verify(self, files: Mapping[str, bytes]) -> None:
        """Check the files of one node.

        Raises:
            InvalidInput: what is wrong with them.
        """
        ...


@runtime_checkable
class TellsVersion(Protocol):
    """What a service adds whose daemon has a version of its own."""

    version: tuple[str, ...]
    """The command that prints it, first of all."""


def require_v4(site: Site[Any], program: str) -> None:
    """Refuse a bed without IPv4 for a program that knows no other family.

    Raises:
        InvalidInput: the bed has IPv6 only.
    """
    if not site.families.has_v4:
        raise InvalidInput(
            f"IPv4 for node {site.node}: {program} knows no IPv6",
            "families: v6",
            "take `families: both` or `v4`, or another service",
        )


@cache
def known() -> dict[str, Service[Any]]:
    """Return every service, by name."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    found: list[Service[Any]] = [m.SERVICE for m in modules if hasattr(m, "SERVICE")]
    return {service.name: service for service in sorted(found, key=lambda s: s.name)}


def service(name: str) -> Service[Any]:
    """Return one service.

    Raises:
        InvalidInput: there is none of this name.
    """
    try:
        return known()[name]
    except KeyError:
        raise InvalidInput("the name of a service", repr(name), f"choose one of {', '.join(known())}") from None


def burst_s(name: str) -> float:
    """Return the period of a load generator's bursts in seconds; that of the readings for a steady or unknown one."""
    found = known().get(name)
    return found.burst_s if isinstance(found, GeneratesLoad) else TICK_S


def most_per_minute(name: str) -> float | None:
    """Return a load generator's own limit in messages a minute; ``None``: it has none."""
    found = known().get(name)
    return found.most_per_minute if isinstance(found, LimitsItself) else None


def relay_settings(relay: str, sink: str) -> Mapping[str, Any]:
    """Return the settings of a relay service in a bed with this sink service."""
    found = known().get(sink)
    return found.relays.get(relay, {}) if isinstance(found, AdaptsRelay) else {}


def files_of(name: str) -> OpensFiles:
    """Return a service whose open files are predictable.

    Raises:
        InvalidInput: there is none of this name.
    """
    found = service(name)
    if isinstance(found, OpensFiles):
        return found
    raise InvalidInput("a service whose open files are predictable", repr(name), "choose another one")


def queue_of(name: str) -> Queue | None:
    """Return how to ask a service for the length of its queue; ``None`` when it has none."""
    found = service(name)
    return found.queue if isinstance(found, HoldsMail) else None


def verify(name: str, files: Mapping[str, bytes]) -> None:
    """Have a service check the files of one of its nodes, if it can.

    Raises:
        InvalidInput: what is wrong with them.
    """
    found = service(name)
    if isinstance(found, Verifies):
        found.verify(files)


def version_command(name: str) -> tuple[str, ...] | None:
    """Return the command that prints the version of a service's daemon; ``None`` when it has none of its own."""
    found = service(name)
    return found.version if isinstance(found, TellsVersion) else None


def read_log(name: str, lines: Iterable[tuple[float, str]]) -> RelayLog | None:
    """Have a service read its log; ``None`` when it cannot."""
    found = service(name)
    return found.read_log(lines) if isinstance(found, ReadsLog) else None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a bed file, the settings of every service included."""
    whole = Bed.model_json_schema()
    node = whole["$defs"]["Node"]
    node["properties"]["service"]["enum"] = list(known())
    node["allOf"] = [
        {
            "if": {"properties": {"service": {"const": name}}},
            "then": {"properties": {"settings": kind.settings.model_json_schema()}},
        }
        for name, kind in known().items()
    ]
    return whole
