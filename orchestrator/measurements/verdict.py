"""Types of a verdict in run.json: outcome, evidence, tables, quoted log lines; and evidence from a measured value."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Self, TypeVar

from pydantic import Field, computed_field

from orchestrator.measurements.kept import Kept

V = TypeVar("V")

Cell = str | int | float | None


class Outcome(StrEnum):
    """Outcome of a verdict on its claim."""

    CONFIRMED = "CONFIRMED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


class Evidence(Kept):
    """One checked fact of a verdict."""

    fact: str
    """Name of the fact: ``lost``, ``the relay's queue after the drain``, ..."""
    found: str
    needed: str
    holds: bool | None
    """``None`` if not measured."""
    source: str
    """Files of the run directory that hold the fact."""

    @classmethod
    def of(
        cls, fact: str, value: V | None, needed: str, holds: Callable[[V], bool | None], source: str, show: str = "{:,}"
    ) -> Self:
        """Return the evidence from a check of a value; ``None``: not measured. ``show`` formats the value."""
        found, held = ("not measured", None) if value is None else (show.format(value), holds(value))
        return cls(fact=fact, found=found, needed=needed, holds=held, source=source)

    @classmethod
    def some(cls, fact: str, count: int | None, source: str, of: str = "") -> Self:
        """Return the evidence that a count is at least 1; ``found`` is the count, followed by the text ``of``."""
        return cls.of(fact, count, "at least 1", lambda n: n > 0, source, "{:,}" + of)

    @classmethod
    def none(cls, fact: str, count: int | None, source: str, of: str = "") -> Self:
        """Return the evidence that a count is 0; ``found`` is the count, followed by the text ``of``."""
        return cls.of(fact, count, "0", lambda n: n == 0, source, "{:,}" + of)

    @classmethod
    def at_most(cls, fact: str, share: float | None, limit: float, source: str) -> Self:
        """Return the evidence that a share is within its limit."""
        return cls.of(fact, share, f"at most {limit:.0%}", lambda found: found <= limit, source, "{:.1%}")


def unmet(evidence: Iterable[Evidence]) -> str:
    """Return a text that lists all evidence that does not hold; empty if all holds."""
    return "; ".join(f"{e.fact}: {e.found}, needed {e.needed}" for e in evidence if e.holds is False)


def unknown(evidence: Iterable[Evidence]) -> str:
    """Return the names of all facts that were not measured; empty if there are none."""
    return ", ".join(e.fact for e in evidence if e.holds is None)


def sentence(text: str) -> str:
    """Return a text with a capital at its start and a full stop at its end."""
    return text[0].upper() + text[1:] + "."


class Quote(Kept):
    """A log line of a program or the kernel, verbatim, so that a search for it finds reports of the bug."""

    source: str
    """The log that holds the line: a node's or the kernel's."""
    t: float
    """Unix time."""
    text: str


class Table(Kept):
    """A table of a verdict or a report."""

    title: str
    columns: Sequence[str]
    """Headings with units; the first column names the row."""
    rows: Sequence[Sequence[Cell]]
    """``None`` in a cell: not measured."""
    bars: str | None = None
    """Heading of the column that the report also draws as bars."""
    align: str = "lr"
    """``l`` (left) or ``r`` (right) for each column; the last letter applies to all later columns, too."""
    strong: str | None = None
    """First cell of the row that the report emphasizes."""

    @classmethod
    def across(cls, title: str, things: Mapping[str, Mapping[str, Cell]], first: str = "") -> Self:
        """Return a table: a column for each thing, a row for each fact. ``first``: heading of the first column."""
        facts = next(iter(things.values()))
        rows = tuple((fact, *(thing[fact] for thing in things.values())) for fact in facts)
        return cls(title=title, columns=(first, *things), rows=rows)


class Verdict(Kept):
    """The answer, with its evidence."""

    outcome: Annotated[Outcome, Field(strict=False)]
    claim: str
    """The sentence that is confirmed or refuted."""
    reason: str
    """Reason for the outcome, in one or two sentences."""
    evidence: Sequence[Evidence] = ()
    marks: Sequence[str] = ()
    """Warnings about the figures: ``instrument-bound``, ..."""
    figures: dict[str, int | float | None] = Field(default_factory=dict)
    """Name with unit (``relay_messages_per_s``) -> measured value; ``None`` if not measured."""
    tables: Sequence[Table] = ()
    quotes: Sequence[Quote] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def headline(self) -> str:
        """First line of a report: the claim, or the reason if the outcome is INCONCLUSIVE."""
        return self.reason if self.outcome is Outcome.INCONCLUSIVE else self.claim
