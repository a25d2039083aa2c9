"""Sweep: one run of a scenario for each value of ``--vary dns.release=bullseye,bookworm``.

The summary ``runs/<time>-sweep-<scenario>/sweep.json`` is saved after each run::

    format, scenario, question, command, status
    varied       names of the parameters, in the order given
    runs         for each run: values {parameter -> value}, and the facts of ``summary_row``
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import strict_json
from orchestrator.bed.model import Strict, checked
from orchestrator.errors import ExitCode, InvalidInput, Problem
from orchestrator.interrupts import Interrupted, shielded
from orchestrator.measurements.files import make_directory, replace
from orchestrator.measurements.verdict import Outcome
from orchestrator.runs import runner
from orchestrator.runs.runner import Finished
from orchestrator.scenarios import Scenario

FORMAT = 1
"""Format of sweep.json, bisect.json and capsule.json."""
MAX_RUNS = 64
"""Maximum number of runs of one sweep: a typing mistake must not take a day."""
UNSET = "unset"
"""Word for a parameter's value None in ``--vary``."""

Execute = Callable[[Strict], Finished]
"""Executes one run with these parameters."""


class Summary:
    """Results of many runs in a new directory below ``runs``, saved after each run.

    Raises:
        InvalidInput: the directory cannot be made.
    """

    def __init__(self, runs: Path, kind: str, scenario: Scenario[Any], **facts: Any) -> None:
        self.path = make_directory(runs, f"{kind}-{scenario.name}") / f"{kind}.json"
        self.runs: list[dict[str, Any]] = []
        self.facts = {
            "format": FORMAT,
            "scenario": scenario.name,
            "question": scenario.question,
            "status": "running",
            **facts,
            "runs": self.runs,
        }
        self.save()

    def save(self, **facts: Any) -> None:
        """Add facts and write the file."""
        self.facts.update(facts)
        replace(self.path, strict_json.dumps(self.facts, indent=1, default=str) + "\n")

    def broken(self, error: BaseException) -> None:
        """Save the error in the summary; add the summary's path, or the runs so far if the save fails, to the error."""
        with shielded():
            try:
                self.save(status="interrupted" if isinstance(error, Interrupted) else "failed", error=str(error))
            except OSError as full:
                error.add_note(f"{self.path} could not be updated: {full.strerror}; the runs so far:")
                for run in self.runs:
                    error.add_note(f"        {run['run']}: {run['outcome'] or run['error']}")
            else:
                error.add_note(f"kept:   {self.path}, with {len(self.runs)} runs so far")


def summary_row(finished: Finished) -> dict[str, Any]:
    """Return a run's entry in a summary.

    ``error`` is None if the run completed; ``reason`` is None unless the outcome is INCONCLUSIVE.
    """
    return {
        "run": str(finished.rundir.path),
        "outcome": str(finished.verdict.outcome),
        "claim": finished.verdict.claim,
        "reason": finished.verdict.reason if finished.verdict.outcome is Outcome.INCONCLUSIVE else None,
        "figures": finished.verdict.figures,
        "quotes": [quote.text for quote in finished.verdict.quotes],
        "error": str(finished.broken) if finished.broken else None,
    }


def parameter(scenario: Scenario[Any], word: str) -> str:
    """Return the field's name for a parameter as typed: ``dns_release`` for ``dns.release`` or ``dns-release``.

    Raises:
        InvalidInput: the scenario has no such parameter.
    """
    name = word.strip().replace(".", "_").replace("-", "_")
    if name not in scenario.params.model_fields:
        choice = f"choose one of {', '.join(scenario.params.model_fields)}"
        raise InvalidInput(f"a parameter of {scenario.name}", repr(word), choice)
    return name


def varied(scenario: Scenario[Any], base: Strict, values: Mapping[str, Any]) -> Strict:
    """Return the parameters of a run that differs from ``base`` in these values.

    Raises:
        InvalidInput: a value is invalid, or its bed cannot be built.
    """
    needed, do = f"valid values of {', '.join(values)}", f"see `testbed run {scenario.name} --help`"
    params = checked(scenario.params, {**base.model_dump(), **values}, needed, do)
    runner.prepare(scenario, params)
    return params


def combinations(scenario: Scenario[Any], base: Strict, vary: Sequence[str]) -> list[tuple[dict[str, Any], Strict]]:
    """Return all runs of a sweep: the varied values and all parameters of each.

    Each of ``vary`` is ``parameter=value,value,...``; several of these form a matrix, and the
    last parameter changes fastest.

    Raises:
        InvalidInput: a value is invalid, its bed cannot be built, or there are too many runs.
    """
    axes: dict[str, list[str]] = {}
    for text in vary:
        word, given, values = text.partition("=")
        name, listed = parameter(scenario, word), [value.strip() for value in values.split(",")]
        if not given or not all(listed) or name in axes or len(set(listed)) < len(listed):
            raise InvalidInput(
                "--vary PARAMETER=VALUE,VALUE, none twice", repr(text), "see `testbed run --help` for examples"
            )
        axes[name] = listed
    number = math.prod(map(len, axes.values()))
    if number > MAX_RUNS:
        raise InvalidInput(f"at most {MAX_RUNS} runs", f"{number:,} combinations", "vary fewer values at a time")
    planned = []
    for words in itertools.product(*axes.values()):
        chosen = {name: None if word == UNSET else word for name, word in zip(axes, words, strict=True)}
        params = varied(scenario, base, chosen)
        planned.append(({name: getattr(params, name) for name in axes}, params))
    return planned


def sweep(planned: Sequence[tuple[Mapping[str, Any], Strict]], execute: Execute, summary: Summary) -> ExitCode:
    """Execute one run for each combination; a failed run is a row of the summary, too, and does not end the sweep.

    Returns:
        OK if every run was confirmed or refuted, else INCONCLUSIVE.

    Raises:
        Problem: no run completed; this is the last run's error.
        Interrupted: a signal came; the summary holds the runs so far.
    """
    try:
        for number, (values, params) in enumerate(planned, 1):
            row: dict[str, Any] = {"values": dict(values)}
            try:
                row |= summary_row(execute(params))
            except Problem as problem:
                row |= dict.fromkeys(("run", "outcome", "claim", "reason"))
                row |= {"figures": {}, "quotes": [], "error": str(problem)}
                if number == len(planned) and not any(earlier["run"] for earlier in summary.runs):
                    raise
            summary.runs.append(row)
            summary.save()
        summary.save(status="finished")
    except BaseException as error:
        summary.broken(error)
        raise
    answered = all(row["outcome"] in {Outcome.CONFIRMED, Outcome.REFUTED} for row in summary.runs)
    return ExitCode.OK if answered else ExitCode.INCONCLUSIVE


def command_of(scenario: Scenario[Any], params: Strict) -> list[str]:
    """Return the command that repeats a run: every parameter that differs from its default, as an option."""
    options = []
    for name, value in params.model_dump().items():
        if value == scenario.params.model_fields[name].default:
            continue
        option = name.replace("_", "-")
        if isinstance(value, dict | list):  # read from a file or folder, whose name is unknown
            value = f"({len(value)} of {option})"  # noqa: PLW2901
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:  # no option of the scenario can set None, but --vary can
            options += [f"--{option}={value}"] if value is not None else ["--vary", f"{option}={UNSET}"]
    return ["testbed", "run", scenario.name, *options]
