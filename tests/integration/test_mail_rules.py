"""Every action of the rules of inbox and DNS gate, through a real Postfix: its queue, its log, and what arrives."""

import json
import re
import smtplib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import pytest
from dns import query, rcode
from dns.message import make_query
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.hosts import Host, Node
from orchestrator.hosts.ownership import ID, NODE
from tests.integration.beds import Up, bring_down, bring_up

pytestmark = [pytest.mark.docker, pytest.mark.timeout(60, func_only=True)]

_ATTEMPT = re.compile(r" (\w+): to=<([^>]+)>, .* delays=([\d./]+), dsn=([\d.]+), status=(\w+) \((.*)\)$")
"""A line of smtp(8) for each delivery attempt."""


class Attempt(NamedTuple):
    """One delivery attempt of one recipient, as the relay logs it."""

    status: str
    dsn: str
    reply: str
    transmission_s: float
    """The last of ``delays`` (postconf(5), delay_logging_resolution_limit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """The relay of the bed."""

    node: Node
    port: int

    def take(self, *recipients: str, sender: str = "ann@example.org") -> None:
        """Send a message to each recipient."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=10) as smtp:
            for to in recipients:
                smtp.sendmail(sender, to, f"Subject: to {to}\r\n\r\ntext\r\n")

    def attempts(self, to: str, count: int | None = None) -> list[Attempt]:
        """Follow the log until ``count`` attempts to deliver to a recipient, or until its message leaves the queue."""
        seen, ids = [], set()
        with closing(self.node.logs(follow=True)) as log:  # type: ignore[type-var]  # a generator
            for line in log:
                if (match := _ATTEMPT.search(line.text)) and match[2] == to:
                    ids.add(match[1])
                    delays, dsn, status, reply = match.groups()[2:]
                    seen.append(Attempt(status, dsn, reply, float(delays.rpartition("/")[2])))
                    if len(seen) == count:
                        break
                elif line.text.endswith(tuple(f" {one}: removed" for one in ids)):
                    break
        return seen

    def queue(self) -> dict[str, dict[str, Any]]:
        """Return the messages in the queue, by recipient."""
        listed = map(json.loads, self._run("postqueue -j").splitlines())
        return {message["recipients"][0]["address"]: message for message in listed}

    def flush(self, *recipients: str) -> list[str]:
        """Wait for each recipient's message in the deferred queue, flush it, and return why the messages were there."""
        script = """
            for to do
                until postqueue -j | grep "\\"queue_name\\": \\"deferred\\".*\\"$to\\""; do :; done
            done
            postqueue -f"""
        listed = map(json.loads, self._run(script, *recipients).splitlines())
        return [message["recipients"][0]["delay_reason"] for message in listed]

    def _run(self, script: str, *words: str) -> str:
        done = self.node.exec(("sh", "-euc", script, "sh", *words))
        assert done.status == 0, done.stderr
        return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """The inbox of the bed."""

    http: httpx.Client

    def rule(self, *rules: dict[str, Any]) -> None:
        """Replace the rules."""
        self.http.put("/api/rules", json=rules).raise_for_status()

    def of(self, to: str) -> list[dict[str, Any]]:
        """Return the messages to a recipient."""
        return list(self.http.get("/api/messages", params={"to": to}).json()["messages"])

    def whole(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message with its text and its parts."""
        return dict(self.http.get(f"/api/messages/{message['id']}").json())

    def verdicts(self, to: str) -> list[dict[str, Any]]:
        """Return the attempts that a rule decided for a recipient: ``t``, ``then``, ``reply``, ..."""
        events = self.http.get("/api/attempts").json()["events"]
        return [{**e["data"], "t": e["t"]} for e in events if to in e["data"]["recipients"]]


@pytest.fixture(scope="module")
def bed(real_engine: Host) -> Iterator[Up]:
    up = bring_up("mail")
    yield up
    bring_down(real_engine, up)


@pytest.fixture(scope="module")
def relay(real_engine: Host, bed: Up) -> Relay:
    (found,) = real_engine.find({ID: bed.id, NODE: "relay"})
    return Relay(node=real_engine.node(found.id), port=bed.port("relay", "25/tcp"))


@pytest.fixture(scope="module")
def inbox(bed: Up) -> Iterator[Inbox]:
    with httpx.Client(base_url=f"http://127.0.0.1:{bed.port('inbox', '8025/tcp')}", timeout=40) as client:
        yield Inbox(http=client)


LOST = "lost connection with mx.example.com"


@pytest.mark.parametrize(
    ("rule", "dsn", "reason"),
    [
        ({"then": "defer", "reply": "451 4.2.1 later", "times": 1}, "4.2.1", "451 4.2.1 later"),
        ({"then": "disconnect", "times": 1}, "4.4.2", LOST),
        ({"then": "disconnect", "reply": "421 4.3.2 closing", "times": 1}, "4.3.2", "421 4.3.2 closing"),
        ({"then": "disconnect", "on": "data", "times": 1}, "4.4.2", LOST),
        ({"then": "reset", "times": 1}, "4.4.2", LOST),
        ({"then": "reset", "on": "message", "times": 1}, "4.4.2", LOST),
    ],
    ids=lambda given: f"{given['then']}-{given.get('on', 'rcpt')}" if isinstance(given, dict) else None,
)
def test_it_is_kept_and_after_a_flush_delivered_once_in_less_than_2_s(
    relay: Relay, inbox: Inbox, rule: dict[str, Any], dsn: str, reason: str
) -> None:
    to = f"{rule['then']}-{rule.get('on')}-{dsn}@example.com"
    inbox.rule({"to": to, **rule})
    relay.take(to)
    (why,) = relay.flush(to)
    assert reason in why
    assert [(a.status, a.dsn) for a in relay.attempts(to)] == [("deferred", dsn), ("sent", "2.0.0")]
    delivered_once(inbox, to, rule["then"])


def delivered_once(inbox: Inbox, to: str, then: str) -> None:
    """Check that a rule refused the first attempt, and that one message came within 2 s of it."""
    (first,) = inbox.verdicts(to)
    (message,) = inbox.of(to)
    assert first["then"] == then
    assert message["t"] - first["t"] < 2


def test_greylisting_knows_the_relay_again_when_the_queue_is_flushed(relay: Relay, inbox: Inbox) -> None:
    inbox.rule({"to": "grey*", "then": "greylist", "delay_s": 0.01})
    recipients = [f"grey{i}@example.com" for i in range(8)]
    relay.take(*recipients)
    assert all("450 4.7.1 Greylisted, try again later" in reason for reason in relay.flush(*recipients))
    for to in recipients:
        assert [(a.status, a.dsn) for a in relay.attempts(to)] == [("deferred", "4.7.1"), ("sent", "2.0.0")]
        delivered_once(inbox, to, "greylist")


def test_deferred_mail_is_tried_again_within_seconds_without_a_flush(relay: Relay, inbox: Inbox) -> None:
    inbox.rule({"to": "again@example.net", "then": "defer", "times": 1})
    relay.take("again@example.net")
    assert [a.status for a in relay.attempts("again@example.net")] == ["deferred", "sent"]
    (first,) = inbox.verdicts("again@example.net")
    (message,) = inbox.of("again@example.net")
    assert message["t"] - first["t"] < 10


def test_a_rejected_message_leaves_the_queue_and_the_relay_tells_its_sender(relay: Relay, inbox: Inbox) -> None:
    inbox.rule({"to": "gone@example.com", "then": "reject", "reply": "550 5.1.1 no such user"})
    relay.take("gone@example.com", sender="eve@example.org")
    assert [(a.status, a.dsn) for a in relay.attempts("gone@example.com")] == [("bounced", "5.1.1")]
    assert [a.status for a in relay.attempts("eve@example.org")] == ["sent"]
    assert inbox.of("gone@example.com") == []
    (notice,) = inbox.of("eve@example.org")
    assert notice["sender"] == ""
    assert "550 5.1.1 no such user" in " ".join(inbox.whole(notice)["text"].split())


def test_a_bounced_message_is_delivered_and_its_notification_comes_through_the_relay(
    relay: Relay, inbox: Inbox
) -> None:
    inbox.rule({"to": "full@example.com", "then": "bounce"})
    relay.take("full@example.com", sender="finn@example.org")
    assert [(a.status, a.dsn) for a in relay.attempts("full@example.com")] == [("sent", "2.0.0")]
    assert [a.status for a in relay.attempts("finn@example.org")] == ["sent"]
    (notice,) = inbox.of("finn@example.org")
    assert notice["sender"] == ""
    whole = inbox.whole(notice)
    assert "full@example.com" in whole["text"]
    assert [part["content_type"] for part in whole["parts"]][1:] == ["message/delivery-status", "text/rfc822-headers"]


def test_a_tarpit_holds_the_delivery_up_and_nothing_else(relay: Relay, inbox: Inbox) -> None:
    inbox.rule({"to": "slow@example.com", "then": "tarpit", "delay_s": 2})
    relay.take("slow@example.com", "quick@example.com")
    assert [a.status for a in relay.attempts("quick@example.com")] == ["sent"]
    assert relay.queue()["slow@example.com"]["queue_name"] == "active"
    (attempt,) = relay.attempts("slow@example.com")
    assert attempt.status == "sent"
    assert 2 <= attempt.transmission_s < 4
    assert len(inbox.of("slow@example.com")) == 1


def test_what_is_above_a_rate_waits_in_the_queue(relay: Relay, inbox: Inbox) -> None:
    inbox.rule({"to": "rate*", "then": "rate", "per_minute": 2})
    recipients = [f"rate{i}@example.com" for i in range(3)]
    relay.take(*recipients)
    statuses = {to: relay.attempts(to, 1)[0] for to in recipients}
    assert sorted(a.status for a in statuses.values()) == ["deferred", "sent", "sent"]
    ((refused, attempt),) = [(to, a) for to, a in statuses.items() if a.status == "deferred"]
    assert (attempt.dsn, "450 4.7.1 Too many messages" in attempt.reply) == ("4.7.1", True)
    assert list(relay.queue()) == [refused]
    inbox.rule()
    relay.flush(refused)
    assert relay.attempts(refused)[-1].status == "sent"
    assert [len(inbox.of(to)) for to in recipients] == [1, 1, 1]


def test_a_pace_spreads_deliveries_and_refuses_none(relay: Relay, inbox: Inbox) -> None:
    inbox.rule({"to": "pace*", "then": "pace", "per_second": 4})
    recipients = [f"pace{i}@example.com" for i in range(5)]
    relay.take(*recipients)
    assert [[a.status for a in relay.attempts(to)] for to in recipients] == [["sent"]] * 5
    times = sorted(message["t"] for to in recipients for message in inbox.of(to))
    assert len(times) == 5
    assert times[-1] - times[0] >= 0.9  # four intervals of 250 ms; the first message is not delayed


def test_a_dropped_message_leaves_the_queue_as_delivered(relay: Relay, inbox: Inbox) -> None:
    inbox.rule({"to": "lost@example.com", "then": "drop"})
    relay.take("lost@example.com")
    assert [(a.status, a.dsn) for a in relay.attempts("lost@example.com")] == [("sent", "2.0.0")]
    assert [v["then"] for v in inbox.verdicts("lost@example.com")] == ["drop"]
    assert inbox.of("lost@example.com") == []


def test_an_accepted_recipient_passes_the_rules_after_it(relay: Relay, inbox: Inbox) -> None:
    inbox.rule({"to": "vip@example.org", "then": "accept"}, {"to": "*@example.org", "then": "defer"})
    relay.take("vip@example.org", "other@example.org")
    assert [a.status for a in relay.attempts("vip@example.org")] == ["sent"]
    (kept,) = relay.attempts("other@example.org", 1)
    assert (kept.status, kept.dsn) == ("deferred", "4.3.0")
    inbox.rule()
    relay.flush("other@example.org")
    assert relay.attempts("other@example.org")[-1].status == "sent"
    assert [len(inbox.of(f"{name}@example.org")) for name in ("vip", "other")] == [1, 1]


def dns(bed: Up, *words: str) -> str:
    """Run a command `testbed dns` in this process, as a thousand in a row are quicker so, and return its output."""
    done = CliRunner().invoke(app, ["dns", *words, "--bed", bed.id])
    assert done.exit_code == 0, done.output
    return done.stdout


def queries(bed: Up, after: int = 0) -> list[dict[str, Any]]:
    """Return the questions to the gate after a cursor."""
    return list(json.loads(dns(bed, "queries", "--after", str(after), "--format", "json")))


def answers(bed: Up, name: str, after: int) -> list[str]:
    """Return the answers to each question for the MX of a domain after a cursor."""
    return [one["rcode"] for one in queries(bed, after) if (one["name"], one["type"]) == (name, "MX")]


def test_mail_waits_while_dns_fails_and_is_delivered_at_the_third_try(bed: Up, relay: Relay, inbox: Inbox) -> None:
    to, before = "bob@example.net", queries(bed)[-1]["id"]
    inbox.rule()
    dns(bed, "fail", "example.net", "MX", "SERVFAIL", "--times", "2")
    relay.take(to)
    for tries in (1, 2):
        assert len(relay.attempts(to, tries)) == tries
        assert "Name service error for name=example.net type=MX" in relay.flush(to)[0]
    assert [(a.status, a.dsn) for a in relay.attempts(to)] == [*[("deferred", "4.4.3")] * 2, ("sent", "2.0.0")]
    assert len(inbox.of(to)) == 1
    assert answers(bed, "example.net", before) == ["SERVFAIL", "SERVFAIL", "NOERROR"]


OTHERS = (("example.net", "MX"), ("mx.example.com", "A"), ("example.com", "A"), ("mx.example.com", "MX"))
"""Questions that no rule fails: another name, another type."""


@pytest.mark.long
@pytest.mark.timeout(900, func_only=True)
def test_dns_fails_exactly_the_next_two_questions_1000_times_of_1000(bed: Up) -> None:
    before, ports = (
        queries(bed)[-1]["id"],
        {query.udp: bed.port("gate", "53/udp"), query.tcp: bed.port("gate", "53/tcp")},
    )
    rounds, others = Counter[tuple[str, ...]](), Counter[str]()

    def ask(how: Any, name: str, kind: str) -> str:
        return rcode.to_text(how(make_query(name, kind), "127.0.0.1", port=ports[how], timeout=10).rcode())

    with ThreadPoolExecutor() as pool:
        for _ in range(1000):
            dns(bed, "fail", "example.com", "MX", "SERVFAIL", "--times", "2")
            beside = [pool.submit(ask, how, *other) for how in ports for other in OTHERS]
            rounds[tuple(ask(how, "example.com", "MX") for how in (query.udp, query.tcp, query.udp))] += 1
            others.update(asked.result() for asked in beside)
    assert rounds == {("SERVFAIL", "SERVFAIL", "NOERROR"): 1000}
    assert others == {"NOERROR": 1000 * 2 * len(OTHERS)}
    assert answers(bed, "example.com", before) == ["SERVFAIL", "SERVFAIL", "NOERROR"] * 1000
