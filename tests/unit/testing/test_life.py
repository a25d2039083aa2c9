"""The start of a bed for tests: where its ports are, and what is on its way."""

from typing import Any

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.hosts.docker.ssh import Target
from orchestrator.services import Queued
from orchestrator.testing import MailBed
from orchestrator.testing.traffic import Traffic
from tests.unit.hosts.fake import FakeHost
from tests.unit.testing.conftest import Bed


def test_ports_that_this_machine_would_not_reach_are_refused() -> None:
    host = FakeHost()
    host.address = Target(host="docker")
    with pytest.raises(InvalidInput, match=r"an engine on docker.*publish_at"):
        MailBed(host=host).start()
    assert host.find({}) == []


def test_a_second_start_knows_no_rule_of_the_first(bed: Bed) -> None:
    made = MailBed()
    made._take("0badcafe", bed.running)
    rule = made.inbox.reject()
    made.stop()
    made._take("0cafe", bed.running)
    assert made.rules == []
    rule.remove()


class Inbox:
    """Its notifications, one look after the other."""

    def __init__(self, *looks: tuple[list[str], int]) -> None:
        self.looks = list(looks)

    def bounces(self) -> dict[str, Any]:
        """Return one look."""
        waiting, total = self.looks.pop(0)
        return {"waiting": [{"sender": sender, "recipient": "x@example.com"} for sender in waiting], "total": total}


class Relay:
    """Its queue."""

    def __init__(self, *queue: Queued) -> None:
        self.queue = lambda: queue


ANN = "ann@example.com"


@pytest.mark.parametrize(
    ("before", "after", "settled"),
    [
        (([], 1), ([], 1), True),
        (([ANN], 1), ([], 1), False),
        (([], 1), ([ANN], 2), False),
        (([], 1), ([], 2), False),  # it was made and sent between the two looks
    ],
)
def test_a_notification_passes_no_look_unseen(
    before: tuple[list[str], int], after: tuple[list[str], int], *, settled: bool
) -> None:
    traffic = Traffic.look(Inbox(before, after), Relay())  # type: ignore[arg-type]
    assert traffic.settled == settled
    queued = Queued(id="1", sender="", recipients={}, state="deferred")
    assert not Traffic.look(Inbox(before, after), Relay(queued)).settled  # type: ignore[arg-type]
