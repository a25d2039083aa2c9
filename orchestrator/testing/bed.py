"""A bed in a test: its life, and what the whole bed does."""

import atexit
import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from orchestrator.bed import builtin
from orchestrator.bed.model import Bed
from orchestrator.errors import InvalidInput
from orchestrator.hosts import Host, cleaning, docker
from orchestrator.hosts.ownership import ID, NODE, Kind, deployed_beds
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import make_plan
from orchestrator.testing.inbox import BedInbox
from orchestrator.testing.mailbox import Mailbox
from orchestrator.testing.progress import Logged
from orchestrator.testing.relay import BedRelay
from orchestrator.testing.watchdog import guarded
from orchestrator.up.admission import admit, features_explained, reading
from orchestrator.up.attach import attach
from orchestrator.up.bed import RunningBed
from orchestrator.up.bringup import bring_up, verify


class MailBed:
    """A bed: a relay, DNS and an inbox in containers. Nothing leaves it, and it ends with the process that started it.

    Args:
        bed: the name of a built-in bed, a YAML file, or a bed in Python.
        host: the engine; by default the one that the docker command uses.
        name: name of the bed, shown by ``testbed ps``.
    """

    def __init__(self, bed: str | Path | Bed = "mail", *, host: Host | None = None, name: str | None = None) -> None:
        self._bed = bed if isinstance(bed, Bed) else builtin.bed(str(bed), called=name)
        self._host = host
        self._stack = ExitStack()
        self._running: RunningBed | None = None
        self._id = ""
        self._inbox: BedInbox | None = None

    @classmethod
    def attach(cls, id_: str, *, host: Host | None = None) -> Self:
        """Return the bed of this id that another process holds; ``stop`` leaves it up.

        Raises:
            InvalidInput: no bed has this id.
            EngineFailed: the bed is still being brought up.
        """
        engine = host or docker.connect()
        deployed = next((one for one in deployed_beds(engine) if one.id == id_), None)
        if deployed is None:
            raise InvalidInput(f"a bed with the id {id_}", "none", "see `testbed ps`")
        running = attach(engine, deployed)
        made = cls(running.plan.bed, host=engine)
        made._take(id_, running)
        return made

    def start(self) -> Self:
        """Bring the bed up; idempotent.

        Raises:
            HostCannot: the host lacks something that the bed needs.
            EngineFailed: no engine answers, or the bring-up failed.
        """
        if self._running is not None:
            return self
        host = self._host or docker.connect()
        steps = Logged()
        with ExitStack() as stack:
            stack.enter_context(guarded())
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="testbed-")))
            cpus = host.info().cpus
            with reading(host) as read:
                plan = make_plan(self._bed, cpus=cpus)
                verify(plan)
                cleaning.make_way(host, steps.say)
                admit(host, plan, read, disk=folder, steps=steps)
            rundir = RunDir.create(folder, "testing")
            with features_explained(host, plan.needs):
                identity, live = bring_up(
                    host,
                    self._bed,
                    kind=Kind.RUN,
                    rundir=rundir,
                    steps=steps,
                    stack=stack,
                    cpus=cpus,
                    statistics=False,
                    labels=self._labels(),
                )
            found = {one.labels[NODE]: one.ports for one in host.find({ID: identity.id}) if NODE in one.labels}
            nodes = {name: replace(node, ports=found[name]) for name, node in live.nodes.items()}
            self._take(identity.id, replace(live, nodes=nodes))
            self._stack = stack.pop_all()
        atexit.register(self._stop_at_exit, os.getpid())
        return self

    def _labels(self) -> Mapping[str, str]:
        """Return further labels of the bed's objects."""
        return {}

    def _take(self, id_: str, running: RunningBed) -> None:
        self._id, self._running, self._inbox = id_, running, BedInbox(running.inbox)
        self.begin()

    def stop(self) -> None:
        """Remove the bed, if this object brought it up; idempotent."""
        self._running = self._inbox = None
        atexit.unregister(self._stop_at_exit)
        self._stack.close()

    def _stop_at_exit(self, pid: int) -> None:
        """Stop at the end of the process that started the bed, and not of a child that it forked."""
        if os.getpid() == pid:
            self.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def id(self) -> str:
        """Id of the bed, as ``testbed ps`` shows it: ``attach`` takes it in another process."""
        return self._id

    @property
    def running(self) -> RunningBed:
        """The handle that scenarios hold, too.

        Raises:
            InvalidInput: the bed is not up.
        """
        if self._running is None:
            raise InvalidInput("a bed that is up", "it was not started, or was stopped", "use `with MailBed() as bed:`")
        return self._running

    @property
    def relay(self) -> BedRelay:
        """The relay, to which the program under test sends its mail."""
        return BedRelay(self.running.relay)

    @property
    def inbox(self) -> BedInbox:
        """The inbox, to which all mail comes."""
        return self._inbox or BedInbox(self.running.inbox)

    def begin(self) -> None:
        """Set the mark: from now on, ``wait_for``, ``messages`` and ``expect_none`` look only at later mail."""
        self.inbox.begin()

    def mailbox(self) -> Mailbox:
        """Return an address that no other test has, in the first domain of the bed."""
        return Mailbox(f"{secrets.token_hex(6)}@{self._bed.domain_names[0]}", self.inbox)

    def get_connection_url(self) -> str:
        """Return the address of the relay as a URL: ``smtp://127.0.0.1:32768``."""
        return f"smtp://{self.relay.host}:{self.relay.port}"
