"""Search for the smallest value of a parameter at which a scenario is confirmed: bisection over real runs.

Both ends of the range are tested first. At the end, the search repeats the runs at the two values next to the
threshold. If the runs at one value disagree, the symptom is intermittent there, and the search moves outwards to a
value whose runs agree. An INCONCLUSIVE run is repeated once; if the second run is INCONCLUSIVE, too, the search ends
as INCONCLUSIVE. ``runs/<time>-bisect-<scenario>/bisect.json`` is saved after each run::

    format, scenario, question, command, params
    over, low, high, tolerance, repeat    range and options of the search
    status       running, found, blurred, always, never, inconclusive, interrupted or failed
    threshold    the smallest value confirmed in all of its runs; None until it is found
    absent       the largest value below the threshold that was refuted in all of its runs
    predicted    the threshold that the scenario predicts (the verdict's figure predicted_threshold_<parameter>)
    runs         for each run, in the order of execution: value, seconds, and the facts of ``sweep.summary_row``
    says         the answer in words
"""

import time
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from orchestrator.bed.model import Strict
from orchestrator.errors import ExitCode, InvalidInput
from orchestrator.measurements.verdict import Outcome
from orchestrator.runs.sweep import Execute, Summary, parameter, summary_row, varied
from orchestrator.scenarios import Scenario

EXIT_CODES = {
    "found": ExitCode.OK,
    "always": ExitCode.UNEXPECTED,
    "never": ExitCode.UNEXPECTED,
    "blurred": ExitCode.INCONCLUSIVE,
    "inconclusive": ExitCode.INCONCLUSIVE,
}
"""Status of a search -> exit code of the command."""
_TRIES = 2
"""Maximum number of runs of one value while all are INCONCLUSIVE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """The range of a search: an integer parameter and its two ends."""

    name: str
    low: int
    high: int


class _Unanswered(Exception):
    """All runs of one value were INCONCLUSIVE, or the runs at one end of the range disagree."""


def parse(scenario: Scenario[Any], text: str) -> Over:
    """Read ``addresses=10..4000``.

    Raises:
        InvalidInput: the text has another form, or the parameter is not a whole number.
    """
    word, _, span = text.partition("=")
    low, _, high = span.partition("..")
    try:
        ends = int(low), int(high)
    except ValueError:
        ends = 0, 0
    if ends[0] >= ends[1]:
        raise InvalidInput("--over PARAMETER=LOW..HIGH, two whole numbers", repr(text), "try addresses=10..4000")
    name = parameter(scenario, word)
    kind = get_type_hints(scenario.params)[name]
    if int not in (get_args(kind) or (kind,)):
        raise InvalidInput(f"a parameter of {scenario.name} that is a whole number", repr(name), "choose another one")
    return Over(name=name, low=ends[0], high=ends[1])


def bisect(
    scenario: Scenario[Any],
    base: Strict,
    over: Over,
    execute: Execute,
    summary: Summary,
    *,
    repeat: int = 2,
    tolerance: int = 1,
) -> ExitCode:
    """Search for the threshold, and save every run and the answer in the summary.

    ``base`` holds the other parameters; ``execute`` makes one run; ``repeat`` is the number of equal outcomes required
    on each side of the threshold, ``tolerance`` the largest distance between the sides.

    Raises:
        Problem: a run failed; the summary holds the runs so far.
        Interrupted: a signal came; the summary holds the runs so far.
    """
    search = _Search(scenario, base, over, execute, summary)
    try:
        summary.save(
            over=over.name, low=over.low, high=over.high, tolerance=tolerance, repeat=repeat, params=base.model_dump(),
            threshold=None, absent=None, predicted=None,
        )  # fmt: skip
        try:
            status, says = search.run(repeat, tolerance)
        except _Unanswered as unanswered:
            status, says = "inconclusive", str(unanswered)
        summary.save(status=status, says=says)
    except BaseException as error:
        summary.broken(error)
        raise
    return EXIT_CODES[status]


class _Search:
    """One search: runs the scenario at chosen values, and keeps the outcomes by value."""

    def __init__(self, scenario: Scenario[Any], base: Strict, over: Over, execute: Execute, summary: Summary) -> None:
        self._scenario, self._base, self._over = scenario, base, over
        self._execute, self._summary = execute, summary
        self._answers: dict[int, list[bool]] = {}

    def run(self, repeat: int, tolerance: int) -> tuple[str, str]:
        """Search; return the status, and the answer in words."""
        name, low, high = self._over.name, self._over.low, self._over.high
        if self._shown(low):
            return "always", f"It appears already at {name} {low:,}, the low end: the threshold is below it."
        if not self._shown(high):
            return "never", f"It does not appear even at {name} {high:,}, the high end."
        while high - low > tolerance:
            middle = (low + high) // 2
            if self._shown(middle):
                high = middle
            else:
                low = middle
        low = self._repeated(low, self._over.low, repeat, shown=False)
        high = self._repeated(high, self._over.high, repeat, shown=True)
        self._summary.save(threshold=high, absent=low)
        times = f"in {repeat} of {repeat} runs"
        sides = f"confirmed {times} at {high:,}, refuted {times} at {low:,}"
        if high - low > tolerance:
            return "blurred", f"There is no sharp threshold: {sides}; between them it is intermittent."
        agreement = ""
        if (predicted := self._summary.facts["predicted"]) is not None:
            apart = abs(high - predicted) / high
            agreement = f" The scenario predicts {predicted:,.0f}, which is {apart:.1%} apart."
        return "found", f"It appears from {name} {high:,} on: {sides}.{agreement}"

    def _shown(self, value: int) -> bool:
        """Execute a run with this value, and repeat an INCONCLUSIVE run; return whether the outcome is CONFIRMED."""
        params = varied(self._scenario, self._base, {self._over.name: value})
        for _ in range(_TRIES):
            began = time.monotonic()
            finished = self._execute(params)
            seconds = round(time.monotonic() - began, 1)
            predicted = finished.verdict.figures.get(f"predicted_threshold_{self._over.name}")
            if predicted is not None:
                self._summary.facts["predicted"] = predicted
            self._summary.runs.append({"value": value, "seconds": seconds, **summary_row(finished)})
            self._summary.save()
            if finished.verdict.outcome is not Outcome.INCONCLUSIVE:
                self._answers.setdefault(value, []).append(finished.verdict.outcome is Outcome.CONFIRMED)
                return self._answers[value][-1]
        raise _Unanswered(
            f"At {self._over.name} {value:,} {_TRIES} runs of {_TRIES} were inconclusive: {finished.verdict.reason}"
        )

    def _repeated(self, value: int, end: int, repeat: int, *, shown: bool) -> int:
        """Return the first value, from ``value`` towards ``end``, whose ``repeat`` runs all agree with ``shown``."""
        step = 1
        while True:
            while self._agree(value, shown=shown) and len(self._answers.get(value, ())) < repeat:
                self._shown(value)
            if self._agree(value, shown=shown):
                return value
            if value == end:
                raise _Unanswered(f"At {self._over.name} {value:,}, an end of the range, the symptom is intermittent.")
            value = min(value + step, end) if shown else max(value - step, end)
            step *= 2

    def _agree(self, value: int, *, shown: bool) -> bool:
        return all(answer is shown for answer in self._answers.get(value, ()))
