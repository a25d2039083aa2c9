"""A question whose answer a test knows beforehand: what bisect and sweep are tried on."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.bed.model import Bed, Release, Strict, parse_bed
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome, Quote, Verdict
from orchestrator.runs.runner import Finished
from orchestrator.scenarios import Scenario


class Params(Strict):
    """What can be varied."""

    addresses: Annotated[int, Field(ge=1, le=5000)] | None = None
    """A whole number."""
    dns_release: Release = "bookworm"
    """A choice."""
    share: float = 0.5
    """No whole number."""
    full: bool = False
    """A switch."""
    fix: Literal["more", "less"] | None = "more"
    """What can be unset."""


class Question(Scenario[Params]):
    """The scenario."""

    name, question = "asked", "Is it there?"
    params: type[Strict] = Params

    def bed(self, params: Params) -> Bed:  # noqa: D102
        dns = {"service": "bind", "release": params.dns_release, "addresses": params.addresses or 1}
        return parse_bed({"name": "one", "domains": 2, "nodes": {"dns": dns}}, "bed")

    def drive(self, bed: object, params: Params) -> None:
        """Nothing: the tests know the answer."""

    def judge(self, measured: Measurements, params: Params) -> Verdict:  # noqa: D102
        raise NotImplementedError


class Asker:
    """Answers with what ``answer`` says of the parameters, and remembers them."""

    def __init__(self, runs: Path, answer: Callable[[Any], Outcome], **figures: float | None) -> None:
        self._runs, self._answer, self._figures = runs, answer, figures
        self._numbers = itertools.count(1)
        self.asked: list[Any] = []

    def __call__(self, params: Strict) -> Finished:
        """Answer."""
        self.asked.append(params)
        outcome = self._answer(params)
        quotes = (Quote(source="log of dns", t=1.0, text="it \x1b[31mbroke"),) if outcome is Outcome.CONFIRMED else ()
        verdict = Verdict(outcome=outcome, claim="It is.", reason="So.", figures=self._figures, quotes=quotes)
        return Finished(rundir=RunDir(self._runs / f"time-asked-{next(self._numbers)}"), verdict=verdict)
