"""Reading what our load generator prints."""

import json
from typing import Any

import pytest

from orchestrator.agents.contract import LoadOrder
from orchestrator.errors import EngineFailed
from orchestrator.services.smtp_load import SERVICE

TICK = {"t": 1.0, "offered": 5, "sent": 4, "accepted": 3, "failed": 0, "connections": 1, "behind_s": 0.0}
REPORT = {"run": "0badcafe", "started": 1.0, "ended": 2.0, "cpu_s": 0.5}


def test_ticks_are_handed_on_and_the_report_is_returned() -> None:
    ticks: list[dict[str, Any]] = []
    lines = [json.dumps(line) for line in ({"tick": TICK}, {"tick": TICK | {"t": 2.0}}, {"report": REPORT})]
    report = SERVICE.read(lines, LoadOrder(), ticks.append)
    assert report
    assert (report.seconds, [tick["t"] for tick in ticks]) == (1.0, [1.0, 2.0])
    assert SERVICE.read([], LoadOrder(), ticks.append) is None


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "7",
        "null",
        '["report"]',
        "{}",
        '{"tick": 7}',
        '{"report": [1]}',
        '{"report": {"run": "0badcafe"}}',
        json.dumps({"report": REPORT | {"ended": "later"}}),
        json.dumps({"report": REPORT | {"ended": float("nan")}}),
    ],
)
def test_any_other_line_is_the_generators_failure(line: str) -> None:
    with pytest.raises(EngineFailed, match="a tick or a report of load 0badcafe as JSON"):
        SERVICE.read([line], LoadOrder(run="0badcafe"), lambda _: None)
