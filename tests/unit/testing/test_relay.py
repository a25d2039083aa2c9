"""The relay of a bed in a test: its log."""

from collections.abc import Sequence
from typing import cast

from orchestrator.hosts import LogLine
from orchestrator.services import Queued
from orchestrator.testing.relay import BedRelay
from orchestrator.up.relay import Relay

TO = "ann@example.com"
LINES = [
    LogLine(t=float(at), text=f"postfix/{text}")
    for at, text in enumerate(
        [
            "smtpd[1]: A1: client=x",
            f"smtp[2]: A1: to=<{TO}>, status=sent (250 ok)",
            "qmgr[3]: A1: removed",
            f"smtp[2]: B2: to=<{TO}>, status=deferred (450 later)",
            f"smtpd[1]: NOQUEUE: reject: RCPT from x: 554; to=<{TO}>",
        ]
    )
]


class Late:
    """A relay with one deferred message, whose log is one line longer at each look."""

    def __init__(self) -> None:
        self.looks = 0

    def queue(self) -> Sequence[Queued]:
        """Return the deferred message."""
        return [Queued(id="B2", sender="", recipients={TO: "450 later"}, state="deferred")]

    def log(self, to: str | None) -> list[LogLine]:
        """Return one line more than at the last look."""
        assert to in {None, TO}
        self.looks += 1
        return LINES[3:] + LINES[: self.looks]


def test_the_lines_of_a_message_that_left_the_queue_are_complete() -> None:
    late = Late()
    assert BedRelay(cast("Relay", late), "127.0.0.1").log(TO)[-1].endswith("A1: removed")
    assert late.looks == 3


def test_without_a_recipient_the_log_is_as_it_stands() -> None:
    late = Late()
    assert len(BedRelay(cast("Relay", late), "127.0.0.1").log()) == 3
    assert late.looks == 1
