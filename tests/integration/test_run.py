"""The whole path on the real engine: a run from the command to its report."""

import json
import re
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.contract import LoadOrder
from orchestrator.bed.model import parse_bed
from orchestrator.cli.progress import Steps
from orchestrator.hosts import Host
from orchestrator.hosts.ownership import Identity, Kind
from orchestrator.measurements import Latency, Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.services import Role
from orchestrator.up.bringup import bring_up as bring_up_here
from tests.integration.command import Watched, call
from tests.integration.traces import traces

pytestmark = [pytest.mark.docker, pytest.mark.alone]

NODES = ("dns", "sink", "relay", "load")
LOADS = ("calibration", "calibration-single", "relay")
DOMAINS = 50


# ------------------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A run that has ended."""

    code: int
    stdout: str
    stderr: str
    rundir: RunDir
    ids: frozenset[str]

    @property
    def summary(self) -> dict[str, Any]:
        """What it printed for a script."""
        printed: dict[str, Any] = json.loads(self.stdout)
        return printed


def run(engine: Host, runs: Path, *words: str) -> Done:
    """Run the scenario at a small size to its end."""
    going = Watched(
        engine, runs, "--domains", str(DOMAINS), "--calibration", "1", "--probe", "1", "--format", "json", *words
    )
    going.until(lambda run: len(run.nodes) == len(NODES))
    code = going.end()
    assert going.rundir
    return Done(code=code, stdout=going.output(), stderr=going.said, rundir=going.rundir, ids=frozenset(going.ids))


@pytest.fixture(scope="module")
def done(real_engine: Host, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(real_engine, tmp_path_factory.mktemp("runs"), "--seconds", "3")


def test_a_run_is_confirmed_and_every_message_is_accounted_for(done: Done) -> None:
    verdict = done.summary["verdict"]
    # On a machine with other work, that work may set the pace: the verdict says so.
    expected = (3, "INCONCLUSIVE") if "disturbed" in verdict["marks"] else (0, "CONFIRMED")
    assert (done.code, verdict["outcome"]) == expected, done.stderr + done.stdout
    for load in LOADS:
        account = done.summary["accounting"][load]
        assert account["offered"] == account["accepted"] == account["delivered"] > DOMAINS
        wrong = ("refused", "unresolved", "lost", "duplicated", "corrupted", "misrouted", "foreign", "unaccepted")
        assert {fate: account[fate] for fate in wrong} == dict.fromkeys(wrong, 0), load
    domains = {load: Measurements.read(done.rundir).sinks[load].domains for load in LOADS}
    assert domains == dict.fromkeys(LOADS, DOMAINS)


def test_its_run_directory_is_complete(done: Done) -> None:
    facts = done.rundir.load()
    assert (facts["status"], facts["error"]) == ("finished", None)
    assert facts["plan"]["domains"] == DOMAINS
    assert facts["environment"]["engine"]["kernel"]
    names = [phase["name"] for phase in facts["phases"]]
    assert names[:4] == ["probe-20", "probe-20 drain", "probe-40", "probe-40 drain"]
    assert [name for name in names if not name.startswith("probe-")] == [*LOADS, "drain"]
    assert facts["steps"][-1]["name"] == "take the bed down"
    for node in facts["plan"]["nodes"]:
        for path, file in node["files"].items():
            kept = done.rundir.path / "config" / node["name"] / path.lstrip("/")
            assert kept.stat().st_size == file["bytes"]
    assert done.rundir.logs() == sorted(NODES)
    assert all(list(done.rundir.log(node)) for node in NODES)
    for series in ("load", "sink"):
        assert {tick["phase"] for tick in done.rundir.series(series) if not tick["phase"].startswith("probe-")} == set(
            LOADS
        )
    assert done.rundir.series("recorder") == []
    for load in LOADS:
        assert set(done.summary["latency_ms"][load]) == {"response", "service", "connect", "transit", "age"}
    assert len(done.summary["hops_ms"]) == 4
    report = (done.rundir.path / "report.html").read_text(encoding="utf-8")
    assert done.summary["verdict"]["outcome"] in report
    assert not re.search(r'(src|href)="(https?:)?//', report)


@pytest.mark.parametrize("node", NODES)
def test_every_node_is_read_once_a_second_from_the_first_load_to_the_last(done: Done, node: str) -> None:
    times = [point["t"] for point in done.rundir.series("stats") if point["node"] == node]
    phases = done.rundir.load()["phases"]
    assert times[0] < phases[0]["start"] + 1
    assert times[-1] > phases[-1]["end"] - 2
    # The engine counts a second from the end of one reading to the start of the next.
    assert statistics.median(b - a for a, b in pairwise(times)) < 1.1


def test_the_relay_delivers_over_both_families(done: Done) -> None:
    subnet = done.rundir.load()["plan"]["mail"].rpartition(".")[0]
    reached = [m[1] for _, text in done.rundir.log("relay") if (m := re.search(r"relay=mx\S+?\[(.+?)\]:25", text))]
    assert any(a.startswith("2001:2:") for a in reached)
    assert any(a.startswith(subnet) for a in reached)


def test_a_run_leaves_nothing_over(real_engine: Host, done: Done) -> None:
    assert len(done.ids) >= 1
    assert traces(real_engine, done.ids) == []


def test_a_run_is_judged_the_same_again_without_an_engine(done: Done) -> None:
    report = done.rundir.path / "report.html"
    report.unlink()
    again = call("analyze", done.rundir.path, "--format", "json", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert (again.returncode, again.stderr) == (done.code, "")
    assert json.loads(again.stdout)["verdict"] == done.summary["verdict"]
    assert report.is_file()


def test_a_rate_is_kept_and_judged(real_engine: Host, tmp_path: Path) -> None:
    slow = run(real_engine, tmp_path, "--seconds", "3", "--rate", "50")
    account = slow.summary["accounting"]["relay"]
    assert account["offered"] == account["accepted"] == account["delivered"] == pytest.approx(150, abs=1)
    evidence = {e["fact"]: e["holds"] for e in slow.summary["verdict"]["evidence"]}
    if evidence["messages started over 10 ms late"]:
        assert (slow.code, slow.summary["verdict"]["outcome"]) == (0, "CONFIRMED")
        assert slow.summary["verdict"]["claim"].startswith("This relay carries the offered 50 messages a second: half")
    else:  # a busy machine: the instrument says so
        assert (slow.code, slow.summary["verdict"]["marks"][0]) == (3, "instrument-bound")


# ------------------------------------------------------------------------------------------------ what is known before


def test_a_known_delay_is_measured_as_such(real_engine: Host, tmp_path: Path) -> None:
    delay_ms = 100
    bed = parse_bed(
        {
            "name": "delay",
            "domains": 20,
            "nodes": {
                "sink": {"service": "blackhole", "settings": {"data_delay_ms": delay_ms}},
                "load": {"service": "smtp-load"},
            },
        },
        "bed",
    )
    rundir = RunDir.create(tmp_path, "delay")
    steps = Steps()
    with ExitStack() as stack:
        identity = Identity.new(bed, Kind.RUN)
        running = bring_up_here(real_engine, bed, identity, rundir=rundir, steps=steps, stack=stack, cpus=2)
        report = running.send("delayed", LoadOrder(rate=60.0, seconds=3.0), to=Role.SINK).report
    service = Latency.decode(report.service or "")
    assert service
    assert service.count == report.offered == pytest.approx(180, abs=1)
    assert delay_ms <= 1000 * service.at(50) <= delay_ms + 10
    assert traces(real_engine, [identity.id]) == []
