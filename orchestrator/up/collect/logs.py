"""One node's log: writes it to the run directory and notifies watches of matching lines.

Open a watch before the action that causes the line, so that the watch misses no line. The thread that reads the log
notifies the watch; nothing polls.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import RLock

from orchestrator.errors import EngineFailed, Problem, TimedOut
from orchestrator.hosts import LogLine
from orchestrator.measurements.rundir import RunDir

TAIL = 20
"""Number of last log lines shown in an error."""


class NodeLog:
    """One node's log: writes it to the run directory, keeps its tail for errors, notifies listeners."""

    def __init__(self, node: str, rundir: RunDir, fault: Callable[[str], None]) -> None:
        self.node = node
        self._fault = fault
        self._file = rundir.write_log(node)
        self._lock = RLock()
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._listeners: list[Watch | Ticks] = []
        self._ended: tuple[Problem | None] | None = None
        self._unwritten = False
        self._writable = True
        self.cut = False
        """Whether the log broke off: no more lines will come; the call of ``end`` will bring the reason."""

    def put(self, line: LogLine) -> None:
        """Write one line and notify the listeners; once the disk is full (reported), only notify the listeners."""
        with self._lock:
            self._tail.append(line.text)
            for listener in self._listeners:
                listener.line(line)
            if self._writable:
                with self._reported():
                    self._file.write(f"{line.t:.6f} {line.text}\n")
                    self._unwritten = True

    def flush(self) -> None:
        """Flush the file, so that the lines survive a killed orchestrator."""
        with self._lock:
            if self._unwritten and self._writable:
                with self._reported():
                    self._file.flush()
                    self._unwritten = False

    def end(self, why: Problem | None) -> None:
        """Notify the listeners of the log's end; a second call has no effect."""
        with self._lock:
            if self._ended is None:
                self._ended = (why,)
                for listener in self._listeners:
                    listener.end(why)
                self._listeners.clear()

    def close(self) -> None:
        """End the log and close its file; lines that come afterwards are dropped."""
        self.end(None)
        with self._lock, self._reported():
            self._writable = False
            self._file.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """If the disk is full in the block, report it and write no more lines."""
        try:
            yield
        except OSError as error:
            self._writable = False
            self._fault(str(error))

    def listen(self, listener: "Watch | Ticks") -> None:
        """Notify ``listener`` of every new line, in the thread that reads the log, and of the log's end."""
        with self._lock:
            if self._ended is None:
                self._listeners.append(listener)
            else:
                listener.end(self._ended[0])

    def ignore(self, listener: "Watch | Ticks") -> None:
        """Stop notifying ``listener``."""
        with self._lock, suppress(ValueError):
            self._listeners.remove(listener)

    @property
    def tail(self) -> list[str]:
        """The last lines."""
        with self._lock:
            return list(self._tail)


class Watch:
    """Wait for the first matching line of a log after the watch is opened; listens until ``close``."""

    def __init__(self, log: NodeLog, pattern: re.Pattern[str] | str) -> None:
        self.log = log
        self._pattern = re.compile(pattern)
        self.found: Future[LogLine] = Future()
        """First matching line, or the reason why none will come."""
        log.listen(self)

    def __str__(self) -> str:
        return f"a line in the log of node {self.log.node} that matches {self._pattern.pattern!r}"

    def close(self) -> None:
        """Stop listening."""
        self.log.ignore(self)

    def line(self, line: LogLine) -> None:
        """Keep the line as the result if it is the first match."""
        if not self.found.done() and self._pattern.search(line.text):
            self.found.set_result(line)

    def end(self, why: Problem | None) -> None:
        """Fail the watch, because no more lines will come."""
        if not self.found.done():
            self.found.set_exception(why or EngineFailed(*self._missing("the recording was stopped")))

    def late(self, seconds: float) -> TimedOut:
        """Return the error for a line that did not come within ``seconds``."""
        return TimedOut(*self._missing(f"none in {seconds:g} s"))

    def _missing(self, found: str) -> tuple[str, str, str]:
        last = "\n".join(self.log.tail) or "(it is empty)"
        return (
            str(self),
            f"{found}; the end of the log:\n{last}",
            "read logs/ in the run directory; a slow machine may need more time",
        )


class Ticks:
    """Appends a sink's ticks (``agents.contract.SinkTick``) to series/sink.jsonl if a tick belongs to one of ``loads``.

    Each line of the series also holds the name of the load, as ``phase``.
    """

    def __init__(self, rundir: RunDir, fault: Callable[[str], None]) -> None:
        self._rundir, self._fault = rundir, fault
        self._broken = False
        self.loads: dict[str, str] = {}
        """Run id of a load -> name of the load."""

    def line(self, line: LogLine) -> None:
        """Append the line if it is a tick of one of ``loads``; a full disk is reported and ends the series."""
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
        """Do nothing."""
