"""Handle to a bed that is up: its nodes and servers, readings of a run, and the first messages through the relay."""

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator import strict_json
from orchestrator.bed.cpu_topology import Topology
from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.hosts import Host, capacity
from orchestrator.hosts.kernel_settings import HostSettings
from orchestrator.hosts.ownership import DeployedBed
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import Plan
from orchestrator.services import Role, inbox
from orchestrator.services.agents import PYTHON, RECIPIENTS
from orchestrator.up import load
from orchestrator.up.collect import kernel
from orchestrator.up.collect.cpus import COMMAND, recorded
from orchestrator.up.collect.recorder import Recorder
from orchestrator.up.dns import Dns
from orchestrator.up.inbox import Inbox
from orchestrator.up.node import RunningNode
from orchestrator.up.relay import Relay
from orchestrator.up.sink import Sink

FIRST_MAIL_S = 30.0
"""Time limit for the delivery of a bed's first messages."""
POLL_S = 0.5
"""Polling interval for a condition that no event reports, such as an empty relay queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBed:
    """A bed that is up, whichever command started it. Its methods raise the errors of ``RunningNode``."""

    host: Host
    plan: Plan
    nodes: Mapping[str, RunningNode]
    """Name -> node, in start order."""
    deployed: DeployedBed | None = None
    """State of the bed when ``attach`` found it; ``None``: a recorder detects the end of a node."""

    def running(self, name: str) -> RunningNode:
        """Return the node of this name.

        Raises:
            EngineFailed: the node had ended, or its container was removed, when ``attach`` found the bed.
            InvalidInput: the bed has no such node.
        """
        if self.deployed:
            self.deployed.check_running(name)
        if name not in self.nodes:
            raise InvalidInput(f"a node called {name!r}", f"the bed has {', '.join(self.nodes)}", "name one of these")
        return self.nodes[name]

    def role(self, role: Role) -> RunningNode:
        """Return the first node with a role.

        Raises:
            EngineFailed: as in ``running``.
            InvalidInput: no node has this role.
        """
        return self.running(self.plan.node(role).name)

    @property
    def relay(self) -> Relay:
        """The relay."""
        return Relay(node=self.role(Role.RELAY))

    @property
    def sink(self) -> Sink:
        """The sink."""
        return Sink(node=self.role(Role.SINK))

    @property
    def inbox(self) -> Inbox:
        """The inbox."""
        for node in self.plan.nodes:
            if node.service == inbox.SERVICE.name:
                machine = self.host.address.host if self.host.address else "localhost"
                return Inbox(node=self.running(node.name), machine=machine)
        raise InvalidInput("a node of the service inbox", f"none in bed {self.plan.bed.name}", "use the bed `mail`")

    @property
    def dns(self) -> Dns:
        """The DNS server and its gate."""
        return Dns(role=self.role)

    def topology(self) -> Topology:
        """Return the CPUs of the host: threads, cores, sockets."""
        return capacity.read(self.host).topology

    def kernel_log(self, pattern: str, after: Collection[kernel.KernelLine] = ()) -> list[kernel.KernelLine] | None:
        """Return the lines of the host's kernel log that match ``pattern`` (grep -E) and are not in ``after``.

        ``None``: the log is not readable.
        """
        try:
            return kernel.lines(self.host, pattern, after)
        except EngineFailed:
            return None

    def kernel_settings(self, wanted: Mapping[str, str]) -> HostSettings:
        """Return a context that can raise settings of the host's kernel; see ``HostSettings``."""
        return HostSettings(self.host, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBed(RunningBed):
    """A bed that is up, and recorded into a run directory."""

    recorder: Recorder
    rundir: RunDir
    phases: list[dict[str, Any]] = field(default_factory=list)
    """Named periods: ``name``, ``start`` and ``end`` (Unix time)."""

    send = load.send

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the block's start and end under a name, for run.json and the charts."""
        start = time.time()
        try:
            yield
        finally:
            self.phases.append({"name": name, "start": start, "end": time.time()})

    def keep(self, reading: str, label: str, value: float, *, at: float | None = None) -> None:
        """Append one reading, taken now or at Unix time ``at``, to series/readings.jsonl.

        ``reading``: the chart's title, a quantity with its unit (``open files``, ``neighbour entries``). ``label``: a
        line in this chart, often the name of a node.
        """
        with self.rundir.write_series("readings") as series:
            point = {"t": at or time.time(), "name": reading, "label": label, "value": value}
            series.write(strict_json.dumps(point) + "\n")

    def record_cpus(self, name: str, cpus: Iterable[int] | None = None) -> AbstractContextManager[None]:
        """Record the use of these CPUs (``None``: all) during the block in results/<name>-cpus.json."""
        return recorded(self.rundir, name, lambda: self.relay.node.ask(*COMMAND), cpus)

    def until(self, holds: Callable[[], bool], seconds: float, every: float = POLL_S) -> bool:
        """Poll a condition at once and every ``every`` seconds, for at most ``seconds``; return whether it holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            self.recorder.died.wait(every)
            self.recorder.check()
        return True

    def check(self) -> None:
        """Raise NodeDied if a node ended unexpectedly, or EngineFailed if the engine cannot report ends any more."""
        self.recorder.check()

    def measurements(self) -> Measurements:
        """Return the measurements so far, without measurements from the relay's log."""
        return Measurements.read(self.rundir, logs=False)

    def deliver_first(self, domains: Sequence[str]) -> None:
        """Send one message to each of these domains through the relay, and wait until all messages have arrived.

        Raises:
            EngineFailed: a message was refused, or did not arrive.
        """
        run = secrets.token_hex(4)
        sender, relay = self.role(Role.LOAD), self.relay
        arrival = self.sink.expect(run, len(domains)) if self.sink.counts else None
        words = ("--server", str(relay.node.address), "--run", run, "--domains", ",".join(domains))
        recipients = ("--recipients", RECIPIENTS) if RECIPIENTS in sender.plan.files else ()
        output = sender.exec(*PYTHON, "-m", "orchestrator.agents.probe", *words, *recipients)
        if output.status != 0:
            needed = f"a message to each of {', '.join(domains)} accepted by node {relay.node.name}"
            raise EngineFailed(needed, output.failure, "read the relay's log")
        if arrival:
            self.recorder.await_lines([arrival], FIRST_MAIL_S)
        elif not self.until(lambda: relay.queue_length() == 0, FIRST_MAIL_S):
            raise EngineFailed("the first messages delivered", "they are still queued", "read the relay's log")
