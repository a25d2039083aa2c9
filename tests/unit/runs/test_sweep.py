"""One scenario for each of several values: worked out before the first run, told in one table."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from orchestrator import scenarios
from orchestrator.bed.model import Strict
from orchestrator.errors import EngineFailed, ExitCode, HostCannot, InvalidInput
from orchestrator.interrupts import Interrupted
from orchestrator.measurements.verdict import Outcome
from orchestrator.report import many
from orchestrator.runs import sweep
from orchestrator.runs.runner import Finished
from tests.unit import disk
from tests.unit.questions import Asker, Params, Question

ASKED = Question()
ANSWERS = {"bullseye": Outcome.CONFIRMED, "bookworm": Outcome.REFUTED, "trixie": Outcome.INCONCLUSIVE}


def run(runs: Path, *vary: str, ask: sweep.Execute | None = None) -> tuple[ExitCode, dict[str, Any]]:
    """Sweep over values; return how it ended and what was kept."""
    planned = sweep.combinations(ASKED, Params(), vary)
    summary = sweep.Summary(runs, "sweep", ASKED, command=["testbed"], varied=list(planned[0][0]))
    answers = ask or Asker(runs, lambda params: ANSWERS[params.dns_release], lines=3.0)
    return sweep.sweep(planned, answers, summary), json.loads(summary.path.read_text())


def test_a_matrix_is_every_combination_with_the_types_of_the_parameters() -> None:
    planned = sweep.combinations(
        ASKED, Params(share=0.1), ["dns.release=bullseye,trixie", "addresses=5, 7", "full=yes"]
    )
    assert [tuple(values.values()) for values, _ in planned] == [
        ("bullseye", 5, True),
        ("bullseye", 7, True),
        ("trixie", 5, True),
        ("trixie", 7, True),
    ]
    assert planned[1][1] == Params(share=0.1, dns_release="bullseye", addresses=7, full=True)


def test_a_parameter_can_be_unset() -> None:
    (_, more), (_, unset) = sweep.combinations(ASKED, Params(), ["fix=more,unset"])
    assert (more, unset) == (Params(fix="more"), Params(fix=None))


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        (["colour=red"], "choose one of addresses"),
        (["dns.release=potato"], "dns_release: Input should be 'bullseye'"),
        (["addresses=0"], "greater than or equal to 1"),
        (["addresses=5,"], "none twice"),
        (["addresses=5,5"], "none twice"),
        (["addresses"], "none twice"),
        (["addresses=1", "addresses=2"], "none twice"),
        ([f"addresses={','.join(map(str, range(1, 66)))}"], "65 combinations"),
    ],
)
def test_what_cannot_be_varied_is_refused_before_the_first_run(vary: list[str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        sweep.combinations(ASKED, Params(), vary)


def test_which_of_them_shows_it_is_the_answer(tmp_path: Path) -> None:
    code, facts = run(tmp_path, "dns.release=bullseye,bookworm")
    assert (code, facts["format"]) == (ExitCode.OK, 1)
    assert [(r["values"], r["outcome"]) for r in facts["runs"]] == [
        ({"dns_release": "bullseye"}, "CONFIRMED"),
        ({"dns_release": "bookworm"}, "REFUTED"),
    ]
    page = many.sweep(facts)
    assert page.word == "ANSWERED"
    assert page.tables[0].rows[0] == ("bullseye", "CONFIRMED", "3.00", "time-1")
    assert page.quotes == (("dns_release bullseye", "it \x1b[31mbroke"),)
    assert "\x1b[31m" not in many.write(page, tmp_path).read_text().replace("it \x1b[31mbroke", "")


def test_one_that_is_inconclusive_makes_the_sweep_so(tmp_path: Path) -> None:
    code, facts = run(tmp_path, "dns.release=bullseye,trixie")
    assert code is ExitCode.INCONCLUSIVE
    page = many.sweep(facts)
    assert page.word == "INCONCLUSIVE"
    assert [row[1:3] for row in page.tables[0].rows] == [("CONFIRMED", "3.00"), ("INCONCLUSIVE", "(3.00)")]
    assert page.tables[1].rows == (("time-2", "So."),)


def failing(runs: Path, *releases: str) -> sweep.Execute:
    """Answer, but not for these releases."""
    answers = Asker(runs, lambda params: ANSWERS[params.dns_release])

    def ask(params: Strict) -> Finished:
        if params.model_dump()["dns_release"] in releases:
            raise HostCannot("open files", "too few", "raise the limit")
        return answers(params)

    return ask


def test_a_run_that_the_host_cannot_give_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    code, facts = run(tmp_path, "dns.release=bullseye,bookworm", ask=failing(tmp_path, "bullseye"))
    assert code is ExitCode.INCONCLUSIVE
    assert [row["outcome"] for row in facts["runs"]] == [None, "REFUTED"]
    assert "raise the limit" in facts["runs"][0]["error"]
    assert many.sweep(facts).tables[0].rows[0] == ("bullseye", "NO VERDICT", "none")


def test_when_no_run_can_be_made_the_reason_is_the_end(tmp_path: Path) -> None:
    with pytest.raises(HostCannot) as caught:
        run(tmp_path, "dns.release=bullseye,bookworm", ask=failing(tmp_path, "bullseye", "bookworm"))
    assert "sweep.json" in caught.value.__notes__[0]


def test_a_broken_engine_is_a_row_like_any_other(tmp_path: Path) -> None:
    answers = iter([EngineFailed("a", "b", "c"), None])

    def ask(params: Strict) -> Finished:
        if error := next(answers):
            raise error
        return Asker(tmp_path, lambda _: Outcome.REFUTED)(params)

    assert run(tmp_path, "addresses=1,2", ask=ask)[0] is ExitCode.INCONCLUSIVE


@pytest.mark.parametrize(
    "error", [Interrupted(signal.SIGINT), ZeroDivisionError("a bug"), HostCannot("room", "none", "free some")]
)
def test_a_full_disk_hides_no_first_error_and_names_the_runs_until_then(tmp_path: Path, error: BaseException) -> None:
    def ask(params: Strict) -> Finished:
        if params.model_dump()["addresses"] == 2:
            disk.fill()
            raise error
        return answers(params)

    answers = Asker(tmp_path, lambda _: Outcome.REFUTED)
    with disk.full(1 << 30), pytest.raises((type(error), OSError)) as caught:
        run(tmp_path, "addresses=1,2", ask=ask)
    notes = "\n".join(caught.value.__notes__)
    assert caught.value is error or isinstance(error, HostCannot), "the row of a refusal could not be kept"
    assert "sweep.json could not be updated: File too large" in notes
    assert "time-asked-1: REFUTED" in notes
    (kept,) = tmp_path.glob("*/sweep.json")
    assert [row["outcome"] for row in json.loads(kept.read_text())["runs"]] == ["REFUTED"], "whole, as it was before"


def test_the_command_of_each_run_repeats_it() -> None:
    assert sweep.command_of(ASKED, Params(addresses=7, full=True, dns_release="trixie")) == [
        *("testbed", "run", "asked"),
        *("--addresses=7", "--dns-release=trixie", "--full"),
    ]
    assert sweep.command_of(ASKED, Params(fix=None))[3:] == ["--vary", "fix=unset"]


@pytest.mark.parametrize("name", scenarios.known())
def test_every_parameter_of_a_scenario_is_an_option_of_run(name: str) -> None:
    own = {"runs", "parent", "output", "format", "vary", "help"}
    assert not own & scenarios.scenario(name).params.model_fields.keys()


def test_the_command_of_a_run_says_how_much_came_from_disk() -> None:
    relay = scenarios.scenario("relay-throughput")
    params = relay.params.model_validate({"relay_files": {"/etc/a": "x" * 99}, "recipients": ["a", "b"]})
    assert sweep.command_of(relay, params)[3:] == ["--recipients=(2 of recipients)", "--relay-files=(1 of relay-files)"]
