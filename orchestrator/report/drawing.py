"""Charts of a report as plain data; templates/report.js draws them with uPlot.

A colour is the name of a CSS variable (``--series-1``), so that one chart serves light, dark and print.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from statistics import fmean
from typing import Any

from orchestrator.measurements import Latency, Phase, Series
from orchestrator.services import Purpose

Picture = dict[str, Any]

POINTS = 1_200
"""Maximum number of points of a line; without this limit, the page of a day-long run would have 100 MB."""
PALETTE = ("--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6")
CURVE_STEPS = 24
"""Points of a percentile curve for each factor of ten on its x axis."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Time axis of a run, common to its charts, and the phases of the run."""

    t0: float
    end: float
    unit: str
    width_s: float
    phases: Sequence[Phase]

    def x(self, t: float) -> float:
        """Return the position of a Unix time on the axis."""
        return round((t - self.t0) / self.width_s, 3)


def over_time(axis: Axis, unit: str, lines: list[Picture], **more: Any) -> Picture:
    """Draw lines over the common time axis, with the phases behind them."""
    phases = _phases(axis)
    return {"x": axis.unit, "y": unit, "end": axis.x(axis.end), "phases": phases, "lines": lines, **more}


def _phases(axis: Axis) -> list[Picture]:
    """Return the phases in order of start. Only the first calibration and the first probe have a label."""
    drawn, named = [], set()
    for phase in sorted(axis.phases, key=lambda p: p.start):
        group = {Purpose.CALIBRATE: "calibration", Purpose.PROBE: "connections"}.get(phase.purpose)
        name = group or phase.name
        drawn.append({
            "from": axis.x(phase.start),
            "to": axis.x(phase.end or axis.end),
            "kind": "before" if group else "drain" if name.endswith("drain") else "run",
            "name": "" if name in named else name,
        })  # fmt: skip
        named.add(name)
    return drawn


def line(
    axis: Axis, name: str, points: Series, colour: str, *, pick: Callable[..., float] = fmean, **look: bool
) -> Picture:
    """Draw a line; ``pick`` reduces it to at most ``POINTS`` points.

    ``look``: ``dashed``, ``filled``, ``stepped``, ``marked`` (a circle at each point).
    """
    t, values = _thin(points, pick)
    joined = any(a is not None and b is not None for a, b in pairwise(values))
    return {
        "name": name,
        "colour": colour,
        "x": [axis.x(at) for at in t],
        "y": [None if v is None else float(f"{v:.5g}") for v in values],
        "marked": not joined,
        **look,
    }


def _thin(points: Series, pick: Callable[..., float]) -> tuple[list[float], list[float | None]]:
    step = math.ceil(len(points.t) / POINTS) or 1
    t, values = [], []
    for i in range(0, len(points.t), step):
        known = [v for v in points.values[i : i + step] if v is not None]
        t.append(points.t[i])
        values.append(pick(known) if known else None)
    return t, values


def over_percentiles(curves: Mapping[str, Latency]) -> Picture:
    """Draw latency in milliseconds by percentile, both axes logarithmic.

    x is 1 / (1 - share): 2 for 50 %, 10 for 90 %, 100 for 99 %. The y axis starts below the 10th percentile.
    """
    lines = []
    for (name, curve), colour in zip(curves.items(), cycle(PALETTE), strict=False):
        steps = math.floor(math.log10(max(curve.count, 10)) * CURVE_STEPS)
        x = [10 ** (step / CURVE_STEPS) for step in range(steps + 1)]
        y = [float(f"{curve.at(100 - 100 / at) * 1e3:.4g}") for at in x]
        lines.append({"name": name, "colour": colour, "x": [round(at, 4) for at in x], "y": y, "marked": False})
    low = min(curve.at(10) for curve in curves.values()) * 1e3
    top = max(curve.max for curve in curves.values()) * 1e3
    decades = [10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(top))]
    return {"y": "milliseconds", "decades": decades, "phases": [], "lines": lines}
