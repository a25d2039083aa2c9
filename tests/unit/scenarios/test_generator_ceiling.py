"""The verdict on what each load generator can send."""

import json
from pathlib import Path

import pytest

from orchestrator.agents.contract import LoadReport, SinkReport, SinkTick
from orchestrator.errors import InvalidInput
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome, Verdict
from orchestrator.scenarios.generator_ceiling import SCENARIO, Params
from tests.unit.factory import bitmap, histogram

RUNS = {"a": "00000001", "b": "00000002", "c": "3", "d": "4"}
LOADS = {("smtp-load", "sink"): "a", ("postal", "sink"): "b", ("smtp-load", "relay"): "c", ("postal", "relay"): "d"}
"""Generator and receiving role -> name of the load, which means nothing."""


def judged(
    folder: Path,
    *,
    tokens: int = 2048,
    ours: float = 10_000.0,
    idle: float = 0.8,
    rival_idle: float = 0.8,
    cores: float = 0.2,
    without: str = "",
    engines: str = "smtp-load,postal",
    delay_ms: float = 0.0,
    relay_idle: float | None = None,
) -> Verdict:
    """Judge a run in which postal got so many tokens every 5 s, and ours sent so many messages a second."""
    rundir = RunDir.create(folder, "generator-ceiling")
    rundir.save(
        {
            "scenario": "generator-ceiling",
            "params": Params(engines=engines, data_delay_ms=delay_ms).model_dump(),
            "plan": {"nodes": [{"name": "hole", "role": "sink"}, {"name": "mta", "role": "relay"}]},
            "environment": {"engine": {"cpus": 2}},
        }
    )
    for to, our_share, postals_share in (("sink", 1.0, 1.0), ("relay", 0.05, 0.95)):
        if LOADS["smtp-load", to] != without:
            _ours(rundir, to, start=992.0 if to == "sink" else 3000.0, rate=ours * our_share)
        if LOADS["postal", to] != without:
            _postal(rundir, to, start=1000.0 if to == "sink" else 2000.0, tokens=int(tokens * postals_share))
    for name, start, end, share in (("postal", 1000.0, 1040.0, idle), ("smtp-load", 992.0, 1000.0, rival_idle)):
        used = {"busy_s": 2 * (1 - share) * (end - start), "steal_s": 0.0}
        window = {"start": start, "end": end, "cpus": 2}
        rundir.save_result(f"{LOADS[name, 'sink']}-cpus", window | {"used": used})
    if relay_idle is not None:
        window = {"start": 3000.0, "end": 3008.0, "cpus": 2}
        used = {"busy_s": 2 * (1 - relay_idle) * 8, "steal_s": 0.0}
        rundir.save_result("c-cpus", window | {"used": used})
    with rundir.write_series("stats") as stats:
        for t in (*range(990, 1050), *range(2999, 3010)):
            stats.write(json.dumps({"t": float(t), "node": "hole", "cpu_s": cores * t, "memory_b": 1}) + "\n")
    measured = Measurements.read(rundir)
    return SCENARIO.judge(measured, Params(**measured.params))


def _tick(rundir: RunDir, run: str, t: float, delivered: int, foreign: int) -> None:
    tick = SinkTick(
        run=run, t=t, delivered=delivered, duplicated=0, corrupted=0, foreign=foreign, bytes=1, connections=1
    )
    with rundir.write_series("sink") as series:
        series.write(json.dumps(tick.to_dict()) + "\n")


def _ours(rundir: RunDir, to: str, *, start: float, rate: float) -> None:
    name, count = LOADS["smtp-load", to], int(8 * rate)
    sent = LoadReport(
        run=RUNS[name], started=start, ended=start + 8, offered=count, accepted=count, failed={}, unresolved=0,
        connections=80, late=0, cpu_s=4.0, stalled_s=0.0, response=histogram([]), service=histogram([]),
        connect=histogram([]), accepted_set=bitmap([]), unresolved_set=bitmap([]),
        generator="smtp-load", to=to,
    )  # fmt: skip
    got = SinkReport(
        run=RUNS[name], delivered=count, duplicated=0, corrupted=0, misrouted=0, foreign=0, bytes=1, connections=80,
        domains=16, first=start, last=start + 8, cpu_s=4.0, memory_b=1, transit=histogram([]), age=histogram([]),
        delivered_set=bitmap([]),
    )  # fmt: skip
    rundir.save_result(f"{name}-load", sent.to_dict())
    rundir.save_result(f"{name}-sink", got.to_dict())
    for second in range(1, 9):
        _tick(rundir, RUNS[name], start + second, int(second * rate), 0)


def _postal(rundir: RunDir, to: str, *, start: float, tokens: int) -> None:
    """Send each portion within 2 s, as postal does; the sink is silent while nothing arrives."""
    name = LOADS["postal", to]
    done = LoadReport(
        run=RUNS[name], generator="postal", started=start, ended=start + 40, exit_status=124, cut_off=True,
        cpu_s=3.0, arrived=8 * tokens, to=to,
    )  # fmt: skip
    rundir.save_result(f"{name}-load", done.to_dict())
    for portion in range(8):
        for at, share in ((0.4, 0.3), (1.4, 1.0)):
            _tick(rundir, RUNS[name], start + 5 * portion + at, 0, int((portion + share) * tokens))
    _tick(rundir, RUNS[name], start + 60, 0, 100 * tokens)  # the next load's


def test_the_tokens_and_the_room_beside_them_are_confirmed(tmp_path: Path) -> None:
    verdict = judged(tmp_path, relay_idle=0.02)
    assert verdict.outcome is Outcome.CONFIRMED, verdict.reason
    assert verdict.figures["postal_ceiling_messages_per_minute"] == pytest.approx(24_576, rel=5e-3)
    assert verdict.figures["smtp_load_ceiling_messages_per_minute"] == pytest.approx(600_000, rel=1e-3)
    rows = {row[0]: row for row in verdict.tables[0].rows}
    assert [rows[name][-1] for name in ("smtp-load", "postal")] == ["the relay", "the generator"]
    assert rows["postal"][2] == pytest.approx(0.95 * 24_576, rel=1e-3)
    assert rows["postal"][4] == pytest.approx(1000 * 3.0 / 8 / 2048)
    assert verdict.marks == ()


def test_a_load_that_left_cpu_idle_may_have_been_paced_by_its_connections(tmp_path: Path) -> None:
    for idle, pace in ((None, "not the generator"), (0.5, "not the generator"), (0.02, "the relay")):
        verdict = judged(tmp_path / str(idle), relay_idle=idle)
        assert [row[-1] for row in verdict.tables[0].rows] == [pace, "the generator"]


@pytest.mark.parametrize("tokens", [1900, 2200])
def test_another_pace_refutes(tmp_path: Path, tokens: int) -> None:
    assert judged(tmp_path, tokens=tokens).outcome is Outcome.REFUTED


def test_a_sink_that_takes_no_more_from_another_generator_refutes(tmp_path: Path) -> None:
    verdict = judged(tmp_path, ours=2000.0)
    assert verdict.outcome is Outcome.REFUTED
    assert "5 times as much" in verdict.reason


def test_a_slow_postal_on_a_saturated_machine_says_nothing(tmp_path: Path) -> None:
    verdict = judged(tmp_path, tokens=1000, idle=0.02)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.marks == (
        "busy machine: while postal sent, the bed had 0.2 of 2 cores, and other processes had the rest",
    )


def test_a_starved_rival_of_postal_says_nothing(tmp_path: Path) -> None:
    assert judged(tmp_path, ours=2000.0, rival_idle=0.0).outcome is Outcome.INCONCLUSIVE


def test_a_bed_that_uses_most_of_the_cpu_says_nothing(tmp_path: Path) -> None:
    assert judged(tmp_path, cores=1.5).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("missing", ["b", "a"])
def test_what_was_not_measured_is_inconclusive(tmp_path: Path, missing: str) -> None:
    assert judged(tmp_path, without=missing).outcome is Outcome.INCONCLUSIVE


def test_without_postal_the_claim_is_smaller(tmp_path: Path) -> None:
    verdict = judged(tmp_path, engines="smtp-load")
    assert (verdict.outcome, verdict.claim) == (Outcome.CONFIRMED, "Each generator's ceiling is known.")


@pytest.mark.parametrize(("cores", "delay_ms"), [(0.95, 0.0), (0.2, 500.0)])
def test_without_postal_a_sink_that_may_be_the_limit_is_no_answer(
    tmp_path: Path, cores: float, delay_ms: float
) -> None:
    verdict = judged(tmp_path, engines="smtp-load", cores=cores, delay_ms=delay_ms)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "sink" in verdict.reason


def test_a_sink_at_its_limit_is_noted_beside_postals_own_ceiling(tmp_path: Path) -> None:
    verdict = judged(tmp_path, cores=0.95)
    assert verdict.outcome is Outcome.CONFIRMED
    assert "the ceiling of smtp-load may be that of the sink, which used 95% of its core" in verdict.marks


def test_the_bed_has_a_node_for_each_generator() -> None:
    bed = SCENARIO.bed(Params(engines="postal, smtp-source", domains=7))
    assert set(bed.nodes) == {"dns", "relay", "sink", "load", "postal", "smtp-source"}
    with pytest.raises(InvalidInput, match="bind"):
        SCENARIO.bed(Params(engines="postal,bind"))
