"""Scenarios, one module or package each: bed(params), drive(bed, params), judge(measured, params).

Only ``drive`` touches the deployed bed; it saves in the run directory all that ``judge`` reads, so that a run can be
judged again without Docker. ``bed`` and ``judge`` are pure.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from orchestrator.bed.model import Bed, Strict
from orchestrator.errors import InvalidInput

if TYPE_CHECKING:
    from orchestrator.measurements import Measurements
    from orchestrator.measurements.verdict import Verdict
    from orchestrator.up.bed import RecordedBed

P_contra = TypeVar("P_contra", bound=Strict, contravariant=True)


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

    def judge(self, measured: "Measurements", params: P_contra) -> "Verdict":
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
    """Return a scenario; raises InvalidInput if none has this name."""
    try:
        return known()[name]
    except KeyError:
        raise InvalidInput("the name of a scenario", repr(name), f"choose one of {', '.join(known())}") from None
