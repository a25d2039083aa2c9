"""Scenarios, one module or package each: a question, bed(params), drive(bed, params), judge(measured, params).

Only ``drive`` touches the deployed bed. ``drive`` saves all input of ``judge`` in the run directory, so that a run can
be judged again without Docker. ``bed`` and ``judge`` are pure.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from orchestrator.bed.model import Bed, Strict
from orchestrator.errors import InvalidInput

if TYPE_CHECKING:
    from orchestrator.measurements import Measurements
    from orchestrator.measurements.verdict import Verdict
    from orchestrator.up.bed import RecordedBed

P = TypeVar("P", bound=Strict)


class OverIPv4(Strict):
    """Parameters of a scenario that needs IPv4."""

    families: Literal["both", "v4"] = "both"
    """IP versions of mail and DNS in the bed; v4 needs no IPv6 on the host."""


class Scenario(ABC, Generic[P]):
    """A question, and the methods that answer the question."""

    name: str
    question: str
    """One line, for ``testbed list``."""
    params: type[Strict]
    """Parameters: each field becomes an option of ``testbed run``."""
    provokes: frozenset[str] = frozenset()
    """Names of host checks (``hosts.capacity.Check.name``) that may fail: the scenario exceeds limits on purpose."""

    @abstractmethod
    def bed(self, params: P) -> Bed:
        """Return the bed."""

    @abstractmethod
    def drive(self, bed: "RecordedBed", params: P) -> None:
        """Send a load through the bed and save the results in the run directory."""

    @abstractmethod
    def judge(self, measured: "Measurements", params: P) -> "Verdict":
        """Return the verdict on the measurements."""

    def smaller(self, params: P) -> str | None:  # noqa: ARG002
        """Return advice for a host that is too small for these parameters; ``None`` if no smaller size exists."""
        return None

    def connections(self, params: P) -> Mapping[str, float]:  # noqa: ARG002
        """Return node -> predicted new connections a second to one address; nodes without a prediction are left out."""
        return {}


@cache
def known() -> dict[str, Scenario[Any]]:
    """Return every scenario, by name."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    scenarios: list[Scenario[Any]] = [m.SCENARIO for m in modules if hasattr(m, "SCENARIO")]
    return {scenario.name: scenario for scenario in sorted(scenarios, key=lambda s: s.name)}


def scenario(name: str) -> Scenario[Any]:
    """Return a scenario; raises InvalidInput if none has this name."""
    try:
        return known()[name]
    except KeyError:
        raise InvalidInput("the name of a scenario", repr(name), f"choose one of {', '.join(known())}") from None
