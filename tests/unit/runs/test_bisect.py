"""The search for a threshold: on answers that are known, sharp, blurred or missing."""

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.errors import EngineFailed, ExitCode, InvalidInput
from orchestrator.interrupts import Interrupted
from orchestrator.measurements.verdict import Outcome
from orchestrator.report import many
from orchestrator.runs import bisect, sweep
from orchestrator.runs.sweep import Summary
from tests.unit import disk
from tests.unit.questions import Asker, Params, Question

SEARCH = Question()


def search(
    runs: Path, answer: Callable[[Any], Outcome], over: str = "addresses=10..400", **options: Any
) -> tuple[ExitCode, dict[str, Any], Asker]:
    """Search; return how it ended, what was kept, and whom was asked."""
    figures = {"predicted_threshold_addresses": options.pop("predicted", None), "open_files": 1.0}
    ask = Asker(runs, answer, **figures)
    summary = Summary(runs, "bisect", SEARCH, command=["testbed", "bisect", "asked"])
    code = bisect.bisect(SEARCH, Params(), bisect.parse(SEARCH, over), ask, summary, **options)
    return code, json.loads(summary.path.read_text()), ask


def from_on(threshold: int) -> Callable[[Any], Outcome]:
    """Answer as a bug does that appears from a number on."""
    return lambda params: Outcome.CONFIRMED if params.addresses >= threshold else Outcome.REFUTED


@pytest.mark.parametrize("threshold", [11, 12, 114, 399, 400])
def test_every_threshold_is_found(tmp_path: Path, threshold: int) -> None:
    code, facts, ask = search(tmp_path, from_on(threshold))
    assert code is ExitCode.OK
    assert (facts["status"], facts["threshold"], facts["absent"]) == ("found", threshold, threshold - 1)
    assert len(ask.asked) <= 13
    assert sum(run["value"] == threshold for run in facts["runs"]) == 2
    assert sum(run["value"] == threshold - 1 for run in facts["runs"]) == 2


def test_the_arithmetic_of_the_scenario_is_held_against_what_is_found(tmp_path: Path) -> None:
    _, facts, _ = search(tmp_path, from_on(114), predicted=116.0)
    assert facts["predicted"] == 116
    assert "scenario predicts 116, which is 1.8% apart" in facts["says"]


@pytest.mark.parametrize(("threshold", "status"), [(5, "always"), (450, "never")])
def test_a_threshold_outside_the_range_is_said_to_be(tmp_path: Path, threshold: int, status: str) -> None:
    code, facts, ask = search(tmp_path, from_on(threshold))
    assert code is ExitCode.UNEXPECTED
    assert (facts["status"], facts["threshold"]) == (status, None)
    assert len(ask.asked) <= 2


def test_a_tolerance_saves_runs(tmp_path: Path) -> None:
    _, exact, _ = search(tmp_path, from_on(114))
    _, facts, _ = search(tmp_path, from_on(114), tolerance=50)
    assert facts["absent"] < 114 <= facts["threshold"] <= facts["absent"] + 50
    assert len(facts["runs"]) < len(exact["runs"]) - 3


def flickering(low: int, high: int) -> Callable[[Any], Outcome]:
    """Answer by turns between two numbers; sharply outside."""
    seen: dict[int, int] = {}

    def answer(params: Any) -> Outcome:
        seen[params.addresses] = seen.get(params.addresses, 0) + 1
        there = params.addresses >= high or (params.addresses > low and seen[params.addresses] % 2 == 1)
        return Outcome.CONFIRMED if there else Outcome.REFUTED

    return answer


def test_a_blurred_threshold_is_not_called_sharp(tmp_path: Path) -> None:
    code, facts, _ = search(tmp_path, flickering(100, 110))
    assert code is ExitCode.INCONCLUSIVE
    assert facts["status"] == "blurred"
    assert facts["absent"] <= 100
    assert facts["threshold"] >= 110
    assert "it is intermittent" in facts["says"]


def test_a_blurred_threshold_within_the_tolerance_is_found(tmp_path: Path) -> None:
    code, facts, _ = search(tmp_path, flickering(100, 103), tolerance=10)
    assert (code, facts["status"]) == (ExitCode.OK, "found")


def test_what_is_there_sometimes_at_an_end_of_the_range_is_inconclusive(tmp_path: Path) -> None:
    code, facts, _ = search(tmp_path, flickering(100, 9000))
    assert (code, facts["status"]) == (ExitCode.INCONCLUSIVE, "inconclusive")
    assert "addresses 400, an end of the range" in facts["says"]


def test_an_inconclusive_run_is_made_once_more(tmp_path: Path) -> None:
    left = [Outcome.INCONCLUSIVE]
    code, facts, _ = search(tmp_path, lambda params: left.pop() if left else from_on(50)(params))
    assert (code, facts["threshold"]) == (ExitCode.OK, 50)
    assert [run["outcome"] for run in facts["runs"]][:2] == ["INCONCLUSIVE", "REFUTED"]
    assert many.search(facts).tables[1].rows == (("time-1", "So."),)


def test_a_value_that_stays_inconclusive_ends_the_search(tmp_path: Path) -> None:
    code, facts, ask = search(tmp_path, lambda _: Outcome.INCONCLUSIVE)
    assert (code, facts["status"], len(ask.asked)) == (ExitCode.INCONCLUSIVE, "inconclusive", 2)


@pytest.mark.parametrize(
    ("error", "status"), [(EngineFailed("a", "b", "c"), "failed"), (Interrupted(signal.SIGINT), "interrupted")]
)
def test_what_was_learnt_is_kept_when_a_search_breaks(tmp_path: Path, error: BaseException, status: str) -> None:
    def answer(params: Any) -> Outcome:
        if params.addresses == 205:
            raise error
        return from_on(50)(params)

    with pytest.raises(type(error)) as caught:
        search(tmp_path, answer)
    (kept,) = tmp_path.glob("*/bisect.json")
    facts = json.loads(kept.read_text())
    assert (facts["status"], [run["value"] for run in facts["runs"]]) == (status, [10, 400])
    assert str(kept) in caught.value.__notes__[0]


def test_a_full_disk_hides_no_first_error(tmp_path: Path) -> None:
    error = Interrupted(signal.SIGTERM)

    def answer(params: Any) -> Outcome:
        if params.addresses == 205:
            disk.fill()
            raise error
        return from_on(50)(params)

    with disk.full(1 << 30), pytest.raises(Interrupted) as caught:
        search(tmp_path, answer)
    assert caught.value is error
    assert "could not be updated: File too large" in caught.value.__notes__[0]
    assert "time-asked-1: REFUTED" in caught.value.__notes__[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("addresses", "two whole numbers"),
        ("addresses=10", "two whole numbers"),
        ("addresses=20..10", "two whole numbers"),
        ("addresses=a..b", "two whole numbers"),
        ("share=1..2", "a whole number"),
        ("full=0..1", "a whole number"),
        ("colour=1..2", "choose one of addresses"),
    ],
)
def test_a_range_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        bisect.parse(SEARCH, text)


def test_an_end_that_is_not_possible_is_refused() -> None:
    with pytest.raises(InvalidInput, match="less than or equal to 5000"):
        sweep.varied(SEARCH, Params(), {"addresses": 9000})


def test_a_search_is_shown_with_nothing_that_moves_a_cursor(tmp_path: Path) -> None:
    _, facts, _ = search(tmp_path, from_on(114), predicted=116.0)
    page = many.search(facts)
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    many.show(page, [("kept", tmp_path)], console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.strip().startswith("FOUND  It appears from addresses 114 on")
    assert "\x1b" not in shown
    assert "it \\x1b[31mbroke" in shown
    written = many.write(page, tmp_path).read_text()
    assert "114" in written
    assert "<script" not in written
