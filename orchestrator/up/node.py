"""Handle to one node of a bed that is up: ports, commands, agents, log, pause, CPU pinning, expected end."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from queue import SimpleQueue
from threading import Thread
from typing import Any

from orchestrator.errors import EngineFailed, InvalidInput, NodeDied, TimedOut
from orchestrator.hosts import LOOPBACK, LogLine, Node, Output
from orchestrator.interrupts import shielded
from orchestrator.plan import NodePlan
from orchestrator.services.agents import PYTHON
from orchestrator.up.collect.recorder import Recorder

NEWS_S = 5.0
"""Grace period for an exit event after a failed call, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningNode:
    """One node. Every method raises ``EngineFailed`` if the engine refuses, or ``NodeDied`` if a node of its bed ended.

    Without a recorder the end of a node is not detected.
    """

    plan: NodePlan
    container: Node
    recorder: Recorder | None = None
    """Recorder of the bed; ``None``: another command brought the bed up."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Published ports when ``attach`` found the node: ``25/tcp`` -> port of ``published_at``."""
    published_at: str = LOOPBACK
    """Address of the host on which the ports are published."""

    @property
    def name(self) -> str:
        """Name in the bed."""
        return self.plan.name

    @property
    def address(self) -> IPv4Address | IPv6Address:
        """Service address."""
        return self.plan.address

    def port(self, port: str) -> int:
        """Return the published port for a container port such as ``25/tcp``.

        Raises:
            EngineFailed: the port is not published, for example because the node has ended.
        """
        if port not in self.ports:
            needed, found = f"port {port} of node {self.name} published", ", ".join(self.ports) or "no port is"
            raise EngineFailed(needed, found, f"see `testbed ps` and `testbed logs {self.name}`")
        return self.ports[port]

    @property
    def recording(self) -> Recorder:
        """The recorder of the bed.

        Raises:
            InvalidInput: the bed is not recorded.
        """
        if self.recorder is None:
            found = f"node {self.name} is in a bed that another command brought up"
            raise InvalidInput("a bed that is recorded", found, "use a bed that this process brings up")
        return self.recorder

    def exec(self, *command: str, timeout: float = 60) -> Output:
        """Run a command in the node, with the rights of the node's service.

        Raises:
            TimedOut: the command did not end within ``timeout`` seconds.
        """
        with self._death_first():
            return self.container.exec(command, capabilities=self.plan.capabilities, timeout=timeout)

    def ask(self, *command: str, timeout: float = 60) -> str:
        """Return a command's standard output; raises EngineFailed if its status is not 0. For evidence."""
        output = self.exec(*command, timeout=timeout)
        with self._death_first():
            if output.status != 0:
                needed = f"{' '.join(command)[:200]} in node {self.name} to succeed"
                found = f"status {output.status}: {output.failure[-500:]}"
                raise EngineFailed(needed, found, f"read the log of {self.name}")
        return output.stdout

    def change_network(self, script: str, *words: str) -> str:
        """Run a shell script that changes the node's routes or neighbours, with NET_ADMIN; return its output."""
        with self._death_first():
            output = self.container.exec(("sh", "-euc", script, "sh", *words))
            if output.status != 0:
                raise EngineFailed(f"the network of node {self.name} changed", output.failure, "report it")
        return output.stdout

    def pin(self, cpus: str) -> None:
        """Restrict the node to these CPUs (a list as in cpuset(7)), effective at once."""
        with self._death_first():
            self.container.pin(cpus)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Pause the node during the block: its connections stay open, but the node answers nothing."""
        with ExitStack() as stack:
            with shielded(), self._death_first():
                self.container.pause()
                stack.callback(shielded()(self.container.unpause))
            yield

    def log(self, *, follow: bool = False) -> Iterator[LogLine]:
        """Yield the node's log from its start; with ``follow`` until the node ends."""
        return self.container.logs(follow=follow)

    def wait_for_log(self, pattern: str, seconds: float) -> LogLine | None:
        """Wait up to ``seconds`` for a matching log line; lines already printed count. ``None``: no match.

        Raises:
            EngineFailed: the log cannot be read, or its recording has ended.
        """
        wanted = re.compile(pattern)
        with closing(self.recording.watch(self.name, wanted)) as watch:
            for line in self.log():
                if wanted.search(line.text):
                    return line
            try:
                self.recording.await_lines([watch], seconds)
            except TimedOut:
                return None
            return watch.found.result()

    def lines(self, command: Sequence[str], seconds: float) -> Iterator[str]:
        """Run a command and yield its standard output line by line.

        Raises:
            TimedOut: the command did not end within ``seconds``.
            EngineFailed: the command failed.
        """
        recorder = self.recording
        queue: SimpleQueue[str | BaseException | None] = SimpleQueue()

        def read() -> None:
            try:
                for line in self.container.exec_lines(command, capabilities=self.plan.capabilities, timeout=seconds):
                    queue.put(line)
                queue.put(None)
            except BaseException as error:  # noqa: BLE001 - passed to the waiting thread
                queue.put(error)

        reader = Thread(target=read, name=f"exec in {self.name}", daemon=True)
        reader.start()
        with recorder.on_death(queue.put):
            while isinstance(line := queue.get(), str):
                recorder.check()
                yield line
            recorder.check()
            reader.join()
            if line:
                with self._death_first():
                    raise line

    def run_agent(self, module: str, words: Iterable[object], seconds: float) -> Iterator[dict[str, Any]]:
        """Run a module of ``agents`` as ``lines`` runs a command, and yield the JSON objects that it prints."""
        for line in self.lines((*PYTHON, "-m", f"orchestrator.agents.{module}", *map(str, words)), seconds):
            try:
                item: dict[str, Any] = json.loads(line)
            except ValueError as error:
                with self._death_first():
                    raise EngineFailed(f"JSON from {module} in node {self.name}", line[:500], "read its log") from error
            yield item

    def end(self, seconds: float) -> NodeDied | None:
        """Wait up to ``seconds`` for the node's end and return its NodeDied; ``None`` if it still runs."""
        return self.recording.await_end(self.name, seconds)

    def expect_end(self) -> None:
        """From now on, do not count the end of this node as a death."""
        self.recording.expect_end(self.name)

    def on_death(self, act: Callable[[], None]) -> AbstractContextManager[None]:
        """Call ``act`` in another thread if a node of the bed ends during the block, or ended before."""
        return self.recorder.on_death(lambda _: act()) if self.recorder else nullcontext()

    def cause(self, error: EngineFailed) -> EngineFailed:
        """Return the cause of ``error``: NodeDied, or the engine's failure to report ends; else ``error`` itself."""
        if self.recorder:
            try:
                self.recorder.check()
                with suppress(EngineFailed):
                    self.recorder.await_end(self.name, NEWS_S)
                self.recorder.check()
            except EngineFailed as first:
                return first
        return error

    @contextmanager
    def _death_first(self) -> Iterator[None]:
        """Replace EngineFailed by NodeDied if a node of the bed has ended."""
        try:
            yield
        except EngineFailed as error:
            if (cause := self.cause(error)) is not error:
                raise cause from error
            raise
