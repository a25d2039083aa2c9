"""The load generator: sends mail at a given rate (open-loop), or at the rate at which the server accepts mail.

::

    python3 -m orchestrator.agents.load [--domains FILE] [--recipients FILE] '<LoadOrder as JSON>'

With ``-`` as the order, the generator reads the order from standard input. A command's argument has at most 128 KiB
(MAX_ARG_STRLEN, execve(2)), so thousands of domains or recipients go into a FILE, one a line, and not into the order.

Prints JSON lines: ``{"tick": LoadTick}`` once a second, ``{"report": LoadReport}`` at the end. SIGTERM and SIGINT end
the load early, with a report.

At a given rate, message n is due at start + n / rate. A slow server does not move this due time, and latency is
measured from it (no coordinated omission). ``load`` decides when and where to send; ``smtp`` implements the protocol.
"""

import argparse
import asyncio
import math
import resource
import signal
import sys
import time
from collections import Counter, deque
from fractions import Fraction
from ipaddress import ip_network
from pathlib import Path

import uvloop

from orchestrator.agents.contract import TICK_S, LoadOrder, LoadReport, LoadTick
from orchestrator.agents.histogram import Histogram
from orchestrator.agents.ledger import SequenceSet
from orchestrator.agents.order import BadOrder, read_order
from orchestrator.agents.output import complain, say
from orchestrator.agents.patience import NO_GREETING, Patience
from orchestrator.agents.smtp import DONE, WAIT, Connection, SessionState
from orchestrator.agents.wire import MAX_SEQ, Composer

BEAT_S = 0.02
"""Interval of the heartbeat, in seconds. Stalls of the event loop and time-outs are noticed with this resolution."""
LATE_NS = 10_000_000
BACKOFF_S = (0.02, 1.0)
"""Delay after a connection without an accepted message: initial and maximum, in seconds."""
MOST_CAUSES = 50
"""Maximum number of distinct causes of failure; failures with further causes count as ``other``."""


class Load:
    """One load: assigns messages to connections, and counts the outcomes. Times are CLOCK_MONOTONIC, ns."""

    def __init__(self, order: LoadOrder) -> None:
        self._order = order
        self.composer = Composer(order.run, order.sender, order.domains, order.sizes, order.recipients)
        self.domain_of = order.domain_of
        self._network = ip_network(order.target)
        self._spread = "/" in order.target
        self.patience = Patience(order.timeout, one_server=not self._spread)
        self._limit = order.messages or MAX_SEQ
        if order.rate is not None and order.seconds is not None:
            due = Fraction(str(order.rate)) * Fraction(str(order.seconds))  # in floats, 8.3 * 30 is over 249
            self._limit = min(self._limit, math.ceil(due))
        self._next = 0
        self._rests: deque[tuple[int, int]] = deque()
        self._open: dict[Connection, asyncio.Task[None]] = {}
        self._idle: dict[Connection, None] = {}
        self._opening = 0
        self._retry_at = 0
        self._backoff = 0.0
        self._ending: str | None = None
        self._finished = asyncio.Event()

        self._offered = self._started = self._connections = self._late = 0
        self._behind = self._stalled = 0
        self._failed: Counter[str] = Counter()
        self._connect_failed: Counter[str] = Counter()
        self._accepted = SequenceSet()
        self._unresolved = SequenceSet()
        self._response, self._service, self._connect = Histogram(), Histogram(), Histogram()

    async def run(self) -> LoadReport:
        """Carry out the order, and return the report."""
        order = self._order
        self._loop = asyncio.get_running_loop()
        cpu = time.process_time()
        self._start = self._last_reply = self._last_ready = time.monotonic_ns()
        self._end = self._start + int(order.seconds * 1e9) if order.seconds and not order.rate else 1 << 63
        self._stall_at = None if order.stall_at is None else self._start + int(order.stall_at * 1e9)
        self._beat_due = self._sweep_due = self._start
        self._tick_due = self._start + int(TICK_S * 1e9)
        self._beat()
        if order.rate is not None:
            self._pump()
        await self._finished.wait()
        say({"tick": self._tick().to_dict()})
        unix = time.time() - time.monotonic()
        unsent = self._offered - len(self._accepted) - self._failed.total()
        if unsent > 0:
            self._failed[self._ending or "never sent"] += unsent
        return LoadReport(
            run=order.run,
            started=unix + self._start / 1e9,
            ended=unix + self._last_reply / 1e9,
            offered=self._offered,
            accepted=len(self._accepted),
            domains=self._domains(),
            failed=dict(self._failed),
            unresolved=len(self._unresolved),
            connections=self._connections,
            connect_failed=dict(self._connect_failed),
            goodbye_failed=dict(self.patience.goodbyes),
            late=self._late,
            cpu_s=time.process_time() - cpu,
            stalled_s=self._stalled / 1e9,
            response=self._response.encode(),
            service=self._service.encode(),
            connect=self._connect.encode(),
            accepted_set=self._accepted.encode(),
            unresolved_set=self._unresolved.encode(),
        )

    def stop(self, cause: str) -> None:
        """End early; unanswered messages fail with this cause."""
        if self._ending is None:
            if self._order.rate is not None:
                self._offer(time.monotonic_ns())  # messages that came due during a stall
            self._ending = cause
            for connection in list(self._open):
                connection.give_up(cause)
            self._finished.set()

    # Calls of the connections

    def take(self, connection: Connection, now: int) -> int:
        """Return the sequence number of the next message, ``WAIT`` or ``DONE``."""
        seq = connection.first if self._spread else self._next
        if self._ending is not None or seq >= (connection.stop if self._spread else self._limit) or now >= self._end:
            return DONE
        if self._order.rate is None:
            self._offered += 1
        elif seq >= self._offered:
            self._offer(now)
            if seq >= self._offered:
                self._idle[connection] = None
                return WAIT
        if self._spread:
            connection.first += 1
        else:
            self._next += 1
        self._started += 1
        return seq

    def due(self, seq: int, now: int) -> int:
        """Return the due time of a message that the generator starts now."""
        if self._order.rate is None:
            return now
        due = self._due(seq)
        self._behind = now - due
        if self._behind > LATE_NS:
            self._late += 1
        return due

    def ready(self, connection: Connection, now: int) -> None:
        """Count a connection that got its reply to EHLO."""
        self._opening -= 1
        self._connections += 1
        self._last_ready = now
        self.patience.ready(connection, now)
        self._connect.record_ns(now - connection.opened)

    def accepted(self, seq: int, due: int, sent: int, now: int) -> None:
        """Count a message whose data got the reply 250."""
        self._accepted.add(seq)
        self._service.record_ns(now - sent)
        self._response.record_ns(now - due)
        self._last_reply = now
        self._backoff = 0.0

    def failed(self, seq: int, cause: str, *, unresolved: bool) -> None:
        """Count a message that was not accepted; ``unresolved``: the data was written, but not answered."""
        _count(self._failed, cause)
        if unresolved:
            self._unresolved.add(seq)
        self._last_reply = time.monotonic_ns()

    def closed(self, connection: Connection, cause: str | None, *, fruitless: bool) -> None:
        """Account for a closed connection; open another if messages remain.

        ``cause``: why the connection never became ready, else ``None``. ``fruitless``: it carried no accepted message.
        """
        self._open.pop(connection, None)
        self._idle.pop(connection, None)
        now = time.monotonic_ns()
        if fruitless and now >= self._retry_at:
            self._backoff = min(max(2 * self._backoff, BACKOFF_S[0]), BACKOFF_S[1])
            self._retry_at = now + int(self._backoff * 1e9)
        if cause is not None:
            self._opening -= 1
            _count(self._connect_failed, cause)
            if len(self._open) == self._opening and now - self._last_ready > self.patience.timeout:
                self.stop(cause)
        if self._spread and connection.first < connection.stop and self._ending is None:
            if cause is None:
                self._rests.append((connection.first, connection.stop))
            else:
                self._skip(connection.first, connection.stop, cause)
        self._open_more(now)

    # When and where

    def _due(self, seq: int) -> int:
        return self._start + int(seq * 1e9 / (self._order.rate or 1.0))

    def _offer(self, now: int) -> None:
        """Count the messages that are due."""
        self._offered = min(self._limit, int((now - self._start) * (self._order.rate or 0.0) / 1e9) + 1)

    def _pump(self) -> None:
        """Hand due messages to idle connections, and call itself again at the next due time."""
        now = time.monotonic_ns()
        self._offer(now)
        for connection in reversed(list(self._idle)):  # the last to become idle sends first, so that few are in use
            if (connection.first if self._spread else self._next) < self._offered or self._next >= self._limit:
                del self._idle[connection]
                connection.go(now)
        self._open_more(now)
        if self._offered < self._limit and self._ending is None:
            wait_ms = max(1, math.ceil((self._due(self._offered) - now) / 1e6))
            self._loop.call_later(wait_ms / 1000, self._pump)

    def _open_more(self, now: int) -> None:
        """Open a connection for each waiting message, within the bounds of the order."""
        while self._ending is None and len(self._open) < self._order.connections and now >= self._retry_at:
            connection = self._spread_connection(now) if self._spread else self._shared_connection(now)
            if connection is None:
                break
            self._opening += 1
            address = self._network[self.domain_of(connection.first)] if self._spread else self._network[0]
            self._open[connection] = self._loop.create_task(self._dial(connection, str(address)))
        if not self._open and not self._rests and (self._next >= self._limit or now >= self._end):
            self._finished.set()

    def _shared_connection(self, now: int) -> Connection | None:
        """Return a connection for the next messages; None if connections under way suffice for these messages."""
        waiting = (self._limit if now < self._end else 0) if self._order.rate is None else self._offered
        if waiting - self._next <= self._opening:
            return None
        return Connection(self, budget=self._order.per_connection)

    def _spread_connection(self, now: int) -> Connection | None:
        """Return a connection for the next block of messages, or for the rest of a broken connection's block."""
        if now >= self._end:
            self._rests.clear()
            return None
        if self._rests:
            first, stop = self._rests.popleft()
        else:
            first = self._next
            if first >= (self._limit if self._order.rate is None else self._offered):
                return None
            block = 1 if first < len(self._order.domains) else self._order.block
            self._next = stop = min(first + block, self._limit)
        return Connection(self, budget=stop - first, first=first, stop=stop)

    def _skip(self, first: int, stop: int, cause: str) -> None:
        """Fail the messages of an unreachable address."""
        for seq in range(first, stop):
            if self._order.rate is None:
                self._offered += 1
            self.failed(seq, cause, unresolved=False)

    async def _dial(self, connection: Connection, address: str) -> None:
        try:
            await self._loop.create_connection(lambda: connection, address, self._order.port)
        except OSError as error:
            connection.lost(type(error).__name__)

    # The heartbeat

    def _beat(self) -> None:
        """Run the periodic work: time-outs, ticks, new connections."""
        if self._finished.is_set():
            return
        now = time.monotonic_ns()
        self._stalled = max(self._stalled, now - self._beat_due)
        if now >= self._sweep_due:
            self._sweep(now)
            self._sweep_due = now + min(self.patience.timeout // 4, 250_000_000)
        if now >= self._tick_due:
            say({"tick": self._tick().to_dict()})
            self._tick_due += int(TICK_S * 1e9)
        if self._stall_at is not None and now >= self._stall_at:
            self._stall_at = None
            time.sleep(self._order.stall_for)  # stops the whole process, as ordered
        self._open_more(now)
        self._beat_due = now + int(BEAT_S * 1e9)
        self._loop.call_later(BEAT_S, self._beat)

    def _sweep(self, now: int) -> None:
        """Close connections past their time limit; stop a finished load whose last connections get no greeting."""
        if self._hangs(now):
            self.stop(NO_GREETING)
        for connection, task in list(self._open.items()):
            if self.patience.exhausted(connection, now):
                task.cancel()
                connection.give_up(self.patience.unanswered(connection))

    def _hangs(self, now: int) -> bool:
        """Return whether a finished load has waited too long for the greetings of its last connections."""
        over = self._end if self._order.rate is None else self._due(self._limit)
        if now < over and self._next < self._limit:
            return False
        if not self._open or any(connection.state > SessionState.GREETING for connection in self._open):
            return False
        quiet_since = max(self._last_ready, self._last_reply, over if now >= over else 0)
        return now - quiet_since > self.patience.at_the_end()

    def _domains(self) -> int:
        """Count the domains that the accepted messages went to."""
        domains: set[int] = set()
        for seq in self._accepted:
            domains.add(self.domain_of(seq))
            if len(domains) == len(self._order.domains):
                break
        return len(domains)

    def _tick(self) -> LoadTick:
        return LoadTick(
            t=time.time(),
            offered=self._offered,
            sent=self._started,
            accepted=len(self._accepted),
            failed=self._failed.total(),
            connections=len(self._open),
            behind_s=self._behind / 1e9,
        )


def _count(causes: Counter[str], cause: str) -> None:
    """Count a failure by cause. Each reply of a server may be different, so MOST_CAUSES limits the causes."""
    causes[cause if cause in causes or len(causes) < MOST_CAUSES else "other"] += 1


async def carry_out(order: LoadOrder) -> None:
    """Carry out an order, and print its report."""
    load = Load(order)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, load.stop, "interrupted")
    say({"report": (await load.run()).to_dict()})


def main(arguments: list[str]) -> int:
    """Run one load; exit code 2 for an invalid order."""
    parser = argparse.ArgumentParser(description="send test mail, open-loop")
    parser.add_argument("--domains", type=Path, metavar="FILE", help="one a line, if the order names none")
    parser.add_argument("--recipients", type=Path, metavar="FILE", help="one a line, if the order names none")
    parser.add_argument("order", help='LoadOrder as JSON; "-" reads it from standard input')
    options = parser.parse_args(arguments)
    try:
        lists = {
            name: file.read_text(encoding="ascii").split()
            for name, file in (("domains", options.domains), ("recipients", options.recipients))
            if file
        }
        order = read_order(sys.stdin.read() if options.order == "-" else options.order, **lists)
    except (BadOrder, OSError) as error:
        complain(str(error))
        return 2
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(carry_out(order))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
