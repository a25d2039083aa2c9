"""The verdict on a relay and its CPUs, from run directories in which each figure is known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from orchestrator.agents.contract import LoadReport, SinkReport
from orchestrator.bed.cpu_topology import ALL, CORE, ONE_EACH, THREAD, Topology, cpu_sets, write
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome, Verdict
from orchestrator.scenarios.cpu_topology import SCENARIO, Params
from orchestrator.up.collect.cpus import CpuTimes
from tests.unit.factory import BEGAN, add_probes, bitmap, histogram

MESSAGES = 200
CEILING = 5000.0
CPU_S = 0.004
"""CPU time of the relay for each message."""
NONE = histogram([])
TWO_CORES = "0 0 0;1 1 0;"
SIBLINGS = "0 0-1 0;1 0-1 0;2 2-3 0;3 2-3 0;"

Rates = Mapping[str, Sequence[float]]
FALLS: Rates = {ALL: [400, 420, 410], CORE: [250, 240, 260]}
SAME: Rates = {ALL: [400, 420, 410], CORE: [410, 400, 405]}


def make(parent: Path, rates: Rates, *, said: str = TWO_CORES, others: float = 0.0) -> RunDir:
    """Make the run of these rates: name of the set -> messages a second in each round.

    ``others``: share of the CPU time that went to other work on the machine.
    """
    rundir = RunDir.create(parent, SCENARIO.name)
    topology = Topology.read(said, f"0-{said.count(';') - 1}")
    sets, left_out = cpu_sets(topology)
    described = [{"name": s.name, "cpus": write(s.cpus), "harness": write(s.harness)} for s in sets]
    rundir.save_result("cpu-sets", {"sets": described, "left_out": left_out})
    rounds = len(next(iter(rates.values())))
    rundir.save(
        {
            "scenario": SCENARIO.name,
            "params": {"domains": 100, "repeat": rounds},
            "plan": {"nodes": [{"name": "relay", "role": "relay"}]},
            "environment": {"topology": topology.to_dict()},
        }
    )
    t = BEGAN
    add_probes(rundir, dict.fromkeys((20, 40), median(rates[ALL])), used=20)
    for name in ("calibration", "calibration-single"):
        t = load(rundir, name, t, CEILING)
    cpu = 0.0
    with rundir.write_series("stats") as stats:
        for n in range(rounds):
            for cpus in sets:
                name = f"{cpus.name.replace(' ', '-')}-{n + 1}"
                rate = rates[cpus.name][n]
                end = load(rundir, name, t, rate)
                for at, used in ((t - 0.5, cpu), (end + 0.5, cpu + CPU_S * MESSAGES)):
                    stats.write(json.dumps({"t": at, "node": "relay", "cpu_s": used}) + "\n")
                cpu += CPU_S * MESSAGES
                busy = CPU_S * MESSAGES + others * len(cpus.cpus) * (1 + MESSAGES / rate)
                used_s = {"busy_s": busy, "steal_s": 0.0}
                window = {"start": t - 0.5, "end": end + 0.5, "cpus": len(cpus.cpus), "allowed": write(cpus.cpus)}
                rundir.save_result(f"{name}-cpus", window | {"used": used_s})
                rundir.save_result(f"{name}-queue", {"left": 0, "seconds": 1.0})
                t = end + 2
    return rundir


def load(rundir: RunDir, name: str, started: float, rate: float) -> float:
    """Keep the reports of a load, and return when it ended."""
    last = started + MESSAGES / rate
    everything = bitmap(range(MESSAGES))
    sent = LoadReport(
        run="5eed0001", started=started, ended=started + 0.5 * MESSAGES / rate, offered=MESSAGES, accepted=MESSAGES,
        domains=100, failed={}, unresolved=0, connections=20, late=0, cpu_s=0.0, stalled_s=0.0, response=NONE,
        service=NONE, connect=NONE, accepted_set=everything, unresolved_set=bitmap(()), generator="smtp-load",
    )  # fmt: skip
    got = SinkReport(
        run="5eed0001", delivered=MESSAGES, duplicated=0, corrupted=0, misrouted=0, foreign=0, bytes=0, connections=20,
        domains=100, first=started, last=last, cpu_s=0.0, memory_b=0, transit=NONE, age=NONE,
        delivered_set=everything,
    )  # fmt: skip
    rundir.save_result(f"{name}-load", sent.to_dict())
    rundir.save_result(f"{name}-sink", got.to_dict())
    return last


def judged(rundir: RunDir) -> Verdict:
    measured = Measurements.read(rundir)
    return SCENARIO.judge(measured, Params(**measured.params))


def change(rundir: RunDir, name: str, **values: Any) -> None:
    rundir.save_result(name, (rundir.result(name) or {}) | values)


def test_a_relay_that_carries_less_on_fewer_cpus_is_confirmed(tmp_path: Path) -> None:
    verdict = judged(make(tmp_path, FALLS))
    assert verdict.outcome is Outcome.CONFIRMED
    assert all(e.holds for e in verdict.evidence)
    assert "410 messages a second on all threads, 250 on one core" in verdict.claim
    assert verdict.evidence[0].found == "63% (250 of 400, 240 of 420, 260 of 410)"
    assert verdict.figures["messages_on_one_core_per_s"] == pytest.approx(250)
    assert verdict.figures["messages_on_one_core_per_cpu_s"] == pytest.approx(1 / CPU_S)
    assert "no core of this machine has a second thread" in verdict.reason


def test_the_table_holds_each_set_with_what_it_did(tmp_path: Path) -> None:
    table, places, _ = judged(make(tmp_path, FALLS)).tables
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == [ALL, CORE]
    assert places.rows == (
        (ALL, "0-1", "0-1", "400, 420, 410", "400, 420, 410"),
        (CORE, "0", "1", "250, 240, 260", "250, 240, 260"),
    )
    assert rows[CORE]["messages/s"] == pytest.approx(250)
    assert rows[CORE]["per CPU s"] == pytest.approx(250)
    assert rows[CORE]["CPUs used"] == pytest.approx(1.0)
    assert rows[CORE]["idle %"] == pytest.approx(0, abs=0.1)
    assert rows[ALL]["idle %"] == pytest.approx(100 - 100 * 410 * CPU_S / 2)
    assert rows[CORE]["others %"] == pytest.approx(0, abs=0.1)


def test_connections_that_set_the_pace_are_no_answer(tmp_path: Path) -> None:
    rundir = make(tmp_path, SAME)
    add_probes(rundir, {20: 400.0, 40: 800.0}, used=20, given=True)
    verdict = judged(rundir)
    assert (verdict.outcome, verdict.marks[0]) == (Outcome.INCONCLUSIVE, "concurrency-bound")
    assert "messages a second over 40 connections" in verdict.reason


def test_rounds_far_below_the_probe_are_no_answer(tmp_path: Path) -> None:
    rundir = make(tmp_path, FALLS)
    add_probes(rundir, {20: 600.0, 40: 600.0}, used=20)
    verdict = judged(rundir)
    assert (verdict.outcome, verdict.marks[0]) == (Outcome.INCONCLUSIVE, "unsteady")
    assert "410 messages a second, 599 in the probe over the same 20 connections" in verdict.reason


def test_a_relay_that_carries_the_same_is_refuted(tmp_path: Path) -> None:
    verdict = judged(make(tmp_path, SAME))
    assert verdict.outcome is Outcome.REFUTED
    assert "something else sets the pace" in verdict.reason


def test_the_same_on_a_busy_machine_is_no_answer(tmp_path: Path) -> None:
    verdict = judged(make(tmp_path, SAME, others=0.3))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "Other processes used these CPUs" in verdict.reason
    assert any("30% of one core" in mark for mark in verdict.marks)


def test_the_same_with_cpu_to_spare_is_refuted_on_a_busy_machine_too(tmp_path: Path) -> None:
    verdict = judged(make(tmp_path, {ALL: [50, 50], CORE: [50, 50]}, others=0.3))
    assert verdict.outcome is Outcome.REFUTED
    assert "The CPUs of one core were 50% idle" in verdict.reason


def test_nothing_is_given_back_to_a_relay_that_keeps_up_with_its_load(tmp_path: Path) -> None:
    rundir = make(tmp_path, {ALL: [20, 20], CORE: [20, 20]}, others=0.9)
    rundir.save({**rundir.load(), "params": {"domains": 100, "repeat": 2, "rate": 20}})
    verdict = judged(rundir)
    assert verdict.outcome is Outcome.REFUTED
    assert verdict.figures["messages_on_one_core_undisturbed_per_s"] == pytest.approx(20)


def test_rounds_that_contradict_each_other_are_no_answer(tmp_path: Path) -> None:
    verdict = judged(make(tmp_path, {ALL: [400, 420, 200], CORE: [250, 240, 260]}))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "rounds" in verdict.reason


def test_what_others_took_is_given_back(tmp_path: Path) -> None:
    """Round 2 alone would say the contrary: others took most of all threads and little of one core."""
    rates = {ALL: [250, 125, 250], CORE: [125, 150, 125]}
    rundir = make(tmp_path, rates, others=0.5)
    for name, others in (("all-threads-2", 0.75), ("one-core-2", 0.4)):
        rate, cpus = (125, 2) if others > 0.5 else (150, 1)
        busy = CPU_S * MESSAGES + others * cpus * (1 + MESSAGES / rate)
        change(rundir, f"{name}-cpus", used={"busy_s": busy, "steal_s": 0.0})
    verdict = judged(rundir)
    assert verdict.outcome is Outcome.CONFIRMED
    assert verdict.evidence[0].found == "50% (125 of 250, 150 of 125, 125 of 250)"
    assert verdict.evidence[1].found == "50% (250 of 500, 250 of 500, 250 of 500)"
    assert "500 messages a second on all threads, 250 on one core, as estimated without other" in verdict.claim
    assert verdict.figures["messages_on_all_threads_per_s"] == pytest.approx(250)


def test_what_is_left_out_and_shared_is_said(tmp_path: Path) -> None:
    marks = judged(make(tmp_path, FALLS)).marks
    assert any("one thread is one core" in mark and "one socket is all threads" in mark for mark in marks)
    assert "all threads: no core is left for the harness, which shares these CPUs" in marks


def test_hyper_threading_is_answered_where_there_is_any(tmp_path: Path) -> None:
    rates = {ALL: [500, 500], ONE_EACH: [400, 400], CORE: [250, 250], THREAD: [200, 200]}
    verdict = judged(make(tmp_path, rates, said=SIBLINGS))
    assert verdict.outcome is Outcome.CONFIRMED
    assert "Hyper-threading: +25% (all threads against one thread per core), +25% (one core" in verdict.reason


def test_an_inconclusive_run_claims_no_gain_of_hyper_threading(tmp_path: Path) -> None:
    rates = {ALL: [500, 500], ONE_EACH: [400, 400], CORE: [250, 250], THREAD: [200, 200]}
    rundir = make(tmp_path, rates, said=SIBLINGS)
    change(rundir, "one-core-2-sink", delivered=MESSAGES - 1, delivered_set=bitmap(range(MESSAGES - 1)))
    verdict = judged(rundir)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.headline.endswith("Hyper-threading: not measured.")


def test_a_machine_that_does_not_tell_its_cores_is_said_so(tmp_path: Path) -> None:
    assert "does not tell which CPUs are threads" in judged(make(tmp_path, FALLS, said="0  ;1  ;")).reason


def test_one_cpu_is_no_comparison(tmp_path: Path) -> None:
    verdict = judged(make(tmp_path, {ALL: [400]}, said="0 0 0;"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "only one set" in verdict.reason
    assert verdict.figures["messages_on_all_threads_per_s"] == pytest.approx(400)


@pytest.mark.parametrize("missing", ["all-threads-2-sink", "one-core-3-queue", "calibration-sink", "one-core-1-cpus"])
def test_what_was_not_measured_is_never_confirmed(tmp_path: Path, missing: str) -> None:
    rundir = make(tmp_path, FALLS)
    (rundir.path / "results" / f"{missing}.json").unlink()
    verdict = judged(rundir)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "not measured" in verdict.reason.lower()


def test_a_run_that_ended_before_its_first_set_is_judged(tmp_path: Path) -> None:
    verdict = judged(RunDir.create(tmp_path, SCENARIO.name))
    assert (verdict.outcome, verdict.tables) == (Outcome.INCONCLUSIVE, ())


def test_lost_mail_is_no_throughput(tmp_path: Path) -> None:
    rundir = make(tmp_path, FALLS)
    change(rundir, "one-core-2-sink", delivered=MESSAGES - 1, delivered_set=bitmap(range(MESSAGES - 1)))
    verdict = judged(rundir)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "lost: 1, needed 0" in verdict.reason


def test_a_relay_that_ran_elsewhere_is_no_answer(tmp_path: Path) -> None:
    rundir = make(tmp_path, FALLS)
    change(rundir, "one-core-2-cpus", allowed="0-1")
    verdict = judged(rundir)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "CPUs that the relay ran on: 0-1, needed 0, one core" in verdict.reason


def test_a_result_near_the_ceiling_of_the_instrument_is_marked(tmp_path: Path) -> None:
    rundir = make(tmp_path, FALLS)
    load(rundir, "calibration-single", BEGAN, 500)
    verdict = judged(rundir)
    assert (verdict.outcome, verdict.marks[0]) == (Outcome.INCONCLUSIVE, "instrument-bound")


def test_the_kernels_figures_are_read() -> None:
    def said(user: int, idle: int, iowait: int, steal: int) -> str:
        line = f"{user} 10 20 {idle} {iowait} 0 30 {steal} 0 0"
        return f"cpu  {line}\ncpu0 {line}\ncpu12 {line}\nintr 1 2\nName:\tmaster\nCpus_allowed_list:\t0,12\n"

    before, after = CpuTimes.parse(said(100, 500, 50, 1)), CpuTimes.parse(said(300, 700, 60, 11))
    assert after.allowed == "0,12"
    assert after.since(before, (0, 12)) == {"busy_s": 4.2, "steal_s": 0.2}
    assert after.since(before, (0, 1)) is None
    assert CpuTimes.parse("").since(before, ()) is None, "a machine that tells of no CPU"
    assert CpuTimes.parse("") == CpuTimes(busy={}, steal={}, allowed="")


def test_the_bed_has_the_relay_that_is_asked_for() -> None:
    bed = SCENARIO.bed(Params(domains=7, relay_release="trixie"))
    assert (bed.domains, bed.nodes["relay"].release) == (7, "trixie")
