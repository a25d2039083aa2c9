"""Who sets the pace of a real relay: the relay, the number of connections, or the rate."""

from pathlib import Path

import pytest

from orchestrator.measurements.verdict import Outcome
from tests.integration import slow_relay

pytestmark = [pytest.mark.docker, pytest.mark.alone]


def test_one_connection_sets_the_pace_and_the_verdict_says_so(tmp_path: Path) -> None:
    """The relay waits 50 ms for each recipient: four connections carry nearly four times as much, on any machine."""
    finished = slow_relay.run(tmp_path, wait_s=0.05, connections=1, domains=64, seconds=2.0, probe=2.0, calibration=1.0)
    verdict = finished.verdict
    assert (finished.exit_code, verdict.outcome) == (3, Outcome.INCONCLUSIVE), verdict
    assert "concurrency-bound" in verdict.marks
    assert verdict.headline.startswith("The number of connections set the pace: ")
    assert [row[0] for row in verdict.tables[0].rows] == ["1", "4"]


def test_a_relay_that_waits_gets_the_connections_that_it_needs(tmp_path: Path) -> None:
    """At most 60 messages wait at the same time, 500 ms each: 120 a second, and over 20 connections 40."""
    finished = slow_relay.run(
        tmp_path, wait_s=0.5, most=60, domains=64, seconds=2.0, probe=1.5, calibration=1.0, per_connection=2
    )
    verdict = finished.verdict
    assert verdict.outcome is Outcome.CONFIRMED or "disturbed" in verdict.marks, verdict.reason
    carried = {row[0]: row[2] for row in verdict.tables[0].rows}
    used = (finished.rundir.result("connections") or {})["connections"]
    assert used >= 80, carried
    few, found = carried["20"], carried[str(used)]
    assert isinstance(few, float)
    assert isinstance(found, float)
    assert few < 0.5 * found, carried
