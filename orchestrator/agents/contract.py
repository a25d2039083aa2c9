"""Messages between the orchestrator and the agents in their containers: plain data, as JSON.

Times called ``t`` are Unix time in seconds (CLOCK_REALTIME); all containers of a bed share the kernel's clocks.
Durations are measured with CLOCK_MONOTONIC. A histogram travels as text: base64 of the HdrHistogram V2 compressed
encoding, in microseconds, from 1 us to 1 h at three significant digits. A set of sequence numbers travels as base64 of
a zlib-compressed bitmap: bit ``n % 8`` of byte ``n // 8`` is number n.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pydantic import TypeAdapter

TICK_S = 1.0
"""Interval, in seconds, of ticks: messages with the counters of load generator and sink."""


class Message:
    """A dataclass that travels as a JSON object."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``; unknown keys are ignored, because a report of another version may have more keys.

        Raises:
            ValueError: ``data`` is not an object, a key is missing, or a value has the wrong type for its field.
        """
        reader = _reader(cls)  # type: ignore[arg-type]  # mypy takes a class for unhashable
        message: Self = reader.validate_json(json.dumps(data), strict=True)
        return message


@cache
def _reader(kind: type[Message]) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # noqa: PLC0415 - only the orchestrator reads messages: the agents start without it

    return TypeAdapter(kind)


class Order(Message):
    """A message that an agent carries out."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``; an unknown key is a TypeError, because no part of an order may be ignored."""
        return cls(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOrder(Order):
    """One load: its messages, target and rate."""

    run: str = ""
    """Eight hex digits that every message of this load carries."""
    target: str = ""
    """Address of a relay, or prefix of a sink (``198.18.16.0/20``): its i-th address takes mail of ``domains[i]``."""
    port: int = 25
    domains: list[str] = field(default_factory=list)
    """Message ``seq`` goes to domain ``order.domain_of(seq)``: first one message to each domain, then the domains
    take turns. If the target is a prefix, a connection serves one domain, and a turn is ``per_connection`` messages."""
    recipients: list[str] = field(default_factory=lambda: ["user"])
    """Local parts valid in every domain, or full addresses; the addresses of a domain take turns."""
    sender: str = "load@d0.test"
    rate: float | None = None
    """Messages a second, open-loop: message n is due at n / rate. ``None``: as fast as the server accepts messages."""
    seconds: float | None = None
    """No new message is offered after this many seconds."""
    messages: int | None = None
    """Maximum number of messages; at least one of ``seconds`` and ``messages`` is required."""
    connections: int = 20
    """Maximum number of concurrent connections."""
    per_connection: int = 10
    """Maximum number of messages over one connection; after them, the generator sends QUIT."""
    sizes: list[int] = field(default_factory=lambda: [2048])
    """Body sizes in bytes; message ``seq`` has ``sizes[seq % len(sizes)]``."""
    timeout: float = 60.0
    """Time limit of one SMTP reply, in seconds; after that, the connection is closed."""
    stall_at: float | None = None
    """For tests: the generator's process pauses this many seconds after the start of the load."""
    stall_for: float = 0.0
    """Duration of the pause ``stall_at``, in seconds."""

    @property
    def block(self) -> int:
        """Number of consecutive messages to one domain, once each domain has had its first message."""
        return self.per_connection if "/" in self.target else 1

    def domain_of(self, seq: int) -> int:
        """Return the index of the domain that message ``seq`` goes to."""
        first_round = len(self.domains)
        return seq if seq < first_round else (seq - first_round) // self.block % first_round


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTick(Message):
    """The load generator's state, about once a second; counters are totals since the start of the load."""

    t: float
    offered: int
    """Messages that have come due."""
    sent: int
    """Messages whose command MAIL was written."""
    accepted: int
    failed: int
    connections: int
    """Connections that are open now."""
    behind_s: float
    """Delay, in seconds, of the newest message: its start minus its due time (0 if ``rate`` is None)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedLine(Message):
    """A line of a load generator's output, and how often it was printed."""

    t: float
    """Unix time when the line was first printed."""
    text: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport(Message):
    """Result of a load; a field is ``None`` if the generator does not report it."""

    run: str
    started: float
    """Unix time of the first due message."""
    ended: float
    """Unix time of the last reply."""
    offered: int | None = None
    accepted: int | None = None
    """Messages whose data got the reply 250."""
    domains: int | None = None
    """Distinct domains that the accepted messages went to."""
    failed: dict[str, int] = field(default_factory=dict)
    """Messages not accepted, by cause: ``451 4.3.0``, ``timeout``, ``ConnectionResetError``, ..."""
    unresolved: int = 0
    """Failed messages whose data got no reply; the server may deliver these messages."""
    connections: int | None = None
    """Connections with a greeting and a reply to EHLO."""
    connect_failed: dict[str, int] = field(default_factory=dict)
    """Connections that got no greeting or no reply to EHLO, by cause: ``no greeting``, ``421 4.3.2``, ... Their
    messages wait for another connection, or fail if the target is a prefix."""
    goodbye_failed: dict[str, int] = field(default_factory=dict)
    """Connections that carried mail but had no orderly end, by cause: ``no reply to QUIT`` within 2 s, or ``QUIT not
    waited for``, once the server has left several earlier QUITs unanswered."""
    late: int | None = None
    """Messages that started more than 10 ms after their due time (open-loop only)."""
    cpu_s: float
    """CPU time of the generator's process during the load, user and system."""
    stalled_s: float | None = None
    """Longest pause of the generator's event loop, in seconds."""
    response: str | None = None
    """Histogram of accepted messages: time from the due time to the reply to the data."""
    service: str | None = None
    """Histogram of accepted messages: time from writing MAIL to the reply to the data."""
    connect: str | None = None
    """Histogram: time from connect() to the reply to EHLO."""
    accepted_set: str | None = None
    """Set of the accepted sequence numbers."""
    unresolved_set: str | None = None
    exit_status: int = 0
    """Exit status of the generator; 128 + N if signal N ended it (139: SIGSEGV)."""
    cut_off: bool = False
    """Whether the generator was stopped because its time limit was over."""
    printed: list[PrintedLine] = field(default_factory=list)
    """Output of a third-party generator: the first 50 distinct lines."""
    arrived: int | None = None
    """Messages without a sequence number that had arrived at the sink when the generator ended."""
    purpose: str = "measure"
    """Purpose of the load: a ``services.Purpose``."""
    generator: str = ""
    """The service that sent the load."""
    node: str = ""
    """The node that sent the load."""
    connections_limit: int | None = None
    """Maximum number of concurrent connections (``LoadOrder.connections``)."""
    to: str = ""
    """Role of the node that received the load."""

    @property
    def numbered(self) -> bool:
        """Whether the load's messages have sequence numbers, so that each is accounted for."""
        return self.accepted_set is not None

    @property
    def seconds(self) -> float:
        """Seconds from the first due message to the last reply."""
        return self.ended - self.started


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkTick(Message):
    """Counters of one run, sent about once a second while mail arrives; totals since the run began."""

    run: str
    t: float
    delivered: int
    duplicated: int
    corrupted: int
    foreign: int
    """As ``SinkReport.foreign``."""
    bytes: int
    connections: int
    """Open connections of the whole sink."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkReport(Message):
    """The sink's account of one run."""

    run: str
    delivered: int
    """Distinct sequence numbers that arrived intact."""
    duplicated: int
    """Arrived copies of messages, beyond the first copy of each message."""
    corrupted: int
    """Messages of this run with a changed body; ``delivered`` does not count them."""
    misrouted: int
    """Messages that arrived at the address of another domain than the recipient's; ``delivered`` counts them, too."""
    outside: int = 0
    """Messages that arrived at an address outside the prefix of the domains, such as the sink's published port. These
    messages count in ``delivered``, but not in ``misrouted`` or ``domains``."""
    foreign: int
    """Messages without the stamp of an announced run (bounces, mail of an older bed), since this run began."""
    bytes: int
    """Octets of message content, with headers, of all copies."""
    connections: int
    """Connections accepted by the sink since the run began."""
    broken: int = 0
    """Connections that a rule closed or reset (``rules``)."""
    domains: int
    """Distinct recipient domains of the run's mail, messages ``outside`` left out."""
    first: float | None
    """Unix time of the first and last message of the run."""
    last: float | None
    cpu_s: float
    """CPU time of the sink's process since the run began."""
    memory_b: int
    """Peak resident set of the sink's process, in bytes."""
    transit: str
    """Histogram: time from the generator's MAIL to the end of the data at the sink."""
    age: str
    """Histogram: time from the message's due time to the end of the data at the sink."""
    delivered_set: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings(Order):
    """Behaviour of the sink towards its clients; ``services.blackhole.Settings`` has the bounds of each value."""

    data_delay_ms: float = 0.0
    """Delay, in ms, between the end of the data and its reply."""
    max_size: int = 50 * 1024 * 1024
    """SIZE announced in EHLO (RFC 1870), in octets."""
