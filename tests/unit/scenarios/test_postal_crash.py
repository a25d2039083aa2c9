"""The verdict on postal and a server that breaks sessions off."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.contract import LoadReport, PrintedLine, SinkReport
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome, Verdict
from orchestrator.scenarios.postal_crash import MESSAGE, OURS, POSTAL, SCENARIO, SIGSEGV, Params
from tests.unit.factory import bitmap, histogram


def judged(
    folder: Path, *, status: int = SIGSEGV, said: int = 236, failed: int = 40, without: str = "", **params: Any
) -> Verdict:
    """Judge a run in which postal ended so, and ours counted so many errors of 100 messages."""
    rundir = RunDir.create(folder, "postal-crash")
    rundir.save({"scenario": "postal-crash", "params": Params(**params).model_dump()})
    postal = LoadReport(
        run="0badcafe", generator="postal", started=10.0, ended=10.05, exit_status=status, cut_off=status == 124,
        cpu_s=0.01, printed=[PrintedLine(t=10.0, text=MESSAGE, count=said)] if said else [], arrived=0,
    )  # fmt: skip
    load = LoadReport(
        run="00c0ffee", started=20.0, ended=28.0, offered=100, accepted=60, failed={"ConnectionResetError": failed},
        unresolved=0, connections=80, late=0, cpu_s=0.1, stalled_s=0.0, response=histogram([]), service=histogram([]),
        connect=histogram([]), accepted_set=bitmap(range(60)), unresolved_set=bitmap([]),
    )  # fmt: skip
    sink = SinkReport(
        run="00c0ffee", delivered=60, duplicated=0, corrupted=0, misrouted=0, foreign=0, bytes=1, connections=80,
        broken=failed, domains=16, first=20.0, last=28.0, cpu_s=0.1, memory_b=1, transit=histogram([]),
        age=histogram([]), delivered_set=bitmap(range(60)),
    )  # fmt: skip
    results = {f"{POSTAL}-load": postal.to_dict(), f"{OURS}-load": load.to_dict(), f"{OURS}-sink": sink.to_dict()}
    for name, result in results.items():
        if name != without:
            rundir.save_result(name, result)
    measured = Measurements.read(rundir)
    return SCENARIO.judge(measured, Params(**measured.params))


def test_a_postal_that_dies_and_an_account_of_ours_is_confirmed(tmp_path: Path) -> None:
    verdict = judged(tmp_path)
    assert verdict.outcome is Outcome.CONFIRMED
    assert [(quote.source, quote.text) for quote in verdict.quotes] == [("postal, 236 times", MESSAGE)]
    assert verdict.figures["postal_until_death_ms"] == pytest.approx(50)
    assert [row[0] for row in verdict.tables[0].rows] == [POSTAL, OURS]


@pytest.mark.parametrize(("status", "said"), [(124, 0), (1, 236), (SIGSEGV, 0)])
def test_a_postal_that_lives_or_dies_of_something_else_refutes(tmp_path: Path, status: int, said: int) -> None:
    assert judged(tmp_path, status=status, said=said).outcome is Outcome.REFUTED


def test_a_message_of_ours_without_an_outcome_refutes(tmp_path: Path) -> None:
    verdict = judged(tmp_path, failed=39)
    assert verdict.outcome is Outcome.REFUTED
    assert "1 of 100" in verdict.reason


@pytest.mark.parametrize("missing", [f"{POSTAL}-load", f"{OURS}-load", f"{OURS}-sink"])
def test_what_was_not_measured_is_inconclusive(tmp_path: Path, missing: str) -> None:
    assert judged(tmp_path, without=missing).outcome is Outcome.INCONCLUSIVE


def test_a_fault_that_broke_no_session_off_refutes_nothing(tmp_path: Path) -> None:
    verdict = judged(tmp_path, status=124, said=0, failed=0, every=1_000_000)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.headline == "The sink broke no session off: choose a smaller --every, or more --seconds."


def test_a_postal_that_lives_where_nothing_breaks_off_refutes(tmp_path: Path) -> None:
    assert judged(tmp_path, status=124, said=0, failed=0, fault="none").outcome is Outcome.REFUTED
