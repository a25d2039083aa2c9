"""Scenarios, one file or package each, discovered: bed(params), drive(bed), judge(measurements, params).

``bed`` and ``judge`` are pure; only ``drive`` touches a bed that is up, and it leaves everything that ``judge``
needs in the run directory, so that an old run can be judged again without Docker.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, runtime_checkable

from orchestrator.bed.model import Bed, Strict
from orchestrator.errors import InvalidInput

if TYPE_CHECKING:
    from orchestrator.measurements import Measurements
    from orchestrator.up.bed import RecordedBed

P_contra = TypeVar("P_contra", bound=Strict, contravariant=True)


class Outcome(StrEnum):
    """What a verdict says of its claim."""

    CONFIRMED = "CONFIRMED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One fact that a verdict rests on."""

    fact: str
    """What was looked at: ``lost``, ``relay queue after the drain``, ..."""
    found: str
    needed: str
    holds: bool | None
    """``None``: it could not be measured."""
    source: str
    """Where in the run directory it can be read again."""

    @classmethod
    def some(cls, fact: str, count: int | None, source: str, of: str = "") -> Self:
        """Hold a count against none at all; ``None``: not measured. ``of`` stands after it: what, or of how many."""
        return cls(
            fact=fact,
            found="not measured" if count is None else f"{count:,}{of}",
            needed="at least 1",
            holds=None if count is None else count > 0,
            source=source,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A line that says it in the words of the program, or the kernel, itself: what a search for the bug would find."""

    source: str
    """Where it stands: the log of a node, or the kernel's."""
    t: float
    """Unix time."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Several things side by side."""

    title: str
    columns: tuple[str, ...]
    """What each column holds, its unit included; the first one names the row."""
    rows: tuple[tuple[str | float | None, ...], ...]
    """``None``: not measured."""
    bars: str | None = None
    """The column that is worth a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer, with its evidence."""

    outcome: Outcome
    claim: str
    """The sentence that is confirmed or refuted."""
    reason: str
    """Why this outcome, in one or two sentences."""
    evidence: tuple[Evidence, ...] = ()
    marks: tuple[str, ...] = ()
    """Warnings that belong beside the figures: ``instrument-bound``, ..."""
    figures: dict[str, float | None] = field(default_factory=dict)
    """The measured answers, by name with their unit: ``relay_messages_per_s``; ``None`` where not measured."""
    tables: tuple[Table, ...] = ()
    quotes: tuple[Quote, ...] = ()

    @property
    def headline(self) -> str:
        """What stands above everything else: the claim, or why it could not be judged."""
        return self.reason if self.outcome is Outcome.INCONCLUSIVE else self.claim

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for run.json."""
        return {
            "outcome": str(self.outcome),
            "headline": self.headline,
            "claim": self.claim,
            "reason": self.reason,
            "marks": list(self.marks),
            "figures": self.figures,
            "evidence": [
                {"fact": e.fact, "found": e.found, "needed": e.needed, "holds": e.holds, "source": e.source}
                for e in self.evidence
            ],
            "tables": [asdict(table) for table in self.tables],
            "quotes": [asdict(quote) for quote in self.quotes],
        }


class OverIPv4(Strict):
    """Parameters of a scenario whose programs speak IPv4."""

    families: Literal["both", "v4"] = "both"
    """What mail and DNS of the bed go over; v4 asks for no IPv6 of the host."""


class Scenario(Protocol[P_contra]):
    """One question."""

    name: str
    question: str
    """In one line, for ``testbed list``."""
    params: type[Strict]
    """What can be varied: each field becomes an option of ``testbed run``."""

    def bed(self, params: P_contra) -> Bed:
        """Return the bed that the question is asked of."""
        ...

    def drive(self, bed: "RecordedBed", params: P_contra) -> None:
        """Ask: drive load through the bed and leave the answers in the run directory."""
        ...

    def judge(self, measured: "Measurements", params: P_contra) -> Verdict:
        """Answer from what was measured."""
        ...


@runtime_checkable
class Provokes(Protocol):
    """What a scenario adds that asks more of the host than it can give, because that is the question."""

    provokes: frozenset[str]
    """Names of the host's checks (``host.Check.name``) that may fail."""


@runtime_checkable
class Scales(Protocol):
    """What a scenario adds that can be asked at several sizes."""

    def smaller(self, params: Any) -> str | None:
        """Say what to ask of a host that cannot give what these parameters need; ``None``: they are small as it is."""
        ...


@runtime_checkable
class Connects(Protocol[P_contra]):
    """What a scenario adds whose nodes make new connections at a rate that is known before."""

    def connections(self, params: P_contra) -> Mapping[str, float]:
        """Return node -> new connections a second that it makes to one address."""
        ...


@cache
def known() -> dict[str, Scenario[Any]]:
    """Return every scenario, by name."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    found: list[Scenario[Any]] = [m.SCENARIO for m in modules if hasattr(m, "SCENARIO")]
    return {scenario.name: scenario for scenario in sorted(found, key=lambda s: s.name)}


def scenario(name: str) -> Scenario[Any]:
    """Return one scenario.

    Raises:
        InvalidInput: there is none of this name.
    """
    try:
        return known()[name]
    except KeyError:
        raise InvalidInput("the name of a scenario", repr(name), f"choose one of {', '.join(known())}") from None
