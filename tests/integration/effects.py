"""Four workers of pytest-xdist on one bed, each with a rule and a fault of DNS of its own, all at once.

``test_examples`` runs a copy of this file with ``--dist=each``: each worker runs each round, with the case of its
number. EFFECTS_ROUNDS is the number of rounds.
"""

import os
import time
from pathlib import Path

import pytest

from orchestrator.testing import MailBed, Mailbox, Rule, Unexpected

ROUNDS = int(os.environ.get("EFFECTS_ROUNDS", "1"))
CASES = [("defer", "SERVFAIL"), ("reject", "NXDOMAIN"), ("greylist", "REFUSED"), ("drop", "NOTIMP")]
"""Rule of a mailbox, and failure of a domain, of each worker."""
HERE = Path(__file__).parent


def meet(place: str, name: str) -> None:
    """Wait until all workers are here."""
    (HERE / f"{place}.{name}").touch()
    deadline = time.monotonic() + 120
    while len(list(HERE.glob(f"{place}.*"))) < len(CASES):
        assert time.monotonic() < deadline, f"a worker does not come to {place}"
        time.sleep(0.01)


def rule_of(name: str, box: Mailbox) -> Rule:
    """Make the rule of a worker."""
    match name:
        case "defer":
            return box.defer("451 4.3.0 mine", times=1)
        case "reject":
            return box.reject("550 5.1.1 mine")
        case "greylist":
            return box.greylist(0.5, "450 4.2.0 mine")
    return box.drop()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker_sees_the_effects_of_its_own_rule_and_fault(mail_bed: MailBed, number: int) -> None:
    name, rcode = CASES[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))]
    domain = f"{name}-{number}.example.net"
    mail_bed.dns.set(domain, "MX", "10 inbox.nodes.test.")
    box, lost, author = mail_bed.mailbox(), mail_bed.mailbox(domain), mail_bed.mailbox()
    rule, fault = rule_of(name, box), mail_bed.dns.fail(domain, "MX", rcode)

    meet(f"begin-{number}", name)
    assert len(mail_bed.inbox.api.rules()) == len(mail_bed.dns.faults()) == len(CASES)
    mail_bed.send(to=box, sender=author, subject=name)
    mail_bed.send(to=lost, sender=author, subject="lost")

    if name in {"defer", "greylist"}:
        assert box.wait_for(timeout=30).subject == name
        assert any(
            f"{'451 4.3.0' if name == 'defer' else '450 4.2.0'} mine" in line for line in mail_bed.relay.log(box)
        )
    else:
        box.expect_none()
    if name == "reject":
        reports = [" ".join(one.text.split()) for one in author.wait_for_all(count=2, timeout=30)]
        reasons = [("5.1.1 mine" in text, "Host or domain name not found" in text) for text in reports]
        assert sorted(reasons) == [(False, True), (True, False)]
        lost.expect_none()
    else:
        with pytest.raises(Unexpected, match="waits in the queue"):
            lost.expect_none()
        assert author.messages() == []
    assert rule.hits == 1
    assert fault.hits >= 1
    assert {one["rcode"] for one in mail_bed.dns.queries(domain, "MX")} == {rcode}
    meet(f"end-{number}", name)
