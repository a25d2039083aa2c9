"""How the pictures of a report are drawn: plotly figures in plain data (schema: plotly.js ``Plotly.newPlot``).

Colours are names of the page's CSS variables (``--series-1``), put in by the page, so that one figure serves light
and dark. Every text that comes from the run is escaped, because plotly reads a subset of HTML in texts.
"""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from orchestrator.measurements import Latency, Phase, Series
from orchestrator.services import Purpose

Figure = dict[str, Any]

POINTS = 1_200
"""Most points of a line: a day-long run must not make a page of a hundred megabytes."""
PALETTE = ("--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6")
CURVE_STEPS = 24
"""Points for each factor of ten of a percentile curve."""
LABEL_WIDTH = 0.008
"""Width of a letter in a label, as a share of a picture's width."""
HEADROOM = 1.18
"""How high a picture is, as a multiple of what is highest in it: labels stand above."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The one time axis of a run, and what was done when."""

    t0: float
    end: float
    unit: str
    width_s: float
    phases: Sequence[Phase]

    def x(self, t: float) -> float:
        """Return where a Unix time lies on the axis."""
        return round((t - self.t0) / self.width_s, 3)


def over_time(axis: Axis, unit: str, top: float | None) -> Figure:
    """Start a figure over the common time axis, with the phases shaded."""
    figure = _base(f"{axis.unit} since the start", html.escape(unit))
    layout = figure["layout"]
    layout["xaxis"]["range"] = [0, axis.x(axis.end)]
    if top:
        layout["yaxis"] |= {"range": [0, top * HEADROOM], "rangemode": "normal"}
    layout["shapes"] = [
        {"type": "rect", "layer": "below", "yref": "paper", "y0": 0, "y1": 1, "x0": axis.x(p.start),
         "x1": axis.x(p.end or axis.end), "line": {"color": "--card", "width": 1},
         "fillcolor": "--calibration" if _before(p) else "--phase"}
        for p in axis.phases if p.name != "drain"
    ]  # fmt: skip
    return figure


def labels(axis: Axis) -> list[Figure]:
    """Name the phases along the top, as far as there is room.

    What came before the run shares a label, a row lower, because it is short.
    """
    first = {_before(p) or p.name: p for p in reversed(axis.phases)}
    placed = []
    taken = -math.inf
    for name, phase in sorted(first.items(), key=lambda item: item[1].start):
        width = len(name) * LABEL_WIDTH * axis.x(axis.end)
        at_end = axis.x(phase.start) + width > axis.x(axis.end)
        left = axis.x(axis.end) - width if at_end else axis.x(phase.start)
        if not _before(phase):
            if left < taken:
                continue
            taken = left + width
        place = {"x": axis.x(axis.end) if at_end else left, "xanchor": "right" if at_end else "left"}
        placed.append(note(html.escape(name), y=1, yshift=-14 if _before(phase) else 0, **place))
    return placed


def _before(phase: Phase) -> str | None:
    """Name the group of phases that came before the run; ``None``: it is one of the run."""
    return {Purpose.CALIBRATE: "calibration", Purpose.PROBE: "connections"}.get(Purpose(phase.purpose))


def level(figure: Figure, at: float, text: str) -> None:
    """Draw a dashed line across a picture, and what it stands for."""
    figure["layout"]["shapes"].append(
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": at, "y1": at,
         "line": {"color": "--ink", "width": 1, "dash": "dash"}}
    )  # fmt: skip
    beside = {"x": 1, "y": at, "xref": "paper", "yref": "y", "xanchor": "right", "yanchor": "bottom"}
    figure["layout"]["annotations"].append(note(text, **beside))


def note(text: str, **place: Any) -> Figure:
    """Return an annotation; ``place`` is where, in plotly's words."""
    return {
        "text": text,
        "showarrow": False,
        "yref": "paper",
        "yanchor": "top",
        "font": {"size": 11},
        "xshift": 2,
        **place,
    }


def line(
    axis: Axis,
    name: str,
    points: Series,
    colour: str,
    *,
    hover: str,
    dash: str = "solid",
    pick: Callable[..., float] = fmean,
) -> Figure:
    """Draw a line, thinned to what a screen can show: each step its mean, or what ``pick`` takes of it."""
    t, values = _thin(points, pick)
    joined = any(a is not None and b is not None for a, b in pairwise(values))
    return {
        "type": "scatter",
        "mode": "lines" if joined else "markers",
        "marker": {"size": 5},
        "name": html.escape(name),
        "x": [axis.x(at) for at in t],
        "y": [None if v is None else float(f"{v:.5g}") for v in values],
        "line": {"color": colour, "width": 2, "dash": dash},
        "hovertemplate": hover,
        "connectgaps": False,
    }


def _thin(points: Series, pick: Callable[..., float]) -> tuple[list[float], list[float | None]]:
    step = math.ceil(len(points.t) / POINTS) or 1
    t, values = [], []
    for i in range(0, len(points.t), step):
        known = [v for v in points.values[i : i + step] if v is not None]
        t.append(points.t[i])
        values.append(pick(known) if known else None)
    return t, values


def over_percentiles(curves: Mapping[str, Latency]) -> Figure:
    """Draw durations by the share of messages that do not exceed them, both axes by powers of ten."""
    figure = _base("share of messages at or below", "milliseconds")
    layout = figure["layout"]
    for (label, curve), colour in coloured(curves):
        decades = math.log10(max(curve.count, 10))
        shares = [1 - 10 ** (-i / CURVE_STEPS) for i in range(math.floor(decades * CURVE_STEPS) + 1)]
        figure["data"].append(
            {"type": "scatter", "mode": "lines", "name": html.escape(label),
             "x": [round(1 / (1 - s), 4) for s in shares],
             "y": [float(f"{v * 1e3:.4g}") for v in (curve.at(100 * s) for s in shares)],
             "text": [f"{100 * s:.6g} %" for s in shares],
             "line": {"color": colour, "width": 2}, "hovertemplate": "%{y:,.4~g} ms at %{text}"}
        )  # fmt: skip
    most = max(curve.count for curve in curves.values())
    marks = [(2, "50 %"), (10, "90 %")]
    marks += [(10**n, f"{100 - 10 ** (2 - n):.{max(0, n - 2)}f} %") for n in range(2, math.floor(math.log10(most)) + 1)]
    layout["hovermode"] = "closest"
    layout["height"] = 380
    layout["xaxis"] |= {
        "type": "log", "tickvals": [x for x, _ in marks], "ticktext": [text for _, text in marks],
        "showgrid": True, "tickangle": 0,
    }  # fmt: skip
    layout["yaxis"] |= {"type": "log", "dtick": 1, "tickformat": "~r", "range": _decades(curves.values())}
    return figure


def _decades(curves: Iterable[Latency]) -> list[float]:
    """Return whole powers of ten, in milliseconds, around all but the fastest tenth, which says little."""
    known = [(curve.at(10) * 1e3, curve.max * 1e3) for curve in curves]
    return [math.floor(math.log10(min(low for low, _ in known))), math.ceil(math.log10(max(top for _, top in known)))]


def _base(across: str, up: str) -> Figure:
    """Start a figure; ``across`` and ``up`` say what its axes show."""
    tick = {"gridcolor": "--line", "zeroline": False, "linecolor": "--line", "tickcolor": "--line", "automargin": True}
    return {
        "data": [],
        "layout": {
            "height": 280,
            "margin": {"l": 52, "r": 12, "t": 40, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "--muted"},
            "hovermode": "x unified",
            "hoverlabel": {"bgcolor": "--card", "bordercolor": "--line", "font": {"color": "--ink"}},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
            "showlegend": True,
            "xaxis": {**tick, **_titled(across, 8), "showgrid": False, "ticks": "outside"},
            "yaxis": {**tick, **_titled(up, 6), "rangemode": "tozero"},
            "shapes": [],
            "annotations": [],
            "dragmode": False,
        },
    }


def _titled(text: str, standoff: int) -> Figure:
    return {"title": {"text": text, "standoff": standoff, "font": {"size": 12}}}


def coloured(series: Mapping[str, Any]) -> list[tuple[tuple[str, Any], str]]:
    """Give each item a colour, in their order."""
    return [(item, PALETTE[i % len(PALETTE)]) for i, item in enumerate(series.items())]
