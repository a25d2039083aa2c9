"""A generator that stood still: it began before all tests of this folder, and has ended when this file is reached."""

import subprocess
from itertools import pairwise
from typing import Any

from tests.unit.agents.conftest import Sink, at, report_of


def test_a_stall_of_the_generator_shows_in_response_time_only(
    sink: Sink, stalled_load: tuple[str, "subprocess.Popen[str]"]
) -> None:
    run, process = stalled_load
    said = report_of(process)
    assert said.offered == said.accepted == sink.report(run).delivered == 520
    assert 1.9 < said.stalled_s < 2.5
    assert at(said.response, 50) > 500
    assert at(said.response, 99) > 1500
    assert at(said.service, 90) < 50
    assert said.late > 350
    while not (ticks := ticks_of(sink, run)) or ticks[-1]["delivered"] < 520:
        sink.next_line()
    assert len(ticks) >= 2
    assert all(now["delivered"] >= before["delivered"] for before, now in pairwise(ticks))


def ticks_of(sink: Sink, run: str) -> list[dict[str, Any]]:
    """Return what the sink has said of a run."""
    return [line["tick"] for line in sink.heard if line.get("tick", {}).get("run") == run]
