"""Tests for four workers of pytest-xdist on one bed, each with a rule and a fault of DNS of its own, all at once.

``test_examples`` runs a copy of it; EFFECTS_ROUNDS is the number of rounds.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.testing import MailBed, Mailbox, NotArrived, Rule, Unexpected

ROUNDS = int(os.environ.get("EFFECTS_ROUNDS", "1"))
WORKERS = 4
HERE = Path(__file__).parent


@dataclass
class Own:
    """The addresses of a round, each with its fault."""

    box: Mailbox
    """Has a rule."""
    lost: Mailbox
    """Has a domain whose MX question fails."""
    fault: Rule
    author: Mailbox


@pytest.fixture(params=range(ROUNDS))
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def own(request: pytest.FixtureRequest, mail_bed: MailBed, number: int) -> Iterator[Own]:
    name, rcode = request.node.get_closest_marker("own").args
    domain = f"{name}-{number}.example.net"
    mail_bed.dns.set(domain, "MX", "10 inbox.nodes.test.")
    own = Own(mail_bed.mailbox(), mail_bed.mailbox(domain), mail_bed.dns.fail(domain, "MX", rcode), mail_bed.mailbox())
    (HERE / f"worker.{name}").write_text(os.environ["PYTEST_XDIST_WORKER"])
    yield own
    assert {one["rcode"] for one in mail_bed.dns.queries(domain, "MX")} == {rcode}


def send(mail_bed: MailBed, own: Own, number: int, name: str) -> None:
    """Send to both addresses once all workers have their rules and faults."""
    meet(f"begin-{number}", name)
    assert len(mail_bed.inbox.api.rules()) == len(mail_bed.dns.faults()) == WORKERS
    mail_bed.send(to=own.box, sender=own.author, subject=name)
    mail_bed.send(to=own.lost, sender=own.author, subject=f"lost {name}")


def meet(place: str, name: str) -> None:
    """Wait until all workers are here."""
    (HERE / f"{place}.{name}").touch()
    deadline = time.monotonic() + 120
    while len(list(HERE.glob(f"{place}.*"))) < WORKERS:
        assert time.monotonic() < deadline, f"a worker does not come to {place}"
        time.sleep(0.01)


def end(own: Own, rule: Rule, number: int, name: str) -> None:
    """See that the rule was applied once, and keep it until the other workers are done with theirs."""
    assert (rule.hits, own.fault.hits > 0) == (1, True)
    meet(f"end-{number}", name)


def is_deferred(box: Mailbox) -> None:
    with pytest.raises(Unexpected, match="waits in the queue"):
        box.expect_none()


@pytest.mark.own("defer", "SERVFAIL")
@pytest.mark.xdist_group("defer")
def test_defer(mail_bed: MailBed, own: Own, number: int) -> None:
    rule = own.box.defer("451 4.3.0 mine", times=1)
    send(mail_bed, own, number, "defer")
    assert own.box.wait_for(timeout=30).subject == "defer"
    is_deferred(own.lost)
    assert own.author.messages() == []
    end(own, rule, number, "defer")


@pytest.mark.own("reject", "NXDOMAIN")
@pytest.mark.xdist_group("reject")
def test_reject(mail_bed: MailBed, own: Own, number: int) -> None:
    rule = own.box.reject("550 5.1.1 mine")
    send(mail_bed, own, number, "reject")
    notifications = own.author.wait_for_all(count=2, timeout=30)
    own.box.expect_none()
    own.lost.expect_none()
    reasons = [("5.1.1 mine" in text, "Host or domain name not found" in text) for text in texts(notifications)]
    assert sorted(reasons) == [(False, True), (True, False)]
    end(own, rule, number, "reject")


def texts(messages: list) -> list[str]:  # type: ignore[type-arg]
    return [" ".join(message.text.split()) for message in messages]


@pytest.mark.own("greylist", "REFUSED")
@pytest.mark.xdist_group("greylist")
def test_greylist(mail_bed: MailBed, own: Own, number: int) -> None:
    rule = own.box.greylist(0.5, "450 4.2.0 mine")
    send(mail_bed, own, number, "greylist")
    assert own.box.wait_for(timeout=30).subject == "greylist"
    is_deferred(own.lost)
    assert own.author.messages() == []
    end(own, rule, number, "greylist")


@pytest.mark.own("drop", "NOTIMP")
@pytest.mark.xdist_group("drop")
def test_drop(mail_bed: MailBed, own: Own, number: int) -> None:
    rule = own.box.drop()
    send(mail_bed, own, number, "drop")
    own.box.expect_none()
    with pytest.raises(NotArrived):
        own.box.wait_for(timeout=0.5)
    is_deferred(own.lost)
    assert own.author.messages() == []
    end(own, rule, number, "drop")
