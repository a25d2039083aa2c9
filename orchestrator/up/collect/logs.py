"""One node's log: writes it to the run directory and notifies watches of matching lines.

A watch is opened before the act that will cause the line, so no line can slip through between the two and nobody has
to poll: the thread that reads the log tells the watch.
"""

import json
import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitTimeout
from contextlib import suppress
from threading import RLock
from typing import Protocol, Self

from orchestrator.errors import EngineFailed, NodeDied, Problem, TimedOut
from orchestrator.hosts import LogLine
from orchestrator.measurements.rundir import RunDir

TAIL = 20
"""Lines of a log that an error shows."""


class Listener(Protocol):
    """Receiver of a log's lines."""

    def line(self, line: LogLine) -> None:
        """Take one line; called in the thread that reads the log."""
        ...

    def end(self, why: Problem | None) -> None:
        """Learn that no further line will come; ``None`` when recording simply stopped."""
        ...


class NodeLog:
    """One node's log: written to the run directory, its end kept for errors, its listeners told."""

    def __init__(self, node: str, rundir: RunDir) -> None:
        self.node = node
        self._file = rundir.write_log(node)
        self._lock = RLock()
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._listeners: list[Listener] = []
        self._ended: tuple[Problem | None] | None = None
        self._unwritten = False
        self._writable = True

    def put(self, line: LogLine) -> None:
        """Keep one line.

        Raises:
            OSError: the run directory takes no more; listeners were told all the same, later lines are not written.
        """
        with self._lock:
            self._tail.append(line.text)
            for listener in self._listeners:
                listener.line(line)
            if self._writable:
                try:
                    self._file.write(f"{line.t:.6f} {line.text}\n")
                except OSError:
                    self._writable = False
                    raise
                self._unwritten = True

    def flush(self) -> None:
        """Bring what was written so far to the disk, so that a killed orchestrator leaves it behind."""
        with self._lock:
            if self._unwritten and self._writable:
                try:
                    self._file.flush()
                except OSError:
                    self._writable = False
                    raise
                self._unwritten = False

    def end(self, why: Problem | None) -> None:
        """Tell the listeners that no further line will come; only the first call counts."""
        with self._lock:
            if self._ended is None:
                self._ended = (why,)
                for listener in self._listeners:
                    listener.end(why)
                self._listeners.clear()

    def close(self) -> None:
        """End the log and its file; lines that come later are dropped.

        Raises:
            OSError: the run directory did not take the last lines.
        """
        self.end(None)
        with self._lock:
            self._writable = False
            self._file.close()

    def listen(self, listener: Listener) -> None:
        """Tell ``listener`` every line from now on."""
        with self._lock:
            if self._ended is None:
                self._listeners.append(listener)
            else:
                listener.end(self._ended[0])

    def ignore(self, listener: Listener) -> None:
        """Stop telling ``listener``."""
        with self._lock, suppress(ValueError):
            self._listeners.remove(listener)

    @property
    def tail(self) -> list[str]:
        """The last lines."""
        with self._lock:
            return list(self._tail)


class Watch:
    """Waits for one line of a log, from the moment it was opened; listens until ``wait`` or the end of its block."""

    def __init__(self, log: NodeLog, pattern: re.Pattern[str] | str) -> None:
        self._log = log
        self._pattern = re.compile(pattern)
        self.found: Future[LogLine] = Future()
        """The first line that matches, or why none will come."""
        log.listen(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"a line in the log of node {self._log.node} that matches {self._pattern.pattern!r}"

    def close(self) -> None:
        """Stop listening."""
        self._log.ignore(self)

    def line(self, line: LogLine) -> None:
        """Take the line when it is the one."""
        if not self.found.done() and self._pattern.search(line.text):
            self.found.set_result(line)

    def end(self, why: Problem | None) -> None:
        """Give up: no line will come."""
        if not self.found.done():
            self.found.set_exception(why or EngineFailed(*self._missing("the recording was stopped")))

    def wait(self, timeout: float) -> LogLine:
        """Return the first line that matches, waiting at most ``timeout`` seconds for it.

        Raises:
            NodeDied: the container ended before; raised at once, with the tail of its log.
            TimedOut: no such line came in time.
            EngineFailed: the log cannot be read.
        """
        try:
            return self.found.result(timeout)
        except WaitTimeout:
            raise self.late(timeout) from None
        finally:
            self.close()

    def late(self, seconds: float) -> TimedOut:
        """Return the error for a line that did not come within N seconds."""
        return TimedOut(*self._missing(f"none in {seconds:g} s"))

    def _missing(self, found: str) -> tuple[str, str, str]:
        last = "\n".join(self._log.tail) or "(it is empty)"
        return (
            str(self),
            f"{found}; the end of the log:\n{last}",
            "read logs/ in the run directory; a slow machine may need more time",
        )


class Ticks:
    """Keeps what a sink prints of the loads that it was told of as series/sink.jsonl: one for a bed, without a thread.

    A tick is ``agents.contract.SinkTick``; the series adds the name of its load as ``phase``.
    """

    def __init__(self, rundir: RunDir, fault: Callable[[str], None]) -> None:
        self._rundir, self._fault = rundir, fault
        self._broken = False
        self.loads: dict[str, str] = {}
        """Run of a load -> its name."""

    def line(self, line: LogLine) -> None:
        """Keep the line when it is a tick of one of the loads; a full disk ends that and is a fault."""
        if self._broken or not line.text.startswith('{"tick"'):
            return
        try:
            tick = json.loads(line.text)["tick"]
            if load := self.loads.get(tick["run"]):
                with self._rundir.write_series("sink") as series:
                    series.write(json.dumps({"phase": load, **tick}) + "\n")
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._broken = isinstance(error, OSError)
            self._fault(f"{type(error).__name__}: {error}")

    def end(self, why: Problem | None) -> None:
        """Nothing is left to do."""


def died(log: NodeLog, exit_status: int | None) -> NodeDied:
    """Return the error that says how this node ended."""
    return NodeDied(log.node, exit_status, log.tail)
