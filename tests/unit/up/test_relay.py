"""The relay of a bed: its queue and its log."""

from collections.abc import Sequence

import pytest

from orchestrator.bed import builtin
from orchestrator.errors import InvalidInput
from orchestrator.hosts import ContainerSpec, Output
from orchestrator.hosts.fake import FakeHost
from orchestrator.plan import make_plan
from orchestrator.services import Queued
from orchestrator.up.node import RunningNode
from orchestrator.up.relay import Relay

LISTED = """\
4A1
4A2
4A3
{"queue_name": "deferred", "queue_id": "4A1", "arrival_time": 1, "message_size": 300, "sender": "a@example.org", \
"recipients": [{"address": "b@example.com", "delay_reason": "later"}, {"address": "c@example.com"}]}
{"queue_name": "active", "queue_id": "4A3", "arrival_time": 1, "message_size": 300, "sender": "MAILER-DAEMON", \
"recipients": [{"address": "a@example.org"}]}
"""
LOG = [
    "Nov 27 12:00:00 relay postfix/smtpd[9]: connect from unknown[172.18.0.1]",
    "Nov 27 12:00:00 relay postfix/smtpd[9]: 4A1: client=unknown[172.18.0.1]",
    "Nov 27 12:00:00 relay postfix/qmgr[9]: 4A1: from=<a@example.org>, size=9, nrcpt=1 (queue active)",
    "Nov 27 12:00:00 relay postfix/qmgr[9]: 4A2: from=<a@example.org>, size=9, nrcpt=1 (queue active)",
    "Nov 27 12:00:00 relay postfix/smtp[9]: 4A2: to=<notb@example.com>, status=sent (250 for <b@example.com>)",
    "Nov 27 12:00:00 relay postfix/smtp[9]: 4A1: to=<B@example.com>, status=sent (250 2.0.0 Ok)",
    "Nov 27 12:00:00 relay postfix/smtpd[9]: NOQUEUE: reject: RCPT from x: 554 no; from=<x@y> to=<b@example.com>",
    "Nov 27 12:00:00 relay postfix/smtpd[9]: NOQUEUE: reject: RCPT from x: 554 no; from=<x@y> to=<z@example.com>",
    "Nov 27 12:00:00 relay postfix/qmgr[9]: 4A1: removed",
]


def relay(output: Output, log: Sequence[str] = (), node: str = "relay") -> Relay:
    plan = make_plan(builtin.bed("mail"), cpus=1).named(node)
    container = FakeHost(lambda *_: output, lambda _: log).create(
        ContainerSpec(name=node, image="", command=(), labels={})
    )
    container.start()
    return Relay(node=RunningNode(plan=plan, container=container))


def test_the_queue_names_sender_recipients_and_reasons() -> None:
    assert relay(Output(status=0, stdout=LISTED, stderr="")).queue() == [
        Queued(
            id="4A1",
            sender="a@example.org",
            recipients={"b@example.com": "later", "c@example.com": ""},
            state="deferred",
        ),
        Queued(id="4A2", sender="", recipients={}, state="moving"),
        Queued(id="4A3", sender="", recipients={"a@example.org": ""}, state="active"),
    ]


@pytest.mark.parametrize(
    ("state", "on_its_way"),
    [("deferred", False), ("hold", False), ("active", True), ("incoming", True), ("moving", True), ("maildrop", True)],
)
def test_mail_is_on_its_way_unless_it_waits(state: str, *, on_its_way: bool) -> None:
    assert Queued(id="1", sender="", recipients={}, state=state).on_its_way == on_its_way


def test_a_message_that_has_left_has_no_header_section() -> None:
    assert relay(Output(status=0, stdout="Subject: a\n", stderr="")).head("4A1") == b"Subject: a\n"
    assert relay(Output(status=1, stdout="", stderr="no such queue file")).head("4A1") is None


def test_the_log_of_a_recipient_has_all_lines_of_its_messages() -> None:
    of = relay(Output(status=0, stdout="", stderr=""), LOG)
    assert [line.text for line in of.log()] == LOG
    assert [line.text for line in of.log("b@example.com")] == [LOG[1], LOG[2], LOG[5], LOG[6], LOG[8]]
    assert of.log("nobody@example.com") == []


def test_a_node_without_a_queue_cannot_list_it() -> None:
    with pytest.raises(InvalidInput, match="a relay that lists its queue"):
        relay(Output(status=0, stdout="", stderr=""), node="dns").queue()
