"""The handle to a bed that is up: what scenarios and tests hold."""

import json
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from orchestrator import services, strict_json
from orchestrator.agents.contract import LoadOrder, LoadReport, SinkReport
from orchestrator.bed.wiring import without_setup_rights
from orchestrator.errors import EngineFailed, InvalidInput, NodeDied
from orchestrator.hosts import Host, LogLine, Output
from orchestrator.measurements.rundir import RunDir, check_name
from orchestrator.plan import NodePlan, Plan
from orchestrator.services import Counts, Offer, OffersLoad, Role, offered
from orchestrator.services.agents import DOMAINS, PYTHON, RECIPIENTS
from orchestrator.services.offered import Offered
from orchestrator.up.collect.cpus import COMMAND, recorded
from orchestrator.up.collect.recorder import Recorder

HEARTBEAT_S = 0.5
"""How soon a dead container is noticed while nothing else happens."""
NEWS_S = 5.0
"""Grace period for an exit event after a failed call, in seconds."""
UNBOUNDED_S = 86_400.0
"""Time limit of a load that has a message count but no duration."""
OVERTIME_S = 120.0
"""Extra time beyond a load's duration before it counts as hung."""
PROBE_S = 30.0
"""How long the first messages may be on their way."""
POLL_S = 0.5
"""How often the sink is asked what has arrived while a relay drains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A bed that is up, and is being recorded."""

    engine: Host
    plan: Plan
    containers: Mapping[str, str]
    """Name of the node -> id of its container."""
    recorder: Recorder
    rundir: RunDir
    phases: list[dict[str, Any]] = field(default_factory=list)
    """What was done with the bed: name, start and end (Unix time)."""
    _sent: dict[str, LoadReport] = field(default_factory=dict)
    _foreign: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Name of a load that another generator offered -> its run, and when it ended."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Enclose something that is done with the bed: run.json and the pictures show when."""
        start = time.time()
        try:
            yield
        finally:
            self.phases.append({"name": name, "start": start, "end": time.time()})

    def keep(self, reading: str, label: str, value: float, *, at: float | None = None) -> None:
        """Append one reading, taken now or at Unix time ``at``, to series/readings.jsonl.

        ``reading`` names the quantity with its unit (``open files``, ``neighbour entries``) and makes a picture,
        ``label`` a line in it, mostly a node.
        """
        with self.rundir.write_series("readings") as series:
            series.write(
                strict_json.dumps({"t": at or time.time(), "name": reading, "label": label, "value": value}) + "\n"
            )

    def exec(self, node: NodePlan, *command: str, timeout: float = 60) -> Output:
        """Run a command in a node, with the rights of its service.

        Raises:
            NodeDied: it ended, and so does this.
            EngineFailed: the engine refused.
        """
        whole = without_setup_rights(command, node.capabilities)
        with self._of_a_living(node):
            return self.engine.node(self.containers[node.name]).exec(whole, timeout=timeout)

    def ask(self, node: NodePlan, *command: str, timeout: float = 60) -> str:
        """Return a command's standard output; a non-zero exit status raises. Evidence must come through here.

        Raises:
            NodeDied: it ended, and so does this.
            EngineFailed: the command failed, or the engine refused.
        """
        done = self.exec(node, *command, timeout=timeout)
        with self._of_a_living(node):
            if done.status != 0:
                needed = f"{' '.join(command)[:200]} in node {node.name} to succeed"
                raise EngineFailed(
                    needed, f"status {done.status}: {done.failure[-500:]}", f"read the log of {node.name}"
                )
        return done.stdout

    def rewire(self, node: NodePlan, script: str, *words: str) -> str:
        """Change routes or neighbours of a node by a shell script, with the rights that its start has (NET_ADMIN).

        Returns what the script prints.

        Raises:
            NodeDied: it ended, and so does this.
            EngineFailed: the script failed.
        """
        with self._of_a_living(node):
            done = self.engine.node(self.containers[node.name]).exec(("sh", "-euc", script, "sh", *words))
            if done.status != 0:
                raise EngineFailed(f"the network of node {node.name} changed", done.failure, "report it")
        return done.stdout

    def pin(self, node: NodePlan, cpus: str) -> None:
        """Let a node run on these CPUs only, from now on; a list as in cpuset(7).

        Raises:
            NodeDied: it ended.
            EngineFailed: the engine refused: there are no such CPUs.
        """
        with self._of_a_living(node):
            self.engine.node(self.containers[node.name]).pin(cpus)

    def record_cpus(self, load: str, cpus: Iterable[int] | None = None) -> AbstractContextManager[None]:
        """Record the use of these CPUs (``None``: all) during the block in results/<load>-cpus.json."""
        relay = self.plan.node(Role.RELAY)
        return recorded(self.rundir, load, lambda: self.ask(relay, *COMMAND), cpus)

    @contextmanager
    def _of_a_living(self, node: NodePlan) -> Iterator[None]:
        """Raise NodeDied instead if the failed call's container has exited."""
        try:
            yield
        except EngineFailed:
            with suppress(EngineFailed):
                self.recorder.await_end(node.name, NEWS_S)
            self.recorder.check()
            raise

    def seen(self, node: NodePlan, pattern: str, seconds: float) -> LogLine | None:
        """Wait up to ``seconds`` for a matching log line; earlier lines count. ``None``: no match.

        Raises:
            NodeDied: it ended without such a line, or another node died.
        """
        wanted = re.compile(pattern)
        with self.recorder.watch(node.name, wanted) as watch:
            for line in self.engine.node(self.containers[node.name]).logs(follow=False):
                if wanted.search(line.text):
                    return line
            try:
                self.recorder.await_lines([watch], seconds)
                return watch.wait(0)
            except NodeDied:
                raise
            except EngineFailed:
                return None

    def probe(self, domains: Sequence[str]) -> None:
        """Send one message to each of these domains through the relay, and wait until the sink has them all.

        Raises:
            EngineFailed: one was refused, or did not arrive.
            NodeDied: a container ended.
        """
        run = secrets.token_hex(4)
        load, relay = self.plan.node(Role.LOAD), self.plan.node(Role.RELAY)
        arrival = None
        if self._counts:
            arrival = self.recorder.watch(self.plan.node(Role.SINK).name, rf'"complete": "{run}"')
            self._control("expect", run, str(len(domains)))
        words = ("--domains", ",".join(domains), *_recipients(load))
        server = ("--server", str(relay.address), "--run", run, *words)
        sent = self.exec(load, *PYTHON, "-m", "orchestrator.agents.probe", *server)
        if sent.status != 0:
            raise EngineFailed(
                f"a message to each of {', '.join(domains)} accepted by node {relay.name}",
                sent.failure,
                "read the relay's log",
            )
        if arrival:
            self.recorder.await_lines([arrival], PROBE_S)
        elif not self._emptied(PROBE_S):
            raise EngineFailed("the first messages delivered", "they are still queued", "read the relay's log")

    def send(self, phase: str, order: Mapping[str, Any]) -> LoadReport:
        """Offer one load and keep what both ends say of it, as results/<phase>-load.json and -sink.json.

        Raises:
            EngineFailed: the generator broke, or went on for much longer than it was told to.
            NodeDied: a container ended.
        """
        load = self.plan.node(Role.LOAD)
        sender = f"load@{self.plan.deliveries[0].domain}"
        full = LoadOrder.from_dict({"run": secrets.token_hex(4), "domains": [], "sender": sender, **order})
        self._begin(full.run, phase)
        allowed = (full.seconds or UNBOUNDED_S) + full.timeout + OVERTIME_S
        report = None
        with self.rundir.write_series("load") as series:
            for said in self.told(load, _load_command(full, load), allowed):
                if "tick" in said:
                    series.write(json.dumps({"phase": phase, **said["tick"]}) + "\n")
                if "report" in said:
                    report = LoadReport.from_dict(said["report"])
        if report is None:
            raise EngineFailed(f"a report of load {phase}", "none", "read logs/ in the run directory")
        self.phases.append({"name": phase, "start": report.started, "end": report.ended})
        self.rundir.save_result(f"{phase}-load", report.to_dict())
        self._sent[phase] = report
        if self._counts:
            self.account(phase)
        return report

    def offer(self, phase: str, node: NodePlan, load: Offer) -> Offered:
        """Run a third-party load generator and save its result as results/<phase>-offer.json.

        Raises:
            InvalidInput: the service of the node cannot offer it.
            EngineFailed: the generator did not end when it was told to.
            NodeDied: a container ended.
        """
        kind = services.service(node.service)
        if not isinstance(kind, OffersLoad):
            raise InvalidInput("a load generator other than ours", f"service {node.service}", "send() drives ours")
        command, run = kind.command(load), secrets.token_hex(4)
        self._begin(run, phase)
        lines = self.lines(node, offered.script(command, load.seconds, kind.period_s), load.seconds + OVERTIME_S)
        done = offered.read(lines, run=run, node=node.name, command=command)
        if self._counts:
            done = replace(done, arrived=self._arrived(run))
        self.phases.append({"name": phase, "start": done.started, "end": done.ended})
        self.rundir.save_result(f"{phase}-offer", done.to_dict())
        self._foreign[phase] = (run, done.ended)
        return done

    def account(self, phase: str) -> SinkReport:
        """Ask the sink what arrived of a load, and keep it as results/<phase>-sink.json."""
        said = self._control("report", self._sent[phase].run)
        self.rundir.save_result(f"{phase}-sink", said)
        return SinkReport.from_dict(said)

    def drain(self, phase: str, seconds: float, *, name: str = "drain") -> None:
        """Wait up to ``seconds`` for an empty relay queue; save the result as results/<phase>-queue.json.

        ``name``: what the wait is called among the phases.

        Raises:
            NodeDied: a container ended.
        """
        load = self._sent.get(phase)
        run, sent_until = (load.run, load.ended) if load else self._foreign[phase]
        deadline = time.monotonic() + seconds
        arrived = -1
        while True:
            before, arrived = arrived, self._arrived(run)
            left = load.accepted - arrived if load else 1
            late = time.monotonic() > deadline
            # A long queue is slow to list: the relay is asked when nothing more arrives.
            if left <= 0 or arrived == before or late:
                left = self._held(left)
            if left <= 0 or late:
                break
            self.recorder.died.wait(POLL_S)
            self.recorder.check()
        ended = time.time()
        self.phases.append({"name": name, "start": sent_until, "end": ended})
        self.rundir.save_result(f"{phase}-queue", {"left": max(left, 0), "seconds": ended - sent_until})
        if load and self._counts:
            self.account(phase)

    @property
    def _counts(self) -> bool:
        """Whether the sink can say what has arrived."""
        return isinstance(services.service(self.plan.node(Role.SINK).service), Counts)

    def _begin(self, run: str, phase: str) -> None:
        """Open the sink's ledger of a load, if it keeps one; the load's name becomes part of file names."""
        check_name(phase)
        if self._counts:
            self._control("begin", run)
            self.recorder.keep_ticks(self.plan.node(Role.SINK).name, run, phase)

    def _arrived(self, run: str) -> int:
        """Return how many messages of a load the sink has, those of other generators among them."""
        if not self._counts:
            return 0
        count = self._control("count", run)
        return int(count["delivered"]) + int(count["foreign"])

    def _held(self, otherwise: int) -> int:
        """Return the relay's queue length, or ``otherwise`` if the relay cannot report one.

        Raises:
            EngineFailed: the queue could not be listed, which is no empty queue.
        """
        relay = self.plan.node(Role.RELAY)
        queue = services.queue_of(relay.service)
        return queue.length(self.ask(relay, *queue.command)) if queue else otherwise

    def _emptied(self, seconds: float) -> bool:
        """Wait until the relay holds no mail, at most so long."""
        deadline = time.monotonic() + seconds
        while self._held(1):
            if time.monotonic() > deadline:
                return False
            self.recorder.died.wait(POLL_S)
            self.recorder.check()
        return True

    def _control(self, *words: str) -> dict[str, Any]:
        """Tell the sink something, and return what it says."""
        sink = self.plan.node(Role.SINK)
        kind = services.service(sink.service)
        if not isinstance(kind, Counts):
            raise InvalidInput("a sink that accounts for messages", f"service {sink.service}", "take another sink")
        answer = self.ask(sink, *kind.control, *words)
        self.recorder.check()
        said: dict[str, Any] = json.loads(answer)
        return said

    def told(self, node: NodePlan, command: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
        """Yield each JSON line that an agent prints; raise if any node dies.

        Raises:
            NodeDied: a container ended.
            EngineFailed: the agent failed, goes on after so many seconds, or never began: then the engine prints why.
        """
        for line in self.lines(node, command, seconds):
            try:
                said: dict[str, Any] = json.loads(line)
            except ValueError as error:
                with self._of_a_living(node):
                    raise EngineFailed(f"{command[0]} in node {node.name}", line[:500], "read its log") from error
            yield said

    def lines(self, node: NodePlan, command: Sequence[str], seconds: float) -> Iterator[str]:
        """Yield what a command in a node prints, for as long as every node lives.

        Raises:
            NodeDied: a container ended.
            EngineFailed: the command failed, or goes on after so many seconds.
        """
        queue: SimpleQueue[str | BaseException | None] = SimpleQueue()
        whole = without_setup_rights(command, node.capabilities)

        def read() -> None:
            try:
                for line in self.engine.node(self.containers[node.name]).exec_lines(whole):
                    queue.put(line)
                queue.put(None)
            except BaseException as error:  # noqa: BLE001  handed over to the thread that waits
                queue.put(error)

        reader = Thread(target=read, name=f"exec in {node.name}", daemon=True)
        reader.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            said: str | BaseException | None = ""
            with suppress(Empty):
                said = queue.get(timeout=HEARTBEAT_S)
            self.recorder.check()
            if said is None or isinstance(said, BaseException):
                reader.join()  # it has said its last word
            if said is None:
                return
            if isinstance(said, BaseException):
                with self._of_a_living(node):
                    raise said
            if said:
                yield said
        needed = f"{command[0]} in node {node.name} to end within {seconds:.0f} s"
        raise EngineFailed(needed, "it goes on", "read its log")


def _load_command(order: LoadOrder, node: NodePlan) -> tuple[str, ...]:
    """Return the command of a load; its names are in files, because one argument holds 128 KiB (execve(2))."""
    words = {name: value for name, value in order.to_dict().items() if name not in {"domains", "recipients"}}
    names = ("--domains", DOMAINS, *_recipients(node))
    return (*PYTHON, "-m", "orchestrator.agents.load", *names, json.dumps(words))


def _recipients(node: NodePlan) -> tuple[str, ...]:
    """Return the option that names the file of a generator's recipients, if it has one."""
    return ("--recipients", RECIPIENTS) if RECIPIENTS in node.files else ()
