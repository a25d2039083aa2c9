"""Scenarios, one module or package each: bed(params), drive(bed, params), judge(measured, params).

Only ``drive`` touches the deployed bed; it saves in the run directory all that ``judge`` reads, so that a run can be
judged again without Docker. ``bed`` and ``judge`` are pure.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, runtime_checkable

from orchestrator.bed.model import Bed, Strict
from orchestrator.errors import InvalidInput

if TYPE_CHECKING:
    from orchestrator.measurements import Measurements
    from orchestrator.up.bed import RecordedBed

V = TypeVar("V")
P_contra = TypeVar("P_contra", bound=Strict, contravariant=True)


class Outcome(StrEnum):
    """Outcome of a verdict on its claim."""

    CONFIRMED = "CONFIRMED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One checked fact of a verdict."""

    fact: str
    """Name of the fact: ``lost``, ``the relay's queue after the drain``, ..."""
    found: str
    needed: str
    holds: bool | None
    """``None`` if not measured."""
    source: str
    """Files of the run directory that hold it."""

    @classmethod
    def of(
        cls, fact: str, value: V | None, needed: str, holds: Callable[[V], bool], source: str, show: str = "{:,}"
    ) -> Self:
        """Check a value; ``None``: not measured. ``show`` formats it."""
        found, held = ("not measured", None) if value is None else (show.format(value), holds(value))
        return cls(fact=fact, found=found, needed=needed, holds=held, source=source)

    @classmethod
    def some(cls, fact: str, count: int | None, source: str, of: str = "") -> Self:
        """Return the evidence that a count is at least 1; ``of`` follows the count in ``found``."""
        return cls.of(fact, count, "at least 1", lambda n: n > 0, source, "{:,}" + of)


def unmet(evidence: Iterable[Evidence]) -> str:
    """Return a text of all evidence that does not hold; empty if all holds or is unknown."""
    return "; ".join(f"{e.fact}: {e.found}, needed {e.needed}" for e in evidence if e.holds is False)


def unknown(evidence: Iterable[Evidence]) -> str:
    """Return a text of all evidence that was not measured; empty if there is none."""
    return ", ".join(e.fact for e in evidence if e.holds is None)


def sentence(text: str) -> str:
    """Return a text with a capital at its start and a full stop at its end."""
    return text[0].upper() + text[1:] + "."


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A log line of a program or the kernel, verbatim, so that a search for it finds reports of the bug."""

    source: str
    """The log that holds the line: a node's or the kernel's."""
    t: float
    """Unix time."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the verdict."""

    title: str
    columns: tuple[str, ...]
    """Headings with units; the first column names the row."""
    rows: tuple[tuple[str | float | None, ...], ...]
    """``None``: not measured."""
    bars: str | None = None
    """The column drawn as bars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer, with its evidence."""

    outcome: Outcome
    claim: str
    """The sentence that is confirmed or refuted."""
    reason: str
    """Reason for the outcome, in one or two sentences."""
    evidence: tuple[Evidence, ...] = ()
    marks: tuple[str, ...] = ()
    """Warnings about the figures: ``instrument-bound``, ..."""
    figures: dict[str, float | None] = field(default_factory=dict)
    """Name with unit (``relay_messages_per_s``) -> measured value; ``None`` if not measured."""
    tables: tuple[Table, ...] = ()
    quotes: tuple[Quote, ...] = ()

    @property
    def headline(self) -> str:
        """First line of a report: the claim, or the reason if the outcome is INCONCLUSIVE."""
        return self.reason if self.outcome is Outcome.INCONCLUSIVE else self.claim

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for run.json."""
        return {**asdict(self), "outcome": str(self.outcome), "headline": self.headline}


class OverIPv4(Strict):
    """Parameters of a scenario that needs IPv4."""

    families: Literal["both", "v4"] = "both"
    """IP versions of mail and DNS in the bed; v4 needs no IPv6 on the host."""


class Scenario(Protocol[P_contra]):
    """One question, and how to answer it."""

    name: str
    question: str
    """One line, for ``testbed list``."""
    params: type[Strict]
    """Parameters: each field becomes an option of ``testbed run``."""

    def bed(self, params: P_contra) -> Bed:
        """Return the bed."""

    def drive(self, bed: "RecordedBed", params: P_contra) -> None:
        """Drive load through the bed and save the results in the run directory."""

    def judge(self, measured: "Measurements", params: P_contra) -> Verdict:
        """Return the verdict on the measurements."""


@runtime_checkable
class Provokes(Protocol):
    """A scenario that exceeds limits of the host on purpose."""

    provokes: frozenset[str]
    """Names of the host's checks (``hosts.capacity.Check.name``) that may fail."""


@runtime_checkable
class Scales(Protocol):
    """A scenario that can run at several sizes."""

    def smaller(self, params: Any) -> str | None:
        """Return advice for a host that is too small for these parameters; None if these are the smallest size."""


@runtime_checkable
class Connects(Protocol[P_contra]):
    """A scenario with a predictable rate of new connections."""

    def connections(self, params: P_contra) -> Mapping[str, float]:
        """Return node -> new connections a second to one address."""


@cache
def known() -> dict[str, Scenario[Any]]:
    """Return every scenario, by name."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    scenarios: list[Scenario[Any]] = [m.SCENARIO for m in modules if hasattr(m, "SCENARIO")]
    return {scenario.name: scenario for scenario in sorted(scenarios, key=lambda s: s.name)}


def scenario(name: str) -> Scenario[Any]:
    """Return the scenario of this name.

    Raises:
        InvalidInput: the name is unknown.
    """
    try:
        return known()[name]
    except KeyError:
        raise InvalidInput("the name of a scenario", repr(name), f"choose one of {', '.join(known())}") from None
