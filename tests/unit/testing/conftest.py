"""A bed whose inbox is real, in a thread of the test's process, and whose other nodes answer as a test says."""

import json
import smtplib
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.bed import builtin
from orchestrator.hosts import ContainerSpec, Output
from orchestrator.hosts.fake import FakeHost
from orchestrator.plan import make_plan
from orchestrator.testing.inbox import BedInbox
from orchestrator.up.bed import RunningBed
from orchestrator.up.node import RunningNode
from tests.unit.agents.inbox.conftest import Inbox, make_inbox, tls

__all__ = ["make_inbox", "tls"]


class Bed:
    """The bed, and the answers of its nodes other than the inbox."""

    def __init__(self, served: Inbox) -> None:
        self.served = served
        self.queues: list[list[dict[str, Any]]] = []
        """What the relay's queue holds, one look after the other; the last one stays."""
        self.heads: dict[str, str] = {}
        """Header section of queued messages, by id."""
        self.log: list[str] = []
        self.faults: list[dict[str, Any]] = []
        host, plan = FakeHost(self._answer, lambda _: self.log), make_plan(builtin.bed("mail"), cpus=2)
        nodes = {}
        for node in plan.nodes:
            container = host.create(ContainerSpec(name=node.name, image="", command=(), labels={}))
            container.start()
            nodes[node.name] = RunningNode(plan=node, container=container, ports={"8025/tcp": served.http})
        self.running = RunningBed(host=host, plan=plan, nodes=nodes)
        self.inbox = BedInbox(self.running, [])

    def _answer(self, spec: ContainerSpec, command: tuple[str, ...]) -> Output:
        if spec.name == "gate":
            return Output(status=0, stdout=json.dumps(self.faults), stderr="")
        if command[0] == "postcat":
            head = self.heads.get(command[-1])
            return Output(status=int(head is None), stdout=head or "", stderr="no such queue file")
        queue = self.queues.pop(0) if len(self.queues) > 1 else (self.queues or [[]])[0]
        lines = [str(one["queue_id"]) for one in queue] + [json.dumps(one) for one in queue if "recipients" in one]
        return Output(status=0, stdout="\n".join(lines), stderr="")

    def take(
        self, *recipients: str, sender: str = "ann@example.org", content: str = "Subject: hello\r\n\r\nhi\r\n"
    ) -> None:
        """Deliver a message to the inbox."""
        with smtplib.SMTP("127.0.0.1", self.served.port, timeout=10) as smtp:
            smtp.sendmail(sender, recipients, content)


def queued(
    id_: str, *recipients: str, state: str = "deferred", sender: str = "ann@example.org", reason: str = "later"
) -> dict[str, Any]:
    """Return a line of `postqueue -j`."""
    reasons = {"delay_reason": reason} if state == "deferred" else {}
    to = [{"address": address, **reasons} for address in recipients]
    return {"queue_name": state, "queue_id": id_, "sender": sender, "recipients": to}


@pytest.fixture
def bed(make_inbox: Callable[..., Inbox]) -> Bed:
    return Bed(make_inbox())
