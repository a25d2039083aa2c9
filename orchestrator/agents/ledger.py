"""Ledger of the sink: one bit for each message of a run that has arrived.

Two bits for each message in all (delivered; and at the generator accepted, unresolved), two histograms and a handful
of counters: memory does not grow with the size of mail, and by 125 kB with a million messages.
"""

import re
import resource
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Network
from socket import AF_INET6, inet_aton, inet_pton

from orchestrator.agents.content import Content
from orchestrator.agents.contract import SinkReport, SinkTick
from orchestrator.agents.histogram import Histogram
from orchestrator.agents.wire import MAX_SEQ, Stamp

OUTSIDE = -2
"""In place of a domain's index: the address is no domain's (a published port, the sink's own address)."""
_STEP = 4096
"""A bitmap grows by at least so many octets: 32,768 messages."""


class SequenceSet:
    """A set of sequence numbers below 2^27, as a bitmap."""

    __slots__ = ("_bits", "_count")

    def __init__(self) -> None:
        self._bits = bytearray()
        self._count = 0

    def add(self, number: int) -> bool:
        """Put a number in; False when it was there."""
        octet = number >> 3
        bit = 1 << (number & 7)
        if octet >= len(self._bits):
            self._bits.extend(bytes(octet - len(self._bits) + _STEP))
        old = self._bits[octet]
        if old & bit:
            return False
        self._bits[octet] = old | bit
        self._count += 1
        return True

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        return number >> 3 < len(self._bits) and bool(self._bits[number >> 3] & 1 << (number & 7))

    def __iter__(self) -> Iterator[int]:
        return (8 * i + bit for i, octet in enumerate(self._bits) if octet for bit in range(8) if octet & 1 << bit)

    def encode(self) -> str:
        """Return the text that travels: base64 of the compressed bitmap, with no zeros at its end."""
        return b64encode(zlib.compress(self._bits.rstrip(b"\0"))).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> "SequenceSet":
        """Rebuild from ``encode``.

        Raises:
            ValueError: the text is no set of sequence numbers.
        """
        made = cls()
        try:
            reader = zlib.decompressobj()
            made._bits = bytearray(reader.decompress(b64decode(text, validate=True), MAX_SEQ // 8))
        except zlib.error as error:
            raise ValueError(f"no set of sequence numbers: {error}") from error
        if not reader.eof:
            raise ValueError(f"no set of sequence numbers below {MAX_SEQ}: too long, or cut off")
        made._count = int.from_bytes(made._bits, "little").bit_count()
        return made


class Ledger:
    """What arrived of one run."""

    __slots__ = (
        "_accepted", "_age", "_broken", "_corrupted", "_cpu_s", "_delivered", "_domains", "_duplicated", "_expected",
        "_first", "_foreign", "_last", "_misrouted", "_octets", "_outside", "_run", "_then", "_told", "_transit",
    )  # fmt: skip

    def __init__(self, run: str, foreign: int, accepted: int, broken: int) -> None:
        self._run = run
        self._foreign = foreign
        self._accepted = accepted
        self._broken = broken
        self._cpu_s = time.process_time()
        self._delivered = SequenceSet()
        self._domains = SequenceSet()
        self._duplicated = self._corrupted = self._misrouted = self._outside = self._octets = 0
        self._first = self._last = 0
        self._told: tuple[int, ...] = ()
        self._expected: int | None = None
        self._transit = Histogram()
        self._age = Histogram()

    def enter(self, content: Content, stamp: Stamp, recipients: Iterable[int], dialled: int | None) -> None:
        """Account for one message.

        Args:
            content: the message, read to its end.
            stamp: its stamp.
            recipients: indices of the domains it is for; -1 is a domain that the bed does not have.
            dialled: index of the domain whose address it came to, or ``OUTSIDE``; ``None`` when nobody knows which
                address is whose.
        """
        now = time.monotonic_ns()
        self._first = self._first or now
        self._last = now
        self._octets += content.size
        if dialled == OUTSIDE:
            self._outside += 1
        else:
            astray = False
            for index in recipients:
                if index >= 0:
                    self._domains.add(index)
                astray |= dialled is not None and index != dialled
            self._misrouted += astray
        if stamp.seq >= MAX_SEQ or not content.whole:
            self._corrupted += 1
        elif self._delivered.add(stamp.seq):
            self._transit.record_ns(now - stamp.sent)
            self._age.record_ns(now - stamp.due)
            if self._expected is not None:
                self._look()
        else:
            self._duplicated += 1

    def expect(self, count: int, then: Callable[[], None]) -> None:
        """Call ``then`` once, as soon as this many messages have been delivered."""
        self._expected = count
        self._then = then
        self._look()

    def _look(self) -> None:
        if self._expected is not None and len(self._delivered) >= self._expected:
            self._expected = None
            self._then()

    def tick(self, foreign: int, connections: int) -> SinkTick:
        """Return the state now; ``foreign`` and ``connections`` are the sink's."""
        return SinkTick(
            run=self._run,
            t=time.time(),
            delivered=len(self._delivered),
            duplicated=self._duplicated,
            corrupted=self._corrupted,
            foreign=foreign - self._foreign,
            bytes=self._octets,
            connections=connections,
        )

    def news(self, foreign: int, connections: int) -> SinkTick | None:
        """Return the state if mail has arrived since the last call."""
        now = (self._last, foreign)
        if now == self._told or not (self._last or foreign > self._foreign):
            return None
        self._told = now
        return self.tick(foreign, connections)

    def report(self, foreign: int, accepted: int, broken: int) -> SinkReport:
        """Return everything; ``foreign``, and ``accepted`` and ``broken`` (connections), are the sink's."""
        unix = time.time() - time.monotonic()
        return SinkReport(
            run=self._run,
            delivered=len(self._delivered),
            duplicated=self._duplicated,
            corrupted=self._corrupted,
            misrouted=self._misrouted,
            outside=self._outside,
            foreign=foreign - self._foreign,
            bytes=self._octets,
            connections=accepted - self._accepted,
            broken=broken - self._broken,
            domains=len(self._domains),
            first=unix + self._first / 1e9 if self._first else None,
            last=unix + self._last / 1e9 if self._last else None,
            cpu_s=time.process_time() - self._cpu_s,
            memory_b=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            transit=self._transit.encode(),
            age=self._age.encode(),
            delivered_set=self._delivered.encode(),
        )


class Books:
    """The ledgers of all runs that a sink was told of, and what belongs to none of them."""

    __slots__ = ("_base", "_domains", "_ledgers", "accepted", "broken", "foreign", "open")

    def __init__(self, domains: Iterable[str] = (), prefix: IPv4Network | None = None) -> None:
        self._domains = {domain.encode(): i for i, domain in enumerate(domains)}
        self._base = None if prefix is None else int(prefix.network_address)
        self._ledgers: dict[bytes, Ledger] = {}
        self.foreign = 0
        """Messages without a stamp of an announced run."""
        self.accepted = 0
        """Connections, in all."""
        self.broken = 0
        """Connections broken off on purpose."""
        self.open = 0
        """Connections, now."""

    def begin(self, run: str) -> Ledger:
        """Open the ledger of a run.

        Raises:
            ValueError: it has one, or ``run`` is no run id.
        """
        if not re.fullmatch("[0-9a-f]{8}", run):
            raise ValueError(f"a run id is eight hex digits, not {run!r}")
        key = run.encode()
        if key in self._ledgers:
            raise ValueError(f"run {run} has begun before; take a new id for a new run")
        self._ledgers[key] = Ledger(run, self.foreign, self.accepted, self.broken)
        return self._ledgers[key]

    def ledger(self, run: str) -> Ledger:
        """Return the ledger of a run.

        Raises:
            ValueError: the run was never begun.
        """
        try:
            return self._ledgers[run.encode()]
        except KeyError:
            raise ValueError(f"run {run!r} is unknown here; begin it before its first message") from None

    @property
    def knows_addresses(self) -> bool:
        """Whether it can be said which domain an address belongs to."""
        return self._base is not None

    def __iter__(self) -> Iterator[Ledger]:
        return iter(self._ledgers.values())

    def index_of(self, domain: bytes) -> int:
        """Return the index of a domain (lower case); -1 when the bed does not have it."""
        return self._domains.get(domain, -1)

    def dialled(self, address: str) -> int | None:
        """Return the index of the domain that an address of this machine belongs to.

        ``OUTSIDE``: the address is no domain's. ``None``: nobody knows which address is whose.

        An IPv6 address carries its IPv4 twin in its last 32 bits.
        """
        if self._base is None:
            return None
        packed = inet_pton(AF_INET6, address)[12:] if ":" in address else inet_aton(address)
        index = int.from_bytes(packed, "big") - self._base
        return index if 0 <= index < len(self._domains) else OUTSIDE

    def enter(self, content: Content, recipients: Iterable[int], dialled: int | None) -> None:
        """Account for one message with the run of its stamp."""
        stamp = content.stamp
        ledger = None if stamp is None else self._ledgers.get(stamp.run)
        if stamp is None or ledger is None:
            self.foreign += 1
        else:
            ledger.enter(content, stamp, recipients, dialled)
