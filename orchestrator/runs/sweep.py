"""Sweep: one run of a scenario for each value: ``--vary dns.release=bullseye,bookworm``.

A summary is kept in a directory of its own, ``runs/<time>-sweep-<scenario>/sweep.json``, saved after each run::

    format, scenario, question, command, status
    varied       names of the parameters, in the order given
    runs         values {parameter -> value}, and what ``ask`` returns of each run
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import strict_json
from orchestrator.bed.model import Strict, checked
from orchestrator.errors import ExitCode, InvalidInput, Problem
from orchestrator.interrupts import Interrupted, shielded
from orchestrator.measurements.rundir import make_directory, replace
from orchestrator.runs import runner
from orchestrator.runs.runner import Finished
from orchestrator.scenarios import Outcome, Scenario

FORMAT = 1
"""Of sweep.json, bisect.json and capsule.json."""
MAX_RUNS = 64
"""Of one sweep: a typing mistake must not take a day."""
UNSET = "unset"
"""How the value is written that a parameter has when it is not set."""

Ask = Callable[[Strict], Finished]
"""Asks the scenario with these parameters: one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What many runs have shown, saved as it grows."""

    path: Path
    facts: dict[str, Any]

    @classmethod
    def create(cls, runs: Path, kind: str, asked: Scenario[Any], **facts: Any) -> "Summary":
        """Begin a summary in a directory of its own.

        Raises:
            InvalidInput: it cannot be made.
        """
        folder = make_directory(runs, f"{kind}-{asked.name}")
        made = cls(
            path=folder / f"{kind}.json",
            facts={
                "format": FORMAT,
                "scenario": asked.name,
                "question": asked.question,
                "status": "running",
                **facts,
                "runs": [],
            },
        )
        made.save()
        return made

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Every run so far."""
        found: list[dict[str, Any]] = self.facts["runs"]
        return found

    def save(self, **facts: Any) -> None:
        """Add facts and write the file."""
        self.facts.update(facts)
        replace(self.path, strict_json.dumps(self.facts, indent=1, default=str) + "\n")

    def broken(self, error: BaseException) -> None:
        """Say in the file, and in the error, what ended the work and where the rest is; a full disk is a note."""
        with shielded():
            try:
                self.save(status="interrupted" if isinstance(error, Interrupted) else "failed", error=str(error))
            except OSError as full:
                error.add_note(f"{self.path} could not be brought up to date: {full.strerror}; the runs until then:")
                for run in self.runs:
                    error.add_note(f"        {run['run']}: {run['outcome'] or run['error']}")
            else:
                error.add_note(f"kept:   {self.path}, with {len(self.runs)} runs until then")


def told(finished: Finished) -> dict[str, Any]:
    """Return what a summary says of one run: run, outcome, claim, figures, quotes, error (``None``: it ended well).

    ``reason`` says why there is no answer; ``None`` where there is one.
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


def parameter(asked: Scenario[Any], word: str) -> str:
    """Return the parameter that a word names: ``dns.release`` and ``dns-release`` are ``dns_release``.

    Raises:
        InvalidInput: the scenario has none of this name.
    """
    name = word.strip().replace(".", "_").replace("-", "_")
    if name not in asked.params.model_fields:
        choice = f"choose one of {', '.join(asked.params.model_fields)}"
        raise InvalidInput(f"a parameter of {asked.name}", repr(word), choice)
    return name


def combinations(asked: Scenario[Any], base: Strict, vary: Sequence[str]) -> list[tuple[dict[str, Any], Strict]]:
    """Work out every run of a sweep before the first one: the values that are varied, and all parameters.

    Each of ``vary`` is ``parameter=value,value,...``; several make a matrix, in which the last one changes fastest.

    Raises:
        InvalidInput: a value is not possible, its bed cannot be built, or there are too many.
    """
    axes: dict[str, list[str]] = {}
    for text in vary:
        word, given, values = text.partition("=")
        name, listed = parameter(asked, word), [value.strip() for value in values.split(",")]
        if not given or not all(listed) or name in axes or len(set(listed)) < len(listed):
            raise InvalidInput(
                "--vary PARAMETER=VALUE,VALUE, each once", repr(text), "see `testbed run --help` for examples"
            )
        axes[name] = listed
    number = 1
    for listed in axes.values():
        number *= len(listed)
    if number > MAX_RUNS:
        raise InvalidInput(f"at most {MAX_RUNS} runs", f"{number:,} combinations", "vary less at a time")
    found = []
    for words in itertools.product(*axes.values()):
        chosen = {name: None if word == UNSET else word for name, word in zip(axes, words, strict=True)}
        params = checked(
            asked.params,
            {**base.model_dump(), **chosen},
            f"valid values of {', '.join(axes)}",
            f"see `testbed run {asked.name} --help`",
        )
        runner.prepare(asked, params)
        found.append(({name: getattr(params, name) for name in axes}, params))
    return found


def sweep(planned: Sequence[tuple[Mapping[str, Any], Strict]], ask: Ask, summary: Summary) -> ExitCode:
    """Ask once for each combination; a run that the host or the engine refuses is a row, too, and the others go on.

    Returns:
        OK when every run was confirmed or refuted: which of them is the answer. Else INCONCLUSIVE.

    Raises:
        Problem: not one run came to its end; that of the last one.
        Interrupted: by a signal; the summary holds the runs until then.
    """
    try:
        for number, (values, params) in enumerate(planned, 1):
            row: dict[str, Any] = {"values": dict(values)}
            try:
                row |= told(ask(params))
            except Problem as problem:
                row |= {
                    "run": None,
                    "outcome": None,
                    "claim": None,
                    "reason": None,
                    "figures": {},
                    "quotes": [],
                    "error": str(problem),
                }
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


def words(asked: Scenario[Any], params: Strict) -> list[str]:
    """Return the command that asks this again: every parameter that is not at its default, as an option."""
    options = []
    for name, value in params.model_dump().items():
        if value == asked.params.model_fields[name].default:
            continue
        option = name.replace("_", "-")
        if isinstance(value, dict | list):  # it came from a file or folder, whose name is not kept
            value = f"({len(value)} of {option})"  # noqa: PLW2901
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:  # no option takes a value away from a parameter: a sweep of one run does
            options += [f"--{option}={value}"] if value is not None else ["--vary", f"{option}={UNSET}"]
    return ["testbed", "run", asked.name, *options]
