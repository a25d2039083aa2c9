"""cpu-topology on the real engine and on the CPUs of this machine."""

import json
from pathlib import Path
from typing import cast

import pytest

from orchestrator.bed.cpu_topology import Topology, cpu_sets, parse, write
from orchestrator.hosts import Host
from orchestrator.hosts.docker import DockerHost
from tests.integration.command import Watched, phase
from tests.integration.traces import traces

pytestmark = [pytest.mark.docker, pytest.mark.alone]

SMALL = ("--domains", "20", "--calibration", "1", "--probe", "1")
CODES = {"CONFIRMED": 0, "REFUTED": 1, "INCONCLUSIVE": 3}


def test_each_set_of_cpus_is_measured_where_it_is(real_engine: Host, tmp_path: Path) -> None:
    run = Watched(
        real_engine, tmp_path, *SMALL, "--seconds", "2", "--repeat", "1", "--format", "json", scenario="cpu-topology"
    )
    run.until(lambda run: run.nodes)
    code = run.end()
    summary = json.loads(run.output())
    verdict = summary["verdict"]
    assert code == CODES[verdict["outcome"]], run.said
    sets, left_out = cpu_sets(Topology.from_dict(summary["environment"]["topology"]))
    carried, places, _ = verdict["tables"]
    rows = {row[0]: dict(zip(carried["columns"], row, strict=True)) for row in carried["rows"]}
    assert [row[:3] for row in places["rows"]] == [[s.name, write(s.cpus), write(s.harness)] for s in sets]
    assert all(any(name in mark for mark in verdict["marks"]) for name in left_out)
    assert run.rundir
    assert (run.rundir.path / "report.html").is_file()
    controls = [e for e in verdict["evidence"] if not e["fact"].startswith(("throughput on ", "throughput, as "))]
    assert all(e["holds"] for e in controls), controls
    for s in sets:
        assert rows[s.name]["messages/s"] > 0
        assert 0 < rows[s.name]["CPUs used"] <= 1.05 * len(s.cpus)
        assert 0 <= rows[s.name]["idle %"] <= 100
        kept = run.rundir.result(f"{s.name.replace(' ', '-')}-1-cpus")
        assert kept
        assert parse(kept["allowed"]) == s.cpus
        assert kept["used"]["busy_s"] > 0
    assert traces(real_engine, run.ids) == []


@pytest.mark.long
def test_a_load_that_any_set_carries_is_not_confirmed(real_engine: Host, tmp_path: Path) -> None:
    slow = ("--seconds", "2", "--repeat", "1", "--rate", "20")
    run = Watched(real_engine, tmp_path, *SMALL, *slow, "--format", "json", scenario="cpu-topology")
    code = run.end()
    verdict = json.loads(run.output())["verdict"]
    busy = verdict["marks"][0] == "instrument-bound" or any("outside the bed" in mark for mark in verdict["marks"])
    assert (code, verdict["outcome"]) == (1, "REFUTED") or (busy and code == 3), verdict["reason"]


@pytest.mark.long
def test_a_relay_that_dies_in_its_first_set_leaves_no_answer(real_engine: Host, tmp_path: Path) -> None:
    run = Watched(real_engine, tmp_path, *SMALL, "--seconds", "60", "--format", "json", scenario="cpu-topology")
    run.until(phase("all-threads-1"))
    cast("DockerHost", real_engine)._clients.here.kill(run.nodes["relay"].id)
    assert run.end() == 3, run.said
    verdict = json.loads(run.output())["verdict"]
    assert verdict["outcome"] == "INCONCLUSIVE"
    assert verdict["figures"]["messages_on_all_threads_per_s"] is None
    assert run.rundir
    assert run.rundir.load()["error"]["needed"] == "node relay running"
    assert traces(real_engine, run.ids) == []
