"""A generator that stood still: it began before all tests of this folder, and has ended when this file is reached."""

import subprocess
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
    ticks: list[dict[str, Any]] = []
    while not ticks or ticks[-1]["delivered"] < 520:
        line = sink.next_line()
        ticks += [line["tick"]] if line.get("tick", {}).get("run") == run else []
    assert len(ticks) >= 2
