"""The neighbour table that overflows: how a run directory is judged."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.contract import LoadReport, SinkReport
from orchestrator.errors import HostCannot
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome, Verdict
from orchestrator.plan import make_plan
from orchestrator.scenarios.neighbour_overflow import SCENARIO
from orchestrator.scenarios.neighbour_overflow.fixes import thresholds
from orchestrator.scenarios.neighbour_overflow.params import FIXED, REPORTED, Params
from tests.unit.factory import histogram

BEGAN = 1_795_409_802.0
PASS_S = 30.0
LINE = {"t": BEGAN + 1, "stamp": "16234.673643", "text": "neighbour: arp_cache: neighbor table overflow!"}
TIMED_OUT = "connect to mx.d1.test[198.18.80.1]:25: Connection timed out"
NO_NAME = "Host or domain name not found. Name service error for name=d1.test type=MX: Host not found, try again"
"""What Postfix 3.7 says."""


def seen(
    *, failed: int = 0, silent: int | None = None, deferred: tuple[str, ...] = (), fulls: int = 0, taken: int = 100
) -> dict[str, Any]:
    """Describe one pass: look-ups and connections that failed, why mail was deferred, what the table said."""
    silent = failed if silent is None else silent
    return {"failed": failed, "silent": silent, "deferred": deferred, "fulls": fulls, "taken": taken}


SHOWN = seen(failed=1537, deferred=(TIMED_OUT, NO_NAME, TIMED_OUT), fulls=25_281)
GONE = seen()


def write(rundir: RunDir, name: str, number: int, told: dict[str, Any], *, kernel: bool = True) -> None:
    at = BEGAN + number * PASS_S
    tables = [
        {"t": at + n, "entries": 1025 if told["fulls"] else 30, "fulls": 7 + n * told["fulls"] // 4, "limit": 1024}
        for n in range(5)
    ]
    report = {"asked": 2560, "reached": 2560 - told["failed"], "errors": {}, "dropped": 3 * told["failed"]}
    told_to = {"ENOBUFS": told["failed"]} if told["failed"] else {}
    rundir.save_result(f"{name}-look-up", {"report": report | {"told": told_to}, "tables": tables[:2]})
    report = report | {"reached": 2560 - told["silent"], "told": {}, "dropped": 0}
    rundir.save_result(f"{name}-connect", {"report": report, "tables": tables[2:4]})
    rundir.save_result(f"{name}-mail", {"report": None, "tables": tables[4:]})
    lines = [LINE, LINE] if told["fulls"] else []
    rundir.save_result(f"{name}-kernel", {"lines": lines if kernel else None})
    empty = histogram([])
    load = LoadReport(
        run="0" * 8, started=at + 5, ended=at + 6, offered=100, accepted=told["taken"], failed={}, unresolved=0,
        connections=1, connect_failed={}, late=0, cpu_s=0.1, stalled_s=0.0, response=empty, service=empty,
        connect=empty, accepted_set="eJwDAAAAAAE=", unresolved_set="eJwDAAAAAAE=",
    )  # fmt: skip
    rundir.save_result(f"{name}-load", load.to_dict())
    sink = SinkReport(
        run="0" * 8, delivered=told["taken"], duplicated=0, corrupted=0, misrouted=0, foreign=0, bytes=0, connections=1,
        domains=100, first=at, last=at, cpu_s=0.1, memory_b=0, transit=empty, age=empty, delivered_set="eJwDAAAAAAE=",
    )  # fmt: skip
    rundir.save_result(f"{name}-sink", sink.to_dict())


def judged(tmp_path: Path, *passes: dict[str, Any], kernel: bool = True, **params: Any) -> Verdict:
    """Judge a run of these passes."""
    rundir = RunDir.create(tmp_path, SCENARIO.name)
    names = (REPORTED, FIXED)[: len(passes)]
    starts = [BEGAN + n * PASS_S for n in range(len(passes))]
    phases = [{"name": f"{name}: mail", "start": t + 5, "end": t + 20} for name, t in zip(names, starts, strict=True)]
    if len(passes) > 1:
        phases.append({"name": f"fix {params['fix']}", "start": starts[1] - 1, "end": starts[1]})
    plan = {"nodes": [{"name": "relay", "role": "relay"}]}
    rundir.save({"scenario": SCENARIO.name, "params": Params(**params).model_dump(), "plan": plan, "phases": phases})
    with rundir.write_log("relay") as log:
        for number, (name, told) in enumerate(zip(names, passes, strict=True)):
            write(rundir, name, number, told, kernel=kernel)
            for n, why in enumerate(told["deferred"]):
                line = (
                    f"relay postfix/smtp[30]: AE79{number}{n}: to=<user@d1.test>, relay=none, delay=4, delays=0/0/4/0"
                )
                for attempt in range(2):  # a message that is deferred twice counts once
                    t = starts[number] + 6 + attempt
                    log.write(f"{t} Nov 23 05:06:18 {line}, dsn=4.4.1, status=deferred ({why})\n")
    measured = Measurements.read(rundir)
    return SCENARIO.judge(measured, Params(**measured.params))


def test_the_symptom_is_confirmed_counted_and_quoted(tmp_path: Path) -> None:
    verdict = judged(tmp_path, SHOWN)
    assert verdict.outcome is Outcome.CONFIRMED
    assert "2,560 addresses" in verdict.claim
    assert "1,024 entries" in verdict.claim
    assert "1,537 of 2,560 look-ups failed, 1,537 of 2,560 connections failed, 3 of 100 messages" in verdict.reason
    assert all(evidence.holds for evidence in verdict.evidence)
    assert verdict.quotes[0].text.endswith("neighbour: arp_cache: neighbor table overflow!")
    assert [TIMED_OUT in verdict.quotes[1].text, NO_NAME in verdict.quotes[2].text] == [True, True]
    assert len(verdict.quotes) == 3
    assert verdict.figures["table_fulls"] == 25_281
    assert verdict.figures["predicted_threshold_addresses"] == 1019
    assert ("sendto(2) with IP_RECVERR", "ENOBUFS 1,537 times") in verdict.tables[1].rows
    assert ("sendto(2)", "no error") in verdict.tables[1].rows


def test_deferred_mail_alone_is_part_of_the_claim_that_it_confirms(tmp_path: Path) -> None:
    verdict = judged(tmp_path, seen(deferred=(NO_NAME,), fulls=12))
    assert verdict.outcome is Outcome.CONFIRMED
    assert "look-ups, connections or deliveries fail" in verdict.claim


def test_a_table_with_room_refutes_it(tmp_path: Path) -> None:
    verdict = judged(tmp_path, GONE)
    assert verdict.outcome is Outcome.REFUTED
    assert not verdict.quotes


@pytest.mark.parametrize(
    ("fixed", "outcome"),
    [
        (GONE, Outcome.CONFIRMED),
        (SHOWN, Outcome.REFUTED),
        (seen(failed=1), Outcome.REFUTED),
        (seen(silent=1), Outcome.REFUTED),
        (seen(deferred=(TIMED_OUT,)), Outcome.REFUTED),
        (seen(taken=99), Outcome.REFUTED),
    ],
)
def test_a_fix_is_proven_when_nothing_fails_with_it(tmp_path: Path, fixed: dict[str, Any], outcome: Outcome) -> None:
    verdict = judged(tmp_path, SHOWN, fixed, fix="route")
    assert verdict.outcome is outcome
    assert verdict.tables[0].rows[0][0] == "look-ups failed"
    assert verdict.tables[0].columns == ("", "as reported", "with the fix route")


def test_a_fix_of_what_was_not_shown_proves_nothing(tmp_path: Path) -> None:
    assert judged(tmp_path, GONE, GONE, fix="route").outcome is Outcome.REFUTED


@pytest.mark.parametrize("passes", [[], [seen(failed=3)], [seen(taken=0)]])
def test_what_was_not_measured_or_has_another_cause_is_inconclusive(
    tmp_path: Path, passes: list[dict[str, Any]]
) -> None:
    assert judged(tmp_path, *passes).outcome is Outcome.INCONCLUSIVE


def test_a_fix_that_was_not_tried_to_its_end_is_inconclusive(tmp_path: Path) -> None:
    assert judged(tmp_path, SHOWN, fix="permanent").outcome is Outcome.INCONCLUSIVE


def test_a_kernel_whose_log_is_closed_is_no_obstacle_and_is_said(tmp_path: Path) -> None:
    verdict = judged(tmp_path, SHOWN, kernel=False)
    assert verdict.outcome is Outcome.CONFIRMED
    assert [e.found for e in verdict.evidence if e.holds is None] == ["not measured"]


def test_the_bed_is_on_the_link_and_says_what_it_needs() -> None:
    plan = make_plan(SCENARIO.bed(Params()), cpus=2)
    assert len(plan.deliveries) == 2560
    assert len(plan.named("dns").addresses) == 2561
    assert plan.needs.neighbour_entries == 2 * 2560 + 4 * 3


def test_the_host_is_not_changed_without_consent() -> None:
    with pytest.raises(HostCannot, match="--allow-host-changes"):
        SCENARIO.bed(Params(fix="gc-thresh"))
    assert SCENARIO.bed(Params(fix="gc-thresh", allow_host_changes=True)) == SCENARIO.bed(Params())


@pytest.mark.parametrize(("addresses", "limit"), [(1, 4096), (1024, 4096), (1025, 8192), (2560, 16_384)])
def test_the_larger_table_has_room_for_four_times_the_addresses(addresses: int, limit: int) -> None:
    settings = [int(value) for value in thresholds(addresses).values()]
    assert settings == [limit // 4, limit // 2, limit]
