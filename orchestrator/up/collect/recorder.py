"""Recorder of a bed: writes logs and statistics into the run directory and notices a container that ends.

Three threads for each node, because the engine's answers are blocking streams: its log, its statistics, its end.
Recording never ends a run: a stream that breaks is written down (``faults``, series/recorder.jsonl) and missed.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import TimeoutError as WaitTimeout
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from functools import partial
from threading import Event, Lock, Thread
from types import TracebackType
from typing import IO, Any, Self, cast

from orchestrator.errors import EngineFailed, NodeDied, Problem
from orchestrator.hosts import ContainerGone, LogLine, Node
from orchestrator.measurements.rundir import RunDir
from orchestrator.up.collect.logs import NodeLog, Ticks, Watch, died
from orchestrator.up.collect.stats import point

_log = logging.getLogger(__name__)

FLUSH_S = 1.0
"""Interval between flushes: at most this much log is lost if the orchestrator is killed."""
GRACE_S = 10.0
"""How long the streams of removed containers may take to end."""
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before an engine is asked again for the end of a container: one that restarts is away for some seconds."""


class Recorder:
    """Records a bed.

    Enter it before the first container starts and leave it after the last one is removed::

        with Recorder(rundir) as recorder:
            watch = recorder.watch("relay", r"daemon started")
            node.start()
            recorder.record("relay", node)
            watch.wait(30)
            ...
            recorder.check()
            ...
            recorder.expect_end()
            node.remove()

    All lines that a container printed to its end are then in the run directory.
    """

    def __init__(self, rundir: RunDir) -> None:
        self.faults: list[str] = []
        """What could not be recorded, and why."""
        self.died = Event()
        """Set when a container has ended that should be running, or its end cannot be learnt any more."""
        self._broken: Future[None] = Future()
        """Why it was set, as its exception."""
        self._told: list[Callable[[EngineFailed], None]] = []
        self._rundir = rundir
        self._lock = Lock()
        self._logs: dict[str, NodeLog] = {}
        self._ticks: dict[str, Ticks] = {}
        self._threads: list[Thread] = []
        self._stats: IO[str] = rundir.write_series("stats")
        self._fault_file: IO[str] | None = None
        self._ends: dict[str, Future[NodeDied]] = {}
        self._expected: set[str] = set()
        self._all_expected = False
        self._closed = Event()
        self._flusher = Thread(target=self._flush, name="flush", daemon=True)
        self._flusher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def record(self, node: str, container: Node) -> None:
        """Record a node, from its first line on. Its container must have been started.

        (The engine follows the log of a running container only, and tells that one from its beginning.)
        """
        log, ended = self._log(node), Event()
        reader = self._thread("logs", node, lambda: self._read_log(log, container.logs(follow=True), ended))
        self._thread("stats", node, lambda: self._read_stats(node, container))
        self._thread("end", node, lambda: self._await_end(log, container, reader, ended))

    def watch(self, node: str, pattern: re.Pattern[str] | str) -> Watch:
        """Open a watch for a line of a node's log; open it before the act, ``wait`` after it."""
        return Watch(self._log(node), pattern)

    def await_lines(self, watches: Sequence[Watch], timeout: float) -> None:
        """Wait until every watch has its line, at most ``timeout`` seconds in all; a node that may end needs none.

        Raises:
            NodeDied: a node died, watched or not; raised at once, and of several the first.
            TimedOut: a line did not come in time.
            EngineFailed: a log cannot be read.
        """
        began = time.monotonic()
        deadline = began + timeout
        waiting = {watch.found: watch for watch in watches}
        _log.info("wait up to %g s for %s", timeout, "; ".join(map(str, watches)))
        try:
            while waiting:
                futures: list[Future[Any]] = [*waiting, self._broken]
                done, _ = wait_for(futures, max(0.0, deadline - time.monotonic()), FIRST_COMPLETED)
                self.check()
                if not done:
                    raise next(iter(waiting.values())).late(timeout)
                for found in done:
                    if not isinstance(found.exception(), NodeDied):  # else check() has let it pass: it may end
                        found.result()
                    _log.info("%.1f s until %s", time.monotonic() - began, waiting.pop(found))
        finally:
            for watch in watches:
                watch.close()

    def keep_ticks(self, node: str, run: str, load: str) -> None:
        """Keep what a sink prints of this load from now on as series/sink.jsonl, until the bed goes down."""
        log = self._log(node)
        if node not in self._ticks:
            self._ticks[node] = Ticks(self._rundir, partial(self._fault, f"ticks of {node}"))
            log.listen(self._ticks[node])
        self._ticks[node].loads[run] = load

    def expect_end(self, *nodes: str) -> None:
        """From now on these nodes (none named: all) may end without that being a death."""
        with self._lock:
            self._expected.update(nodes)
            self._all_expected = self._all_expected or not nodes

    def await_end(self, node: str, timeout: float) -> NodeDied | None:
        """Wait until a node has ended, at most so many seconds, and return how; ``None``: it still runs.

        Raises:
            EngineFailed: the engine does not tell any more.
        """
        try:
            return self._end(node).result(timeout)
        except WaitTimeout:
            return None

    def check(self) -> None:
        """Make sure that every node still runs.

        Raises:
            NodeDied: one does not; the first one that ended.
            EngineFailed: the engine does not tell any more.
        """
        if self._broken.done():
            self._broken.result()

    @contextmanager
    def telling(self, tell: Callable[[EngineFailed], None]) -> Iterator[None]:
        """Call ``tell`` with the error that ``check`` raises if a node dies in the block, or has died before it."""
        with self._lock:
            self._told.append(tell)
            if self._broken.done():
                tell(cast("EngineFailed", self._broken.exception()))
        try:
            yield
        finally:
            with self._lock:
                self._told.remove(tell)

    def close(self, timeout: float = GRACE_S) -> None:
        """Stop: wait for the streams of ended containers, then complete the files. Never raises, safe to call twice.

        A container that still runs after ``timeout`` seconds is recorded no further; its threads end with its next
        line, and never hold up the end of the program.
        """
        if self._closed.is_set():
            return
        self.expect_end()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive() and timeout > 0:
                self._fault(thread.name, "still open when the recording stopped")
        self._closed.set()
        self._flusher.join()
        for log in list(self._logs.values()):
            try:
                log.close()
            except OSError as error:
                self._fault(f"logs of {log.node}", str(error))
        with self._lock:
            for file in (self._stats, self._fault_file):
                if file:
                    try:
                        file.close()
                    except OSError as error:
                        self.faults.append(f"series: {error}")
            self._fault_file = None

    def _log(self, node: str) -> NodeLog:
        with self._lock:
            if node not in self._logs:
                self._logs[node] = NodeLog(node, self._rundir)
            return self._logs[node]

    def _end(self, node: str) -> Future[NodeDied]:
        with self._lock:
            return self._ends.setdefault(node, Future())

    def _thread(self, stream: str, node: str, work: Callable[[], None]) -> Thread:
        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whatever breaks a stream is reported and must not end the run
                self._fault(f"{stream} of {node}", f"{type(error).__name__}: {error}")
                if stream != "stats":
                    self._log(node).end(_unreadable(node, error))

        thread = Thread(target=run, name=f"{stream} of {node}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _read_log(self, log: NodeLog, lines: Iterator[LogLine], ended: Event) -> None:
        for line in lines:
            if self._closed.is_set():
                return
            try:
                log.put(line)
            except OSError as error:  # a full disk: readiness and ticks still depend on this thread
                self._fault(f"logs of {log.node}", str(error))
        if not ended.wait(GRACE_S) and not self._closed.is_set():
            raise EngineFailed(
                f"the log of node {log.node} to its end",
                "its stream ended while the container runs",
                "look at the engine's own log",
            )

    def _read_stats(self, node: str, container: Node) -> None:
        for raw in container.stats():
            reading = point(node, raw)
            if reading is None or self._closed.is_set():
                return
            with self._lock:
                self._stats.write(json.dumps(reading, separators=(",", ":")) + "\n")

    def _await_end(self, log: NodeLog, container: Node, reader: Thread, ended: Event) -> None:
        try:
            status = self._exit_status(container)
        except Exception as error:  # noqa: BLE001 - whatever it is: somebody may be waiting for this end
            self._fault(f"end of {log.node}", f"{type(error).__name__}: {error}")
            lost = EngineFailed(f"news of node {log.node}", f"none: {error}", "see whether the engine runs")
            self._break(log.node, lost)
            log.end(lost)
            self._end(log.node).set_exception(lost)
            return
        finally:
            ended.set()
        reader.join(GRACE_S)  # the last lines say why it ended
        death = died(log, status)
        self._break(log.node, death)
        log.end(death)
        self._end(log.node).set_result(death)

    def _exit_status(self, container: Node) -> int | None:
        """Wait for the end of a container, through hiccups of the engine; ``None``: it was removed."""
        pauses = iter(PAUSES_S)
        while True:
            try:
                return container.wait()
            except ContainerGone:
                return None
            except Exception:
                pause = next(pauses, None)
                if pause is None or self._closed.wait(pause):  # an engine that is away announces nothing
                    raise

    def _break(self, node: str, error: EngineFailed) -> None:
        """Wake all waiters with ``error``, unless this node's end is expected; only the first call counts."""
        with self._lock:
            if not self._all_expected and node not in self._expected and not self._broken.done():
                self._broken.set_exception(error)
                self.died.set()
                for tell in self._told:
                    tell(error)

    def _flush(self) -> None:
        while not self._closed.wait(FLUSH_S):  # by the clock: nothing announces that we are killed
            for log in list(self._logs.values()):
                try:
                    log.flush()
                except OSError as error:
                    self._fault(f"logs of {log.node}", str(error))

    def _fault(self, stream: str, error: str) -> None:
        self.faults.append(f"{stream}: {error}")
        with self._lock:
            if self._closed.is_set():
                return
            try:
                self._fault_file = self._fault_file or self._rundir.write_series("recorder")
                self._fault_file.write(json.dumps({"t": time.time(), "stream": stream, "error": error}) + "\n")
            except OSError as failed:
                self.faults.append(f"series/recorder.jsonl: {failed}")


def _unreadable(node: str, error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    return EngineFailed(f"the log of node {node}", f"{type(error).__name__}: {error}", "look at the engine's own log")
