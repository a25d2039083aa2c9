"""Recorder of a bed: writes logs and statistics into the run directory, and detects the end of a container.

Each node has two or three threads (log, end, statistics), because the engine's answers are blocking streams.
A broken stream does not end the run: it is reported in ``faults`` and series/recorder.jsonl.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import TimeoutError as WaitTimeout
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from threading import Event, Lock, Thread
from typing import IO, Any, cast

from orchestrator.errors import EngineFailed, NodeDied, Problem
from orchestrator.hosts import ContainerGone, LogLine, Node
from orchestrator.measurements.rundir import RunDir
from orchestrator.up.collect.logs import NodeLog, Ticks, Watch
from orchestrator.up.collect.stats import point

_log = logging.getLogger(__name__)

FLUSH_S = 1.0
"""Interval between flushes of the logs: a killed orchestrator loses at most this much."""
GRACE_S = 10.0
"""Time limit for the streams of removed containers to end."""
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses between attempts to wait for a container's end; a restarting engine does not answer for some seconds."""


class Recorder(AbstractContextManager["Recorder"]):
    """Records a bed.

    Enter the context before the first container starts, and leave it after the last one is removed::

        with Recorder(rundir) as recorder:
            watch = recorder.watch("relay", r"daemon started")
            node.start()
            recorder.record("relay", node)
            recorder.await_lines([watch], 30)
            ...
            recorder.check()
            ...
            recorder.expect_end()
            node.remove()

    The run directory then holds the complete logs.
    """

    def __init__(self, rundir: RunDir, *, statistics: bool = True) -> None:
        self.faults: list[str] = []
        """Streams that could not be recorded, with reasons."""
        self.died = Event()
        """Set if a container ended unexpectedly, or the engine cannot report ends any more."""
        self._broken: Future[None] = Future()
        """Its exception is the reason why ``died`` is set."""
        self._on_death: list[Callable[[EngineFailed], None]] = []
        self._rundir = rundir
        self._lock = Lock()
        self._logs: dict[str, NodeLog] = {}
        self._ticks: dict[str, Ticks] = {}
        self._threads: list[Thread] = []
        self._statistics = statistics
        self._stats: IO[str] = rundir.write_series("stats")
        self._ends: dict[str, Future[NodeDied]] = {}
        self._expected: set[str] = set()
        self._all_expected = False
        self._closed = Event()
        self._flusher = Thread(target=self._flush, name="flush", daemon=True)
        self._flusher.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, node: str, container: Node) -> None:
        """Record a node from its first log line. Start its container first, or the engine follows no log."""
        log, ended = self._log(node), Event()
        reader = self._thread("logs", node, lambda: self._read_log(log, container.logs(follow=True), ended))
        if self._statistics:
            self._thread("stats", node, lambda: self._read_stats(node, container))
        self._thread("end", node, lambda: self._await_end(log, container, reader, ended))

    def watch(self, node: str, pattern: re.Pattern[str] | str) -> Watch:
        """Open a watch for a line of a node's log, before the action that causes it."""
        return Watch(self._log(node), pattern)

    def await_lines(self, watches: Sequence[Watch], timeout: float) -> None:
        """Wait at most ``timeout`` seconds in all until every watch has its line, or its node has ended as expected.

        Raises:
            NodeDied: a node died, watched or not; raised at once, for the first node that died.
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
                if not done and any(watch.log.cut for watch in waiting.values()):
                    done, _ = wait_for(futures, GRACE_S, FIRST_COMPLETED)  # the log broke off: wait for the reason
                    self.check()
                if not done:
                    raise next(iter(waiting.values())).late(timeout)
                for found in done:
                    if not isinstance(found.exception(), NodeDied):  # check() accepted this node's end
                        found.result()
                    _log.info("%.1f s until %s", time.monotonic() - began, waiting.pop(found))
        finally:
            for watch in watches:
                watch.close()

    def keep_ticks(self, node: str, run: str, load: str) -> None:
        """From now on, append the sink's ticks for this load to series/sink.jsonl, until the bed goes down."""
        log = self._log(node)
        if node not in self._ticks:
            self._ticks[node] = Ticks(self._rundir, partial(self._fault, f"ticks of {node}"))
            log.listen(self._ticks[node])
        self._ticks[node].loads[run] = load

    def expect_end(self, *nodes: str) -> None:
        """From now on, do not count the end of these nodes (without arguments: of any node) as a death."""
        with self._lock:
            self._expected.update(nodes)
            self._all_expected = self._all_expected or not nodes

    def await_end(self, node: str, timeout: float) -> NodeDied | None:
        """Wait at most ``timeout`` seconds for a node's end and return its NodeDied; ``None`` if it still runs.

        Raises:
            EngineFailed: the engine cannot report the end any more.
        """
        try:
            return self._end(node).result(timeout)
        except WaitTimeout:
            return None

    def check(self) -> None:
        """Check that every node still runs.

        Raises:
            NodeDied: a node ended unexpectedly; the error names the first such node.
            EngineFailed: the engine cannot report ends any more.
        """
        if self._broken.done():
            self._broken.result()

    @contextmanager
    def on_death(self, callback: Callable[[EngineFailed], None]) -> Iterator[None]:
        """Call ``callback`` with the error of ``check`` if a node dies during the block, or died before the block."""
        with self._lock:
            self._on_death.append(callback)
            if self._broken.done():
                callback(cast("EngineFailed", self._broken.exception()))
        try:
            yield
        finally:
            with self._lock:
                self._on_death.remove(callback)

    def close(self, timeout: float = GRACE_S) -> None:
        """Wait up to ``timeout`` seconds for the streams to end, then close the files. Never raises; idempotent.

        If a container still runs then, its recording stops. The recording's threads end at the container's next log
        line, and do not delay the end of the program.
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
            log.close()
        with self._lock:
            try:
                self._stats.close()
            except OSError as error:
                self.faults.append(f"series: {error}")

    def _log(self, node: str) -> NodeLog:
        with self._lock:
            if node not in self._logs:
                self._logs[node] = NodeLog(node, self._rundir, partial(self._fault, f"logs of {node}"))
            return self._logs[node]

    def _end(self, node: str) -> Future[NodeDied]:
        with self._lock:
            return self._ends.setdefault(node, Future())

    def _thread(self, stream: str, node: str, work: Callable[[], None]) -> Thread:
        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - report any error of a stream; the run goes on
                found = f"{type(error).__name__}: {error}"
                self._fault(f"{stream} of {node}", found)
                if stream != "stats":
                    unreadable = EngineFailed(f"the log of node {node}", found, "look at the engine's own log")
                    self._log(node).end(error if isinstance(error, Problem) else unreadable)

        thread = Thread(target=run, name=f"{stream} of {node}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _read_log(self, log: NodeLog, lines: Iterator[LogLine], ended: Event) -> None:
        for line in lines:
            if self._closed.is_set():
                return
            log.put(line)
        log.cut = True
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
        except Exception as error:  # noqa: BLE001 - any error must wake whoever waits for this end
            self._fault(f"end of {log.node}", f"{type(error).__name__}: {error}")
            lost = EngineFailed(f"the exit status of node {log.node}", f"none: {error}", "see whether the engine runs")
            self._break(log.node, lost)
            log.end(lost)
            self._end(log.node).set_exception(lost)
            return
        finally:
            ended.set()
        reader.join(GRACE_S)  # the last lines of the log hold the reason
        death = NodeDied(log.node, status, log.tail)
        self._break(log.node, death)
        log.end(death)
        self._end(log.node).set_result(death)

    def _exit_status(self, container: Node) -> int | None:
        """Wait for a container's end, with retries; return its exit status, or ``None`` if it was removed."""
        pauses = iter(PAUSES_S)
        while True:
            try:
                return container.wait()
            except ContainerGone:
                return None
            except Exception:
                pause = next(pauses, None)
                if pause is None or self._closed.wait(pause):  # polling: a stopped engine sends no event
                    raise

    def _break(self, node: str, error: EngineFailed) -> None:
        """Wake all waiters with ``error``, unless this node's end is expected; later errors have no effect."""
        with self._lock:
            if not self._all_expected and node not in self._expected and not self._broken.done():
                self._broken.set_exception(error)
                self.died.set()
                for callback in self._on_death:
                    callback(error)

    def _flush(self) -> None:
        while not self._closed.wait(FLUSH_S):  # at intervals: SIGKILL gives no time to flush
            for log in list(self._logs.values()):
                log.flush()

    def _fault(self, stream: str, error: str) -> None:
        self.faults.append(f"{stream}: {error}")
        try:
            with self._rundir.write_series("recorder") as series:
                series.write(json.dumps({"t": time.time(), "stream": stream, "error": error}) + "\n")
        except OSError as failed:
            self.faults.append(f"series/recorder.jsonl: {failed}")
