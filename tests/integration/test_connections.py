"""Who sets the pace of a real relay: the relay, the number of connections, or the rate."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.scenarios import Outcome
from tests.integration import slow_relay
from tests.integration.command import call

pytestmark = pytest.mark.docker


def ask(runs: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run the scenario; return its exit code and verdict."""
    short = ("--calibration", "1", "--domains", "64", "--format", "json")
    done = call("run", "relay-throughput", "--runs", runs, *short, *words)
    assert done.stdout, done.stderr
    verdict: dict[str, Any] = json.loads(done.stdout)["verdict"]
    return done.returncode, verdict


def test_one_connection_sets_the_pace_and_the_verdict_says_so(tmp_path: Path) -> None:
    code, verdict = ask(tmp_path, "--connections", "1", "--seconds", "2", "--probe", "2", "--size", "65536")
    assert (code, verdict["outcome"]) == (3, "INCONCLUSIVE"), verdict
    assert "concurrency-bound" in verdict["marks"]
    assert verdict["headline"].startswith("The number of connections set the pace: ")
    assert [row[0] for row in verdict["tables"][0]["rows"]] == ["1", "4"]


def test_a_relay_that_waits_gets_the_connections_that_it_needs(tmp_path: Path) -> None:
    """At most 60 messages wait at the same time, 500 ms each: 120 a second, and over 20 connections 40."""
    finished = slow_relay.run(
        tmp_path, wait_s=0.5, most=60, domains=64, seconds=3.0, probe=2.0, calibration=1.0, per_connection=2
    )
    assert finished.verdict.outcome is Outcome.CONFIRMED, finished.verdict.reason
    carried = {row[0]: row[2] for row in finished.verdict.tables[0].rows}
    used = (finished.rundir.result("connections") or {})["connections"]
    assert used >= 80, carried
    few, found = carried["20"], carried[str(used)]
    assert isinstance(few, float)
    assert isinstance(found, float)
    assert few < 0.5 * found, carried
