"""The verdict on a relay run: what makes it CONFIRMED, REFUTED or INCONCLUSIVE."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.measurements import Measurements
from orchestrator.rundir import RunDir
from orchestrator.scenarios import Outcome, Verdict
from orchestrator.scenarios.relay_throughput import SCENARIO
from orchestrator.scenarios.relay_throughput.params import Params
from tests.unit.factory import make_run

CARRIES = 150.0
"""Messages a second."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Make a run of 2 s that is as it should be."""
    rundir = make_run(tmp_path_factory.mktemp("runs"), domains=100, carries=CARRIES, seconds=2.0)
    rundir.save_result("relay-queue", {"left": 0, "seconds": 1.0})
    calibration = {end: rundir.result(f"calibration-{end}") for end in ("load", "sink")}
    for end, report in calibration.items():
        assert report
        rundir.save_result(f"calibration-single-{end}", report)
    return rundir


def _judged(rundir: RunDir, scratch: Path, change: Callable[[Path], None] = lambda _: None) -> Verdict:

    copy = scratch / "run"
    shutil.copytree(rundir.path, copy)
    change(copy)
    return SCENARIO.judge(Measurements.read(RunDir.open(copy)))


def _set(name: str, **values: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = run / "results" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")

    return change


def _carried(run: RunDir, longer: float = 0.0) -> float:
    """Return messages a second from the first due message to the last delivery, or so many seconds after it."""
    sent, got = run.result("relay-load"), run.result("relay-sink")
    assert sent
    assert got
    return float(got["delivered"] / (got["last"] + longer - sent["started"]))


def test_whole_mail_far_below_the_ceiling_is_confirmed(template: RunDir, tmp_path: Path) -> None:
    verdict = _judged(template, tmp_path)
    assert verdict.outcome is Outcome.CONFIRMED
    assert verdict.marks == ()
    assert all(e.holds for e in verdict.evidence)
    assert verdict.figures["relay_messages_per_s"] == pytest.approx(_carried(template))


@pytest.mark.parametrize("fact", ["duplicated", "corrupted", "misrouted"])
def test_broken_mail_refutes(template: RunDir, tmp_path: Path, fact: str) -> None:
    verdict = _judged(template, tmp_path, _set("relay-sink", **{fact: 1}))
    assert verdict.outcome is Outcome.REFUTED
    assert fact in verdict.reason.lower()


def test_lost_mail_refutes(tmp_path: Path, template: RunDir) -> None:
    lossy = make_run(tmp_path / "lossy", domains=100, carries=CARRIES, seconds=2.0, lose=[7, 9])
    for end in ("load", "sink"):
        report = template.result(f"calibration-single-{end}")
        assert report
        lossy.save_result(f"calibration-single-{end}", report)
    lossy.save_result("relay-queue", {"left": 0, "seconds": 1.0})
    verdict = SCENARIO.judge(Measurements.read(lossy))
    assert verdict.outcome is Outcome.REFUTED
    assert "Lost: 2, needed 0" in verdict.reason


def test_mail_that_still_waits_in_the_queue_is_not_called_lost(template: RunDir, tmp_path: Path) -> None:
    verdict = _judged(template, tmp_path, _set("relay-queue", left=3))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "the relay's queue after the drain" in verdict.reason


def test_a_domain_without_mail_refutes(template: RunDir, tmp_path: Path) -> None:
    assert _judged(template, tmp_path, _set("relay-sink", domains=99)).outcome is Outcome.REFUTED


def test_a_result_near_the_ceiling_is_instrument_bound_and_no_verdict(template: RunDir, tmp_path: Path) -> None:
    slow = template.result("calibration-single-load")
    assert slow
    verdict = _judged(template, tmp_path, _set("calibration-single-sink", delivered=4 * 170, last=slow["started"] + 4))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.marks == ("instrument-bound",)
    assert "share of the instrument's ceiling" in verdict.reason


@pytest.mark.parametrize(("name", "cpu"), [("relay-load", 1e3), ("relay-sink", 1e3)])
def test_a_harness_that_uses_its_whole_core_is_instrument_bound(
    template: RunDir, tmp_path: Path, name: str, cpu: float
) -> None:
    verdict = _judged(template, tmp_path, _set(name, cpu_s=cpu))
    assert (verdict.outcome, verdict.marks) == (Outcome.INCONCLUSIVE, ("instrument-bound",))


def test_a_generator_behind_its_schedule_is_instrument_bound(template: RunDir, tmp_path: Path) -> None:
    def late(run: Path) -> None:
        facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
        facts["params"] |= {"rate": CARRIES}
        (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        _set("relay-load", late=100_000)(run)

    verdict = _judged(template, tmp_path, late)
    assert (verdict.outcome, verdict.marks) == (Outcome.INCONCLUSIVE, ("instrument-bound",))


@pytest.mark.parametrize("missing", ["relay-load", "relay-sink", "relay-queue", "calibration-load"])
def test_what_was_not_measured_is_never_confirmed(template: RunDir, tmp_path: Path, missing: str) -> None:
    verdict = _judged(template, tmp_path, lambda run: (run / "results" / f"{missing}.json").unlink())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "Not measured" in verdict.reason


def test_the_bed_has_the_relay_that_is_asked_for() -> None:
    bed = SCENARIO.bed(Params(domains=7, relay_release="trixie", relay_cpus=0.5))
    assert bed.domains == 7
    assert bed.nodes["relay"].release == "trixie"
    assert bed.nodes["relay"].limits.cpus == 0.5


def test_a_backlog_that_grows_is_noted(template: RunDir, tmp_path: Path) -> None:
    def hold_back(run: Path) -> None:
        path = run / "series" / "sink.jsonl"
        ticks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        slower = (tick | {"delivered": tick["delivered"] // 2} for tick in ticks)
        path.write_text("".join(json.dumps(tick) + "\n" for tick in slower), encoding="utf-8")

    verdict = _judged(template, tmp_path, hold_back)
    assert verdict.outcome is Outcome.CONFIRMED
    assert "a backlog grew" in verdict.marks[0]
    under_load, carried = (verdict.figures[f"{n}_per_s"] for n in ("delivered_under_load", "relay_messages"))
    assert under_load == pytest.approx((carried or 0) / 2, rel=0.1)  # of 2 s, the last tick leaves some 0.1 s out


def test_another_generator_and_sink_are_services_like_any_other() -> None:
    bed = SCENARIO.bed(Params(load="postal", sink="bhm"))
    assert {name: node.service for name, node in bed.nodes.items()} == {
        "dns": "bind", "relay": "postfix", "sink": "bhm", "load": "smtp-load", "postal": "postal"
    }  # fmt: skip
    assert bed.nodes["relay"].settings["main_cf"]["smtp_address_preference"] == "ipv4"
    for wrong in (Params(load="bhm"), Params(sink="postal"), Params(sink="bind")):
        with pytest.raises(InvalidInput, match="fills the role"):
            SCENARIO.bed(wrong)


def test_what_a_sink_does_not_account_for_is_unknown_and_the_rate_is_that_of_the_relays_log(
    template: RunDir, tmp_path: Path
) -> None:
    def swallowed(run: Path) -> None:
        facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
        facts["params"] |= {"sink": "bhm", "relay": "postfix"}
        (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        (run / "results" / "relay-sink.json").unlink()

    verdict = _judged(template, tmp_path, swallowed)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "no message is accounted for by bhm" in verdict.reason
    assert {e.fact: e.holds for e in verdict.evidence}["lost"] is None
    log_to_1_s = verdict.figures["relay_messages_per_s"] or 0
    assert _carried(template, longer=1.0) <= log_to_1_s <= _carried(template)


@pytest.mark.parametrize(("busy", "full"), [(0.89, False), (0.91, True)])
def test_a_machine_without_a_cpu_to_spare_is_noted(
    template: RunDir, tmp_path: Path, busy: float, *, full: bool
) -> None:
    cpus = 4
    measured = Measurements.read(template)
    load = measured.span("relay")
    assert load
    window = {"start": load.start, "end": load.end or 0.0}
    cores = {node: use.cores for node in measured.nodes if (use := measured.use(node, load))}
    used = {"busy_s": busy * cpus * (window["end"] - window["start"]), "steal_s": 0.0}

    def recorded(run: Path) -> None:
        RunDir.open(run).save_result("relay-cpus", window | {"cpus": cpus, "used": used})

    verdict = _judged(template, tmp_path, recorded)
    relay, others = cores["relay"], busy * cpus - sum(cores.values())
    assert verdict.outcome is Outcome.CONFIRMED
    assert verdict.figures["share_of_machine_cpu"] == pytest.approx(busy)
    assert [f"the relay had {relay:.2f}" in mark for mark in verdict.marks] == [True] * full
    assert [f"others {others:.2f}" in mark for mark in verdict.marks] == [True] * full
