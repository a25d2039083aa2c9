"""A relay has any name in its bed: a verdict is the same whatever the name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.scenarios import scenario
from tests.unit.factory import add_probes, make_run
from tests.unit.scenarios import test_cpu_topology, test_neighbour_overflow


def throughput(folder: Path) -> RunDir:
    """Make a run of relay-throughput whose relay has reached its own CPU limit, and whose sink counts nothing."""
    rundir = make_run(folder, domains=100, carries=150.0, seconds=2.0)
    add_probes(rundir, {20: 150.0, 80: 180.0}, used=20)
    facts = rundir.load()
    limits = {"cpus": 0.5}
    relay = {"name": "relay", "role": "relay", "service": "postfix", "limits": limits, "detours": ["relayhost = x"]}
    facts["bed"]["nodes"]["relay"]["limits"] = limits
    rundir.save(facts | {"plan": {"nodes": [relay]}, "params": {**facts["params"], "sink": "bhm"}})
    span = Measurements.read(rundir).span("relay")
    assert span
    assert span.end
    used = {"busy_s": 1.9 * (span.end - span.start), "steal_s": 0.0}
    rundir.save_result("relay-cpus", {"start": span.start, "end": span.end, "cpus": 2, "used": used})
    (rundir.path / "results" / "relay-sink.json").unlink()
    return rundir


def topology(folder: Path) -> RunDir:
    return test_cpu_topology.make(folder, test_cpu_topology.FALLS)


def overflow(folder: Path) -> RunDir:
    test_neighbour_overflow.judged(folder, test_neighbour_overflow.SHOWN)
    return RunDir.open(RunDir.below(folder)[0])


def judged(rundir: RunDir) -> str:
    measured = Measurements.read(rundir)
    question = scenario(measured.facts["scenario"])
    return json.dumps(question.judge(measured, question.params(**measured.params)).model_dump())


def rename(rundir: RunDir, name: str) -> None:
    """Give the relay another name everywhere in the run directory."""
    facts = rundir.load()
    nodes = (facts.get("bed") or {}).get("nodes") or {}
    nodes |= {name: nodes.pop("relay")} if nodes else {}
    for node in facts["plan"]["nodes"]:
        node["name"] = name if node["name"] == "relay" else node["name"]
    rundir.save(facts)
    stats, log = rundir.path / "series" / "stats.jsonl", rundir.path / "logs" / "relay.log.gz"
    if stats.exists():
        stats.write_text(stats.read_text().replace('"node": "relay"', f'"node": "{name}"'))
    if log.exists():
        log.rename(log.with_name(f"{name}.log.gz"))


@pytest.mark.parametrize("make", [throughput, topology, overflow])
def test_a_relay_of_another_name_is_judged_the_same(tmp_path: Path, make: Callable[[Path], RunDir]) -> None:
    rundir = make(tmp_path)
    verdict = judged(rundir)
    rename(rundir, "mta")
    again = judged(rundir)
    for text in ("log of", "logs"):
        again = again.replace(f"{text} mta", f"{text} relay").replace(f"{text}/mta", f"{text}/relay")
    assert json.loads(again) == json.loads(verdict)
