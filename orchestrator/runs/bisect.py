"""Search for the smallest value of a parameter at which a scenario is confirmed: bisection over real runs.

Both ends are looked at first. What is found is confirmed by repetition on both of its sides; where repetitions
disagree, the symptom is there only sometimes, and the search moves outwards until they agree. A run that is
INCONCLUSIVE is made once more; a second one ends the search, which is then inconclusive, too. All of it is kept in
``runs/<time>-bisect-<scenario>/bisect.json``, saved after each run::

    format, scenario, question, command, params
    over, low, high, tolerance, repeat    what was asked
    status       running, found, blurred, always, never, inconclusive, interrupted or failed
    threshold    the smallest value that is confirmed, each time it was asked; None until it is found
    absent       the greatest value below it that is refuted, each time it was asked
    predicted    what the scenario itself expects (its figure predicted_threshold_<parameter>)
    runs         value, seconds, and what ``sweep.told`` says of each run, in the order in which they were made
    says         the answer in words
"""

import time
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from orchestrator.bed.model import Strict, checked
from orchestrator.errors import ExitCode, InvalidInput
from orchestrator.runs import runner
from orchestrator.runs.runner import Finished
from orchestrator.runs.sweep import Ask, Summary, parameter, told
from orchestrator.scenarios import Outcome, Scenario

EXIT_CODES = {
    "found": ExitCode.OK,
    "always": ExitCode.UNEXPECTED,
    "never": ExitCode.UNEXPECTED,
    "blurred": ExitCode.INCONCLUSIVE,
    "inconclusive": ExitCode.INCONCLUSIVE,
}
"""How the command ends, by the status of its search."""
_TRIES = 2
"""How often a value is asked for that stays inconclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """What is searched: an integer parameter, and the two ends of its range."""

    name: str
    low: int
    high: int


class _Unanswered(Exception):
    """A value whose runs were all inconclusive."""


def parse(asked: Scenario[Any], text: str) -> Over:
    """Read ``addresses=10..4000``.

    Raises:
        InvalidInput: it is written otherwise, or the parameter is no whole number.
    """
    word, _, span = text.partition("=")
    low, _, high = span.partition("..")
    try:
        ends = int(low), int(high)
    except ValueError:
        ends = 0, 0
    if ends[0] >= ends[1]:
        raise InvalidInput("--over PARAMETER=LOW..HIGH, two whole numbers", repr(text), "try addresses=10..4000")
    name = parameter(asked, word)
    kind = get_type_hints(asked.params)[name]
    if int not in (get_args(kind) or (kind,)):
        raise InvalidInput(f"a parameter of {asked.name} that is a whole number", repr(name), "choose another one")
    return Over(name=name, low=ends[0], high=ends[1])


def at(asked: Scenario[Any], base: Strict, over: Over, value: int) -> Strict:
    """Return the parameters of the run at one value.

    Raises:
        InvalidInput: the value is not possible, or its bed cannot be built.
    """
    made = checked(
        asked.params,
        {**base.model_dump(), over.name: value},
        f"a possible value of {over.name}",
        f"see `testbed run {asked.name} --help`",
    )
    runner.prepare(asked, made)
    return made


def bisect(
    asked: Scenario[Any], base: Strict, over: Over, ask: Ask, summary: Summary, *, repeat: int = 2, tolerance: int = 1
) -> ExitCode:
    """Search, and keep what was found in the summary.

    Args:
        asked: the scenario.
        base: its other parameters.
        over: the range.
        ask: makes one run.
        summary: where every run, and the answer, is kept.
        repeat: how often each of the two values beside the threshold has to be answered alike.
        tolerance: how far apart they may be.

    Raises:
        Problem: a run could not be made at all; the summary holds those until then.
        Interrupted: by a signal; as well.
    """
    search = _Search(asked, base, over, ask, summary)
    try:
        summary.save(
            over=over.name, low=over.low, high=over.high, tolerance=tolerance, repeat=repeat, params=base.model_dump(),
            threshold=None, absent=None, predicted=None,
        )  # fmt: skip
        try:
            status = search.run(repeat, tolerance)
        except _Unanswered as unanswered:
            status = "inconclusive"
            summary.facts["says"] = str(unanswered)
        summary.save(status=status)
    except BaseException as error:
        summary.broken(error)
        raise
    return EXIT_CODES[status]


class _Search:
    """One search: every answer so far, by value."""

    def __init__(self, asked: Scenario[Any], base: Strict, over: Over, ask: Ask, summary: Summary) -> None:
        self._asked, self._base, self._over = asked, base, over
        self._ask, self._summary = ask, summary
        self._answers: dict[int, list[bool]] = {}

    def run(self, repeat: int, tolerance: int) -> str:
        """Search; return the status."""
        name, low, high = self._over.name, self._over.low, self._over.high
        if self._shown(low):
            return self._end(
                "always", f"It is there already at {name} {low:,}, the low end: the threshold is below it."
            )
        if not self._shown(high):
            return self._end("never", f"It is not there even at {name} {high:,}, the high end.")
        while high - low > tolerance:
            middle = (low + high) // 2
            if self._shown(middle):
                high = middle
            else:
                low = middle
        low = self._sure(low, self._over.low, repeat, shown=False)
        high = self._sure(high, self._over.high, repeat, shown=True)
        self._summary.save(threshold=high, absent=low)
        times = f"in {repeat} of {repeat} runs"
        sides = f"confirmed {times} at {high:,}, refuted {times} at {low:,}"
        if high - low > tolerance:
            return self._end(
                "blurred", f"There is no sharp threshold: {sides}, and between them it is there only sometimes."
            )
        return self._end("found", f"It appears from {name} {high:,} on: {sides}.{self._agreement(high)}")

    def _shown(self, value: int) -> bool:
        """Make a run; say whether it was confirmed.

        Raises:
            _Unanswered: it was inconclusive, and so was its repetition.
        """
        params = at(self._asked, self._base, self._over, value)
        for _ in range(_TRIES):
            began = time.monotonic()
            finished = self._ask(params)
            self._keep(value, finished, time.monotonic() - began)
            if finished.verdict.outcome is not Outcome.INCONCLUSIVE:
                self._answers.setdefault(value, []).append(finished.verdict.outcome is Outcome.CONFIRMED)
                return self._answers[value][-1]
        raise _Unanswered(
            f"At {self._over.name} {value:,} {_TRIES} runs of {_TRIES} were inconclusive: {finished.verdict.reason}"
        )

    def _sure(self, value: int, end: int, repeat: int, *, shown: bool) -> int:
        """Ask for a value again until it is answered alike often enough; else go towards the end of the range.

        Raises:
            _Unanswered: even the end of the range is not always answered alike.
        """
        step = 1
        while True:
            while self._alike(value, shown=shown) and len(self._answers.get(value, ())) < repeat:
                self._shown(value)
            if self._alike(value, shown=shown):
                return value
            if value == end:
                raise _Unanswered(f"At {self._over.name} {value:,}, an end of the range, it is there only sometimes.")
            value = min(value + step, end) if shown else max(value - step, end)
            step *= 2

    def _alike(self, value: int, *, shown: bool) -> bool:
        return all(answer is shown for answer in self._answers.get(value, ()))

    def _keep(self, value: int, finished: Finished, seconds: float) -> None:
        predicted = finished.verdict.figures.get(f"predicted_threshold_{self._over.name}")
        if predicted is not None:
            self._summary.facts["predicted"] = predicted
        self._summary.runs.append({"value": value, "seconds": round(seconds, 1), **told(finished)})
        self._summary.save()

    def _agreement(self, threshold: int) -> str:
        predicted = self._summary.facts["predicted"]
        if predicted is None:
            return ""
        apart = abs(threshold - predicted) / threshold
        return f" The scenario's own arithmetic says {predicted:,.0f}: {apart:.1%} apart."

    def _end(self, status: str, says: str) -> str:
        self._summary.facts["says"] = says
        return status
