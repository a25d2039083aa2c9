"""Ledger of the sink: one bit for each arrived message of a run.

A million messages of any size take 125 kB of memory.
"""

import re
import resource
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Network
from socket import AF_INET6, inet_aton, inet_pton

from orchestrator.agents.content import Content
from orchestrator.agents.contract import SinkReport, SinkTick
from orchestrator.agents.histogram import Histogram
from orchestrator.agents.wire import MAX_SEQ, Stamp

OUTSIDE = -2
"""Index of an address that belongs to no domain (a published port, the sink's own address)."""
_STEP = 4096
"""A bitmap grows by at least this many octets: 32,768 messages."""


class SequenceSet:
    """A set of sequence numbers below 2^27, as a bitmap."""

    __slots__ = ("_bits", "_count")

    def __init__(self) -> None:
        self._bits = bytearray()
        self._count = 0

    def add(self, number: int) -> bool:
        """Add a number; return False if the set already contained this number."""
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

    def __iter__(self) -> Iterator[int]:
        return (8 * i + bit for i, octet in enumerate(self._bits) if octet for bit in range(8) if octet & 1 << bit)

    def encode(self) -> str:
        """Return the set as text: base64 of the compressed bitmap, without zeros at its end."""
        return b64encode(zlib.compress(self._bits.rstrip(b"\0"))).decode("ascii")


class Ledger:
    """Account of the messages of one run."""

    __slots__ = (
        "_accepted", "_age", "_books", "_broken", "_corrupted", "_cpu_s", "_delivered", "_domains", "_duplicated",
        "_expected", "_first", "_foreign", "_last", "_misrouted", "_octets", "_outside", "_reported", "_run", "_then",
        "_transit",
    )  # fmt: skip

    def __init__(self, run: str, books: "Books") -> None:
        self._run = run
        self._books = books
        self._foreign, self._accepted, self._broken = books.foreign, books.accepted, books.broken
        self._cpu_s = time.process_time()
        self._delivered = SequenceSet()
        self._domains = SequenceSet()
        self._duplicated = self._corrupted = self._misrouted = self._outside = self._octets = 0
        self._first = self._last = 0
        self._reported: tuple[int, ...] = ()
        self._expected: int | None = None
        self._transit = Histogram()
        self._age = Histogram()

    def enter(self, content: Content, stamp: Stamp, recipients: Iterable[int], dialled: int | None) -> None:
        """Account for one message.

        Args:
            content: the message, read to its end.
            stamp: its stamp.
            recipients: index of each recipient's domain; -1 for a domain outside the bed.
            dialled: result of ``Books.dialled`` for the address that the client connected to.
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
        """Call ``then`` once, as soon as ``count`` messages have been delivered."""
        self._expected = count
        self._then = then
        self._look()

    def _look(self) -> None:
        if self._expected is not None and len(self._delivered) >= self._expected:
            self._expected = None
            self._then()

    def tick(self) -> SinkTick:
        """Return the run's counters."""
        return SinkTick(
            run=self._run,
            t=time.time(),
            delivered=len(self._delivered),
            duplicated=self._duplicated,
            corrupted=self._corrupted,
            foreign=self._books.foreign - self._foreign,
            bytes=self._octets,
            connections=self._books.open,
        )

    def news(self) -> SinkTick | None:
        """Return the run's counters; ``None`` if no mail has arrived since the last call of ``news``."""
        now = (self._last, self._books.foreign)
        if now == self._reported or not (self._last or self._books.foreign > self._foreign):
            return None
        self._reported = now
        return self.tick()

    def report(self) -> SinkReport:
        """Return the account of the run."""
        unix = time.time() - time.monotonic()
        return SinkReport(
            run=self._run,
            delivered=len(self._delivered),
            duplicated=self._duplicated,
            corrupted=self._corrupted,
            misrouted=self._misrouted,
            outside=self._outside,
            foreign=self._books.foreign - self._foreign,
            bytes=self._octets,
            connections=self._books.accepted - self._accepted,
            broken=self._books.broken - self._broken,
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
    """The ledgers of all announced runs, and counters of the whole sink."""

    __slots__ = ("_base", "_domains", "_ledgers", "accepted", "broken", "foreign", "open")

    def __init__(self, domains: Iterable[str] = (), prefix: IPv4Network | None = None) -> None:
        self._domains = {domain.encode(): i for i, domain in enumerate(domains)}
        self._base = None if prefix is None else int(prefix.network_address)
        self._ledgers: dict[bytes, Ledger] = {}
        self.foreign = 0
        """Messages without a stamp of an announced run."""
        self.accepted = 0
        """Connections accepted so far."""
        self.broken = 0
        """Connections that a rule closed or reset."""
        self.open = 0
        """Connections that are open now."""

    def begin(self, run: str) -> Ledger:
        """Open the ledger of a run; raises ValueError if this ledger was opened before, or ``run`` is not a run id."""
        if not re.fullmatch("[0-9a-f]{8}", run):
            raise ValueError(f"a run id is eight hex digits, not {run!r}")
        key = run.encode()
        if key in self._ledgers:
            raise ValueError(f"run {run} has begun before; take a new id for a new run")
        self._ledgers[key] = Ledger(run, self)
        return self._ledgers[key]

    def ledger(self, run: str) -> Ledger:
        """Return the ledger of a run; raises ValueError if no ledger was opened for this run."""
        try:
            return self._ledgers[run.encode()]
        except KeyError:
            raise ValueError(f"run {run!r} is unknown here; begin it before its first message") from None

    def __iter__(self) -> Iterator[Ledger]:
        return iter(self._ledgers.values())

    def index_of(self, domain: bytes) -> int:
        """Return the index of a domain (lower case); -1 if the bed has no such domain."""
        return self._domains.get(domain, -1)

    def dialled(self, address: str) -> int | None:
        """Return the index of the domain that a local address belongs to; ``OUTSIDE`` for an address of no domain.

        Returns ``None`` if the sink has no prefix. A domain's IPv6 address ends in the 32 bits of its IPv4 address.
        """
        if self._base is None:
            return None
        packed = inet_pton(AF_INET6, address)[12:] if ":" in address else inet_aton(address)
        index = int.from_bytes(packed, "big") - self._base
        return index if 0 <= index < len(self._domains) else OUTSIDE

    def enter(self, content: Content, recipients: Iterable[int], dialled: int | None) -> None:
        """Enter one message into the ledger of its run."""
        stamp = content.stamp
        ledger = None if stamp is None else self._ledgers.get(stamp.run)
        if stamp is None or ledger is None:
            self.foreign += 1
        else:
            ledger.enter(content, stamp, recipients, dialled)
