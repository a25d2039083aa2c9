"""The verdict on a relay run: what makes it CONFIRMED, REFUTED or INCONCLUSIVE."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import InvalidInput
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome, Verdict
from orchestrator.plan import make_plan
from orchestrator.scenarios import cpu_topology
from orchestrator.scenarios.relay_load.cpu import Cpu, cpu_of
from orchestrator.scenarios.relay_load.probes import Probe, enough, following
from orchestrator.scenarios.relay_throughput import SCENARIO
from orchestrator.scenarios.relay_throughput.params import Params
from orchestrator.services.agents import RECIPIENTS
from tests.unit.factory import add_probes, bitmap, make_run

CARRIES = 150.0
"""Messages a second."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Make a run of 2 s that is as it should be."""
    rundir = make_run(tmp_path_factory.mktemp("runs"), domains=100, carries=CARRIES, seconds=2.0)
    calibration = {end: rundir.result(f"calibration-{end}") for end in ("load", "sink")}
    for end, report in calibration.items():
        assert report
        rundir.save_result(f"calibration-single-{end}", report)
    add_probes(rundir, {20: CARRIES, 40: CARRIES}, used=20)
    Measurements.read(rundir)  # what the relay's log says is kept, and copied with it
    return rundir


def judge(measured: Measurements) -> Verdict:
    """Judge with the parameters of the run."""
    return SCENARIO.judge(measured, Params(**measured.params))


def _judged(rundir: RunDir, scratch: Path, change: Callable[[Path], None] = lambda _: None) -> Verdict:

    copy = scratch / "run"
    shutil.copytree(rundir.path, copy)
    change(copy)
    return judge(Measurements.read(RunDir.open(copy)))


def _set(name: str, **values: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = run / "results" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")

    return change


def _record_cpus(run: Path, *, busy: float, cpus: int = 2) -> None:
    """Say that this share of the machine's CPU was in use while the relay's load went on."""
    span = Measurements.read(RunDir.open(run)).span("relay")
    assert span
    assert span.end
    used = {"busy_s": busy * cpus * (span.end - span.start), "steal_s": 0.0}
    window = {"start": span.start, "end": span.end, "cpus": cpus}
    RunDir.open(run).save_result("relay-cpus", window | {"used": used})


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
    verdict = judge(Measurements.read(lossy))
    assert verdict.outcome is Outcome.REFUTED
    assert "Lost: 2, needed 0" in verdict.reason


@pytest.mark.parametrize("left", [3, None])
def test_mail_that_may_still_wait_in_the_queue_is_not_called_lost(
    template: RunDir, tmp_path: Path, left: int | None
) -> None:
    verdict = _judged(template, tmp_path, _set("relay-queue", left=left))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "the relay's queue after the drain" in verdict.reason


def test_a_domain_whose_only_message_was_refused_is_owed_no_mail(tmp_path: Path, template: RunDir) -> None:
    """275 messages to 250 domains, the one to domain 30 refused with 451: it had no second one."""
    refusing = make_run(tmp_path / "refusing", domains=250, carries=CARRIES, messages=275, refuse=[30])
    for end in ("load", "sink"):
        refusing.save_result(f"calibration-single-{end}", template.result(f"calibration-single-{end}") or {})
    add_probes(refusing, {20: CARRIES, 40: CARRIES}, used=20)
    measured = Measurements.read(refusing)
    assert (measured.loads["relay"].accepted, measured.sinks["relay"].domains) == (274, 249)
    verdict = judge(measured)
    assert verdict.outcome is Outcome.CONFIRMED, verdict.reason
    fact = next(e for e in verdict.evidence if e.fact == "domains with delivered mail")
    assert (fact.found, fact.needed) == ("249", "249")


def test_mail_whose_reply_was_lost_may_arrive_for_a_domain_more(template: RunDir, tmp_path: Path) -> None:
    verdict = _judged(template, tmp_path, _set("relay-load", domains=99, unresolved=1))
    fact = next(e for e in verdict.evidence if e.fact == "domains with delivered mail")
    assert (fact.found, fact.needed, fact.holds) == ("100", "99 to 100", True)


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


# ------------------------------------------------------------------------------------- who sets the pace: connections


@pytest.mark.parametrize(
    ("carries", "used", "idle", "bound"),
    [
        ({1: 484.0, 4: 550.0}, 1, 0.20, True),
        ({1: 484.0, 4: 490.0}, 1, 0.20, False),
        ({1: 484.0, 4: 550.0}, 1, 0.02, False),  # with the CPU used up, noise makes as much
        ({1: 100.0, 4: 390.0}, 1, 0.02, True),
        ({20: 40.0, 40: 80.0, 80: 81.0, 160: 79.0}, 80, 0.7, False),
        ({320: 300.0, 640: 590.0}, 640, 0.5, True),  # the largest number that is tried, and not enough
        ({320: 580.0, 640: 590.0}, 640, 0.5, False),
    ],
)
def test_a_number_of_connections_that_sets_the_pace_is_no_verdict_on_the_relay(
    template: RunDir, tmp_path: Path, carries: dict[int, float], used: int, idle: float, *, bound: bool
) -> None:
    scaled = {number: rate * CARRIES / carries[used] for number, rate in carries.items()}

    def probed(run: Path) -> None:
        add_probes(RunDir.open(run), scaled, used=used, idle=idle, given=used == 1)

    verdict = _judged(_without_probes(template, tmp_path), tmp_path, probed)
    if not bound:
        assert (verdict.outcome, verdict.marks) == (Outcome.CONFIRMED, ())
        return
    assert (verdict.outcome, verdict.marks) == (Outcome.INCONCLUSIVE, ("concurrency-bound",))
    assert f"messages a second over {max(carries)} connections" in verdict.reason
    assert "--connections" in verdict.reason
    assert not any(character.isdigit() for character in verdict.claim)


@pytest.mark.parametrize(("probe", "given", "unsteady"), [(1.6, True, True), (1.6, False, True), (1.2, True, False)])
def test_a_load_far_below_its_own_probe_is_no_verdict_on_the_relay(
    template: RunDir, tmp_path: Path, probe: float, *, given: bool, unsteady: bool
) -> None:
    def probed(run: Path) -> None:
        add_probes(RunDir.open(run), {20: probe * CARRIES, 80: probe * CARRIES}, used=20, given=given)

    verdict = _judged(_without_probes(template, tmp_path), tmp_path, probed)
    assert verdict.outcome is (Outcome.INCONCLUSIVE if unsteady else Outcome.CONFIRMED)
    assert verdict.marks == (("unsteady",) if unsteady else ())
    if unsteady:
        assert "rate was not steady between its probe and the run: 16" in verdict.reason
        assert "240 in the probe over the same 20 connections: 0.70 times" in verdict.reason


@pytest.mark.parametrize(("others", "disturbed"), [(0.23, False), (0.30, True), (0.35, True)])
def test_a_relay_whose_cpu_others_took_is_no_verdict_on_the_relay(
    template: RunDir, tmp_path: Path, others: float, *, disturbed: bool
) -> None:
    """The factory's bed uses 1.7 of 2 CPUs."""
    measured = Measurements.read(template)
    span = measured.span("relay")
    assert span
    bed = sum(use.cores for node in measured.nodes if (use := measured.use(node, span)))
    verdict = _judged(template, tmp_path, lambda run: _record_cpus(run, busy=bed / 2 + others))
    assert verdict.outcome is (Outcome.INCONCLUSIVE if disturbed else Outcome.CONFIRMED), verdict.reason
    assert ("disturbed" in verdict.marks) is disturbed
    if disturbed:
        assert verdict.reason.startswith("Other processes set the pace: processes outside the bed used ")
        assert "150" not in verdict.claim


def test_too_few_connections_are_named_on_a_busy_machine_too(template: RunDir, tmp_path: Path) -> None:
    def disturbed(run: Path) -> None:
        add_probes(RunDir.open(run), {1: CARRIES, 4: 4 * CARRIES}, used=1, given=True)
        _record_cpus(run, busy=1.3)

    verdict = _judged(_without_probes(template, tmp_path), tmp_path, disturbed)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.marks[:2] == ("concurrency-bound", "disturbed")
    assert verdict.reason.startswith("The number of connections set the pace: ")


@pytest.mark.parametrize("probe", [0.5, 1.6])
def test_a_load_of_another_generator_is_not_compared_with_the_probes(
    template: RunDir, tmp_path: Path, probe: float
) -> None:
    def other(run: Path) -> None:
        add_probes(RunDir.open(run), {20: probe * CARRIES, 80: 4 * probe * CARRIES}, used=20)
        _set("relay-load", generator="postal")(run)

    facts = [e.fact for e in _judged(_without_probes(template, tmp_path), tmp_path, other).evidence]
    assert not [fact for fact in facts if "probe" in fact or "more connections" in fact]


def test_without_a_second_number_the_cpu_may_tell_that_more_connections_carry_no_more(
    template: RunDir, tmp_path: Path
) -> None:
    verdict = _judged(_without_probes(template, tmp_path), tmp_path)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == "Not measured: throughput over more connections."
    shutil.rmtree(tmp_path / "run")
    full = _judged(_without_probes(template, tmp_path), tmp_path, lambda run: _record_cpus(run, busy=0.95))
    assert full.outcome is Outcome.CONFIRMED


@pytest.mark.parametrize(("limit", "cpu"), [(1.5, Cpu.SPENT), (2.0, Cpu.LEFT), (None, Cpu.LEFT)])
def test_a_relay_at_its_own_limit_has_no_cpu_left(
    template: RunDir, tmp_path: Path, limit: float | None, cpu: Cpu
) -> None:
    rundir = _without_probes(template, tmp_path)
    facts = rundir.load()
    facts["plan"]["nodes"][0]["limits"] = {"cpus": limit}
    rundir.save(facts)
    _record_cpus(rundir.path, busy=0.5, cpus=4)
    measured = Measurements.read(rundir)
    load = measured.span("relay")
    assert load
    use = measured.use("relay", load)
    assert use
    assert use.cores > 1.35, "the factory's relay uses 1.42 cores"
    assert cpu_of(measured, "relay") is cpu


def test_the_numbers_that_were_tried_stand_side_by_side(template: RunDir, tmp_path: Path) -> None:
    (table,) = _judged(template, tmp_path).tables
    assert [row[0] for row in table.rows] == ["20", "40"]
    assert [row[-1] for row in table.rows] == ["taken for the run", ""]
    assert table.rows[0][2] == pytest.approx(CARRIES, rel=0.01)


def test_a_number_of_connections_that_the_relay_refuses_does_not_refute(template: RunDir, tmp_path: Path) -> None:
    nothing = {"accepted": 0, "accepted_set": bitmap([]), "domains": 0, "failed": {"421 4.7.0": 450}}

    def refused(run: Path) -> None:
        _set("probe-40-load", **nothing)(run)
        _set("probe-40-sink", delivered=0, delivered_set=bitmap([]), domains=0, first=None, last=None)(run)

    assert _judged(template, tmp_path, refused).outcome is Outcome.CONFIRMED


def test_a_domain_whose_only_message_still_waits_in_the_queue_refutes_nothing(template: RunDir, tmp_path: Path) -> None:
    def waiting(run: Path) -> None:
        _set("relay-queue", left=1)(run)
        _set("relay-sink", domains=99)(run)

    assert _judged(template, tmp_path, waiting).outcome is Outcome.INCONCLUSIVE


def test_mail_that_is_lost_in_a_probe_is_lost(template: RunDir, tmp_path: Path) -> None:
    sink = template.result("probe-40-sink")
    assert sink
    numbers = range(1, int(3 * CARRIES))
    verdict = _judged(template, tmp_path, _set("probe-40-sink", delivered_set=bitmap(numbers)))
    assert verdict.outcome is Outcome.REFUTED
    assert "Lost: 1, needed 0" in verdict.reason


def _probe(connections: int, carried: float, cpu: Cpu = Cpu.LEFT) -> Probe:
    return Probe(connections=connections, accepted=carried, carried=carried, idle=0.5, cpu=cpu)


def _searched(capacity: Callable[[int], float], cpu: Callable[[int], Cpu]) -> tuple[list[int], int]:
    """Search a relay whose throughput over each number of connections is known."""
    tried: list[Probe] = []
    while connections := following(tried):
        tried.append(_probe(connections, capacity(connections), cpu(connections)))
    return [probe.connections for probe in tried], enough(tried)


@pytest.mark.parametrize(
    ("capacity", "full_from", "tried", "found"),
    [
        (lambda n: 500.0, 1, [20, 40], 20),  # noqa: ARG005
        (lambda n: 500.0, 10_000, [20, 40, 80], 20),  # the disk, not the CPU: one more to be sure  # noqa: ARG005
        (lambda n: min(2.0 * n, 500), 250, [20, 40, 80, 160, 320, 640], 320),
        (lambda n: 2.0 * n, 10_000, [20, 40, 80, 160, 320, 640], 640),
        (lambda n: {80: 15.0}.get(n, min(2.0 * n, 500)), 250, [20, 40, 80, 160, 320, 640], 320),  # one probe stalled
        (lambda n: 0.0, 10_000, [20, 40, 80], 20),  # noqa: ARG005
        (lambda n: {20: 400.0, 40: 436.0}.get(n, 475.0), 10_000, [20, 40, 80, 160, 320], 80),  # small gains add up
    ],
)  # fmt: skip
def test_the_search_ends_where_more_connections_carry_no_more(
    capacity: Callable[[int], float], full_from: int, tried: list[int], found: int
) -> None:
    cpu = lambda n: Cpu.SPENT if n >= full_from else Cpu.LEFT  # noqa: E731
    assert _searched(capacity, cpu) == (tried, found)


def test_the_largest_number_is_held_against_the_last_gain_before_it(template: RunDir, tmp_path: Path) -> None:
    bare = _without_probes(template, tmp_path)
    add_probes(bare, {20: 400, 40: 436, 80: 475}, used=80, idle=0.5)
    (evidence,) = (e for e in _judged(bare, tmp_path).evidence if e.fact == "throughput over more connections")
    assert evidence.holds is False
    assert "over 80 connections" in evidence.found
    assert "over 20 connections" in evidence.found


def test_cpu_that_others_took_does_not_end_the_search() -> None:
    tried = [_probe(20, 100, Cpu.TAKEN), _probe(40, 100, Cpu.TAKEN)]
    assert following(tried) == 80


# -------------------------------------------------------------------------------------------- who sets the pace: a rate


def _at_a_rate(run: Path, rate: float = CARRIES, connections: int = 640) -> None:
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    facts["params"] |= {"rate": rate}
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    RunDir.open(run).save_result("connections", {"connections": connections, "given": False})


def _without_probes(rundir: RunDir, scratch: Path) -> RunDir:
    bare = scratch / "bare"
    shutil.rmtree(bare, ignore_errors=True)
    shutil.copytree(rundir.path, bare)
    for path in [*(bare / "results").glob("probe-*"), bare / "results" / "connections.json"]:
        path.unlink()
    return RunDir.open(bare)


def test_a_rate_that_is_carried_is_the_claim_with_its_times(template: RunDir, tmp_path: Path) -> None:
    verdict = _judged(_without_probes(template, tmp_path), tmp_path, _at_a_rate)
    assert verdict.outcome is Outcome.CONFIRMED, verdict.reason
    assert verdict.claim.startswith("This relay carries the offered 150 messages a second: half of them are accepted")
    assert "it was the relay that was measured" not in verdict.claim + verdict.reason
    response = Measurements.read(template).latency("relay")["response"]
    assert verdict.figures["response_p50_ms"] == 1000 * response.at(50)
    assert f"{1000 * response.at(99):.0f} ms" in verdict.claim


@pytest.mark.parametrize(("busy", "outcome"), [(0.95, Outcome.REFUTED), (0.5, Outcome.REFUTED)])
def test_a_relay_that_takes_less_than_is_offered_is_refuted(
    template: RunDir, tmp_path: Path, busy: float, outcome: Outcome
) -> None:
    def refused(run: Path) -> None:
        _at_a_rate(run)
        _record_cpus(run, busy=busy)
        offered = int(json.loads((run / "results" / "relay-load.json").read_text())["offered"] * 1.2)
        _set("relay-load", offered=offered, failed={"452 4.3.1": offered // 6})(run)

    verdict = _judged(template, tmp_path, refused)
    assert verdict.outcome is outcome
    assert "did not keep up: messages accepted, of those offered: 83" in verdict.reason
    assert "ms" not in verdict.claim


def test_in_a_long_run_at_a_rate_no_more_than_a_second_of_mail_may_wait(template: RunDir, tmp_path: Path) -> None:
    def long(run: Path) -> None:
        _at_a_rate(run)
        _set("relay-load", accepted=15_000)(run)

    fact = "messages delivered 1 s after the last reply, of those accepted"
    needed = {e.fact: e.needed for e in _judged(template, tmp_path, _at_a_rate).evidence}[fact]
    longer = {e.fact: e.needed for e in _judged(template, tmp_path / "long", long).evidence}[fact]
    assert (needed, longer) == ("at least 95.00%", "at least 99.00%")


def test_a_relay_whose_queue_grows_at_a_rate_is_refuted(template: RunDir, tmp_path: Path) -> None:
    def slower(run: Path) -> None:
        _at_a_rate(run)
        ended = json.loads((run / "results" / "relay-load.json").read_text())["ended"]
        _set("relay-sink", last=ended + 20)(run)
        (run / "series" / "sink.jsonl").unlink()

    verdict = _judged(template, tmp_path, slower)
    assert verdict.outcome is Outcome.REFUTED
    assert "messages delivered 1 s after the last reply" in verdict.reason


@pytest.mark.parametrize(
    ("connections", "busy", "outcome", "marks"),
    [
        (20, 0.95, Outcome.REFUTED, ()),  # the factory's load has 20 connections open
        (20, 0.5, Outcome.INCONCLUSIVE, ("concurrency-bound",)),
        (640, 0.95, Outcome.INCONCLUSIVE, ("instrument-bound",)),
    ],
)
def test_messages_that_are_sent_late_waited_for_the_relay_or_for_the_generator(
    template: RunDir, tmp_path: Path, connections: int, busy: float, outcome: Outcome, marks: tuple[str, ...]
) -> None:
    def late(run: Path) -> None:
        _at_a_rate(run, connections=connections)
        _record_cpus(run, busy=busy)
        _set("relay-load", late=100_000)(run)

    verdict = _judged(template, tmp_path, late)
    assert (verdict.outcome, tuple(m for m in verdict.marks if m.endswith("-bound"))) == (outcome, marks)


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


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"load": "smtp-source", "rate": 100}, "a rate, which smtp-source cannot keep"),
        ({"rate": 0.0001}, "rate: needed a number from 0.001 to 1000000; found '0.0001'"),
        ({"rate": 1e6, "seconds": 86_400}, "rate, seconds: needed 134217728 messages at most; found 86400000000"),
        ({"seconds": 0.0001}, "seconds: needed a number from 0.001 to 604800; found '0.0001'"),
    ],
)
def test_a_load_that_cannot_be_sent_is_refused_before_the_bed_is_made(params: dict[str, Any], found: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        SCENARIO.bed(Params.model_validate(params))
    assert refused.value.found == found


@pytest.mark.parametrize("rate", [0.0001, 1e6])
def test_cpu_topology_refuses_such_a_load_too(rate: float) -> None:
    with pytest.raises(InvalidInput, match="rate"):
        cpu_topology.SCENARIO.bed(cpu_topology.Params(rate=rate, seconds=3600))


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
    cpus = 2
    measured = Measurements.read(template)
    span = measured.span("relay")
    assert span
    cores = {node: use.cores for node in measured.nodes if (use := measured.use(node, span))}
    verdict = _judged(template, tmp_path, lambda run: _record_cpus(run, busy=busy, cpus=cpus))
    relay, others = cores["relay"], busy * cpus - sum(cores.values())
    assert verdict.outcome is Outcome.CONFIRMED
    assert verdict.figures["share_of_machine_cpu"] == pytest.approx(busy)
    assert [f"the relay had {relay:.2f}" in mark for mark in verdict.marks] == [True] * full
    assert [f"others {others:.2f}" in mark for mark in verdict.marks] == [True] * full


def test_the_recipients_name_the_domains_of_the_bed_and_reach_the_generator() -> None:
    params = Params(recipients=["anna@b.test", "bert@a.test", "carl@b.test"])
    assert (params.domains, params.domain_names) == (2, ["b.test", "a.test"])
    plan = make_plan(SCENARIO.bed(params), cpus=2)
    assert [delivery.domain for delivery in plan.deliveries] == ["b.test", "a.test"]
    assert plan.named("load").files[RECIPIENTS] == b"anna@b.test\nbert@a.test\ncarl@b.test\n"


@pytest.mark.parametrize("named", [{"domain_names": ["a.test"]}, {"recipients": ["anna@a.test"]}])
def test_a_number_of_domains_that_contradicts_their_names_is_refused(named: dict[str, list[str]]) -> None:
    for domains in (7, 2560, "2"):
        with pytest.raises(ValidationError, match=r"domains: \d+, but 1 named by domain_names or recipients"):
            Params.model_validate({"domains": domains, **named})
    params = Params.model_validate({"domains": 1, **named})
    assert params == Params.model_validate(named)
    assert Params.model_validate(params.model_dump()) == params


@pytest.mark.parametrize("names", [[], 7, "x"])
def test_a_list_of_domains_that_is_none_is_blamed_itself(names: object) -> None:
    with pytest.raises(ValidationError) as refused:
        Params.model_validate({"domain_names": names})
    assert [error["loc"] for error in refused.value.errors()] == [("domain_names",)]


def test_local_parts_are_of_every_domain() -> None:
    params = Params(domain_names=["x.test"], recipients=["anna"])
    assert params.domains == 1
    assert SCENARIO.bed(params).domain_names == ["x.test"]
    assert Params(domains=7, recipients=["anna"]).domains == 7
    assert make_plan(SCENARIO.bed(Params(domains=2)), cpus=2).named("load").files[RECIPIENTS] == b"user\n"


@pytest.mark.parametrize(
    "recipient",
    [
        "a@10.in-addr.arpa",
        "a b@d0.test",
        "a>@d0.test",
        "@d0.test",
        "a@b@d0.test",
        "a\n",
        "a" * 65,
        "a" * 65 + "@d0.test",
    ],
)
def test_a_recipient_that_cannot_be_sent_to_is_refused(recipient: str) -> None:
    with pytest.raises(ValidationError):
        Params(recipients=[recipient])
    assert Params(recipients=["a" * 64, "a" * 64 + "@d0.test"]).domains == 1


def test_a_recipient_of_no_domain_and_a_domain_without_recipient_are_named() -> None:
    for names, recipients in ((["a.test"], ["x@b.test"]), (["a.test", "b.test"], ["x@b.test"])):
        with pytest.raises(InvalidInput, match="recipient"):
            make_plan(SCENARIO.bed(Params(domain_names=names, recipients=recipients)), cpus=2)
    with pytest.raises(InvalidInput, match="smtp-load"):
        SCENARIO.bed(Params(recipients=["x"], load="postal"))


def test_the_relay_has_an_address_for_each_service_of_a_port() -> None:
    master = "203.0.113.5:25 inet n - n - - smtpd\n203.0.113.6:smtp inet n - n - - smtpd\n"
    relay = make_plan(SCENARIO.bed(Params(relay_files={"/etc/postfix/master.cf": master})), cpus=2).named("relay")
    running = relay.files["/etc/postfix/master.cf"].decode().splitlines()[:2]
    assert [line.split(":")[0] for line in running] == [str(address) for address in relay.addresses]
    assert len(make_plan(SCENARIO.bed(Params()), cpus=2).named("relay").addresses) == 1


def test_what_the_bed_changed_in_the_users_own_files_is_in_the_verdict(template: RunDir, tmp_path: Path) -> None:
    def own(run: Path) -> None:
        files = {"/etc/postfix/main.cf": "maillog_file = /var/log/mail.log\nrelayhost = [smart.test]\n"}
        plan = make_plan(SCENARIO.bed(Params(domains=2, relay_files=files)), cpus=2)
        facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
        (run / "run.json").write_text(json.dumps(facts | {"plan": plan.to_dict()}), encoding="utf-8")

    changed, detour = _judged(template, tmp_path, own).marks
    assert "maillog_file: /var/log/mail.log -> /dev/stdout" in changed
    assert detour.endswith("can route mail elsewhere: relayhost = [smart.test]")
