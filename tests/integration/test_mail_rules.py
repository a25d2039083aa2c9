"""Every action of the inbox's rules through a real Postfix: what its queue and its log make of it. And failing DNS."""

import json
import re
import smtplib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import pytest

from orchestrator.agents.rules import Action
from orchestrator.hosts import Host, Node
from orchestrator.hosts.ownership import ID, NODE
from tests.integration.beds import Up, bring_down, bring_up

pytestmark = [pytest.mark.docker, pytest.mark.timeout(60)]

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

    def take(self, *recipients: str) -> None:
        """Send a message to each recipient."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=10) as smtp:
            for to in recipients:
                smtp.sendmail("ann@example.org", to, f"Subject: to {to}\r\n\r\ntext\r\n")

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

    def flush(self, to: str) -> str:
        """Wait for a recipient's message in the deferred queue, flush the queue, and return why it was there."""
        listed = self._run(
            'until postqueue -j | grep "\\"queue_name\\": \\"deferred\\".*\\"$1\\""; do :; done; postqueue -f', to
        )
        return str(json.loads(listed.splitlines()[0])["recipients"][0]["delay_reason"])

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
        ({"then": "greylist", "delay_s": 0.1}, "4.7.1", "450 4.7.1 Greylisted"),
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
    relay: Relay, inbox: Inbox, request: pytest.FixtureRequest, rule: dict[str, Any], dsn: str, reason: str
) -> None:
    to = f"{request.node.callspec.id}@example.com"
    inbox.rule({"to": to, **rule})
    relay.take(to)
    assert reason in relay.flush(to)
    assert [(a.status, a.dsn) for a in relay.attempts(to)] == [("deferred", dsn), ("sent", "2.0.0")]
    (first,) = inbox.verdicts(to)
    (message,) = inbox.of(to)
    assert first["then"] == rule["then"]
    assert message["t"] - first["t"] < 2
