"""A bed in a test: its start and end, its parts, and operations on the whole bed."""

import atexit
import os
import secrets
import ssl
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from email.message import EmailMessage
from pathlib import Path
from typing import Self

from orchestrator.bed.model import Bed
from orchestrator.bed.wiring import AUTHORITY
from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.hosts import LOOPBACK, Host, docker
from orchestrator.hosts.ownership import Kind, deployed_beds
from orchestrator.testing import life, outgoing, traffic
from orchestrator.testing.definition import Definition
from orchestrator.testing.dns import BedDns
from orchestrator.testing.inbox import BedInbox
from orchestrator.testing.mailbox import Mailbox
from orchestrator.testing.relay import BedRelay
from orchestrator.testing.rules import Rule
from orchestrator.testing.watchdog import guarded
from orchestrator.up.attach import attach
from orchestrator.up.bed import RecordedBed, RunningBed
from orchestrator.up.partition import partition


class MailBed(Definition):
    """A relay, DNS and an inbox in containers. No packet leaves the bed, and the bed ends with its process.

    A context manager: ``with MailBed() as bed:``. The methods ``with_...`` change the bed before its start, and return
    the bed: ``MailBed().with_domains("shop.example").start()``.

    Args:
        bed: the name of a built-in bed, a YAML file, or a bed in Python.
        host: the container engine; by default the engine that the docker command uses.
        name: name of the bed, as ``testbed ps`` shows it.
        publish_at: address of the engine's machine on which the ports are published. An engine on another machine
            needs ``0.0.0.0``, or one of its addresses; then every machine that reaches it can use the bed.
    """

    def __init__(
        self,
        bed: str | Path | Bed = "mail",
        *,
        host: Host | None = None,
        name: str | None = None,
        publish_at: str = LOOPBACK,
    ) -> None:
        self._host, self._publish_at = host, publish_at
        self._files, self._stack = ExitStack(), ExitStack()
        self._running: RunningBed | None = None
        self._inbox: BedInbox | None = None
        self._id = ""
        self.rules: list[Rule] = []
        """Rules and faults that this object made since its start, oldest first, including removed rules."""
        super().__init__(bed, name)

    # ------------------------------------------------------------------------------------------------------- its life

    @classmethod
    def attach(cls, id_: str, *, host: Host | None = None) -> Self:
        """Return a handle to a bed of another process; ``stop`` of this handle leaves the bed up.

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
        """Bring the bed up; idempotent. Missing images are built first. Progress goes to ``logging``.

        Raises:
            HostCannot: the host lacks something that the bed needs.
            EngineFailed: no engine answers, or the bring-up failed; notes on the error hold the end of each node's log.
        """
        return self.start_as(Kind.RUN)

    def start_as(self, kind: Kind, *, owner: str = "") -> Self:
        """Bring the bed up as ``start`` does, for the pytest plugin.

        A bed of ``Kind.UP`` gets a name that no other bed has. ``owner``: as in ``Identity``. If the owner
        is another process, this process starts no watchdog.
        """
        if self._running is not None:
            return self
        if kind is Kind.UP:
            self._change(name=f"{self._bed.name}-{secrets.token_hex(2)}")
        host = self._host or docker.connect()
        with ExitStack() as files, ExitStack() as stack:
            if kind is Kind.RUN and not owner:
                stack.enter_context(guarded())
            self._take(
                *life.start(
                    host,
                    self._bed,
                    self._publish_at,
                    kind=kind,
                    owner=owner,
                    files=files,
                    stack=stack,
                    labels=self._labels(),
                )
            )
            self._files, self._stack = files.pop_all(), stack.pop_all()
        atexit.register(self._stop_at_exit, os.getpid())
        return self

    def _labels(self) -> Mapping[str, str]:
        """Return the labels that another tool needs on the bed's objects."""
        return {}

    def stop(self) -> None:
        """Remove the bed, unless another process started it; idempotent.

        Raises:
            EngineFailed: a part of the bed could not be removed; `testbed clean` tries again.
        """
        self._running = self._inbox = None
        self.rules.clear()  # rules end with the bed
        atexit.unregister(self._stop_at_exit)
        with self._files:
            self._stack.close()

    def leave(self) -> None:
        """Release the bed without removing it: another process takes it down, or it stays up."""
        if isinstance(self._running, RecordedBed):
            self._running.recorder.close(timeout=0)
        self._stack.pop_all()
        self.stop()

    def _stop_at_exit(self, pid: int) -> None:
        """Stop the bed at the exit of the process that started it; the exit of a forked child leaves it up."""
        if os.getpid() == pid:
            self.stop()

    def _take(self, id_: str, running: RunningBed) -> None:
        inbox = BedInbox(running, self.rules)
        inbox.begin()
        self._id, self._running, self._inbox = id_, running, inbox

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------------------------ its parts

    @property
    def is_up(self) -> bool:
        """Whether the bed is up."""
        return self._running is not None

    @property
    def id(self) -> str:
        """Id of the bed, as ``testbed ps`` shows it; another process passes it to ``attach``."""
        return self._id

    @property
    def running(self) -> RunningBed:
        """The ``RunningBed``, as scenarios use it.

        Raises:
            InvalidInput: the bed is not up.
        """
        if self._running is None:
            found = "it was stopped" if self._id else "it was not started"
            raise InvalidInput("a bed that is up", found, "use `with MailBed() as bed:`")
        return self._running

    @property
    def relay(self) -> BedRelay:
        """The relay, to which the program under test sends its mail."""
        return BedRelay(self.running.relay, self.inbox.api.address)

    @property
    def inbox(self) -> BedInbox:
        """The inbox, which receives all mail of the bed."""
        return self._inbox or BedInbox(self.running, self.rules)

    @property
    def dns(self) -> BedDns:
        """The DNS of the bed."""
        return BedDns(self.running.dns, self.rules)

    @property
    def ca(self) -> str:
        """Certificate of the bed's authority (PEM). Certificates of its nodes also name 127.0.0.1 and localhost."""
        content = self.running.relay.node.container.read_file(AUTHORITY)
        if content is None:
            raise EngineFailed(f"{AUTHORITY} in the relay", "no such file", "report it")
        return content.decode()

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """TLS context for a client; it trusts the bed's authority only."""
        return ssl.create_default_context(cadata=self.ca)

    @property
    def network(self) -> str:
        """Name of the network that other containers may join.

        Raises:
            InvalidInput: the bed was started without ``with_network``.
        """
        deployed = next((one for one in deployed_beds(self.running.host) if one.id == self._id), None)
        if deployed is None or deployed.guest_network is None:
            raise InvalidInput("a network for other containers", "the bed has none", "start it after with_network()")
        return deployed.guests

    def get_connection_url(self) -> str:
        """Return the address of the relay: ``smtp://127.0.0.1:32768``."""
        return f"smtp://{self.relay.host}:{self.relay.port}"

    # ----------------------------------------------------------------------------------------------------- in a test

    def begin(self) -> None:
        """Set the mark: messages that arrived before this call no longer count."""
        self.inbox.begin()

    def mailbox(self, domain: str | None = None) -> Mailbox:
        """Return an address that no other test has, by default in the first domain of the bed."""
        return Mailbox(f"{secrets.token_hex(6)}@{domain or self._bed.domain_names[0]}", self.inbox)

    def send(
        self,
        message: EmailMessage | bytes | None = None,
        *,
        to: str | Iterable[str],
        sender: str | None = None,
        subject: str = "",
        text: str = "",
        attachments: Mapping[str, bytes] | None = None,
    ) -> None:
        """Send ``message`` unchanged, or compose it from the other arguments; return once the relay has accepted it.

        ``to``, ``sender``: recipients and sender of the envelope; the default sender is ``test`` at the first domain.
        ``attachments``: file name -> content.

        Raises:
            smtplib.SMTPException: the relay refused the message.
        """
        recipients = [to] if isinstance(to, str) else list(to)
        source = f"test@{self._bed.domain_names[0]}" if sender is None else sender
        if message is None:
            message = outgoing.compose(recipients, source, subject, text, attachments or {})
        outgoing.send(self.relay.host, self.relay.port, message, source, recipients)

    def settle(self, timeout: float = 10.0) -> None:
        """Wait up to ``timeout`` seconds until no mail is queued, deferred or on its way.

        Raises:
            Unsettled: some mail is still queued, deferred or on its way; the error lists it.
        """
        traffic.settle(self.running, timeout)

    def pause(self, node: str) -> AbstractContextManager[None]:
        """Freeze a node's processes during the block (cgroup freezer): connections stay open, but get no answer."""
        return self.running.running(node).pause()

    def partition(self, one: str, other: str) -> AbstractContextManager[None]:
        """Drop all packets between two nodes during the block, without an error, like a broken network."""
        return partition(self.running.plan, self.running.running(one), self.running.running(other))
