"""The pictures of a report, as plotly figures in plain data (schema: plotly.js ``Plotly.newPlot``).

Colours are names of the page's CSS variables (``--series-1``), put in by the page, so that one figure serves light
and dark. Every text that comes from the run is escaped, because plotly reads a subset of HTML in texts.
"""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from orchestrator.measurements import Latency, Measurements, Phase, Series
from orchestrator.report.summary import number, percentiles

Figure = dict[str, Any]

POINTS = 1_200
"""Most points of a line: a day-long run must not make a page of a hundred megabytes."""
MARKED = 60
"""Up to so many readings of a scenario, each is marked: they come when it looks, not once a second."""
PALETTE = ("--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6")
CURVE_STEPS = 24
"""Points for each factor of ten of a percentile curve."""
LABEL_WIDTH = 0.008
"""Width of a letter in a label, as a share of a picture's width."""
MINUTES_FROM_S = 1_800
"""Longer runs are shown in minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One picture, and the same in words and figures for whoever cannot see it."""

    id: str
    title: str
    says: str
    """What it shows, in a sentence."""
    figure: Figure
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Axis:
    """The one time axis of a run."""

    t0: float
    end: float
    unit: str
    width_s: float

    def x(self, t: float) -> float:
        """Return where a Unix time lies on the axis."""
        return round((t - self.t0) / self.width_s, 3)


def charts(measured: Measurements) -> list[Chart]:
    """Draw what was measured; a picture without data is left out."""
    axis = _axis(measured)
    drawn = [draw(measured, axis) for draw in (throughput, queue, cpu, memory)] if axis else []
    drawn += [reading(measured, axis, name) for name in measured.readings] if axis else []
    return [chart for chart in [*drawn, latency(measured), hops(measured)] if chart]


def throughput(measured: Measurements, axis: Axis) -> Chart | None:
    """Draw messages a second: offered, accepted, delivered."""
    series = {name: measured.ticks_per_s(name) for name in ("offered", "accepted", "delivered")}
    if not any(series.values()):
        return None
    calibrations = [p for p in measured.phases if p.name.startswith("calibration")]
    ordinary = [
        v for s in series.values() for t, v in zip(s.t, s.values, strict=True)
        if v is not None and not any(p.start <= t <= (p.end or axis.end) + 1.5 for p in calibrations)
    ]  # fmt: skip
    figure = _over_time(axis, measured.phases, "messages per second", top=max(ordinary, default=None))
    dashes = {"offered": "dot", "accepted": "solid", "delivered": "solid"}
    figure["data"] = [
        _line(
            axis,
            name,
            _below(points, 1.18 * max(ordinary, default=math.inf)),
            colour,
            dash=dashes[name],
            hover="%{y:,.0f}/s",
        )
        for (name, points), colour in zip(series.items(), ("--muted", "--series-2", "--series-1"), strict=True)
    ]
    figure["layout"]["annotations"] = _labels(measured, axis)
    head, rows = _by_phase(measured, series, _mean, "mean, messages per second")
    rates = [rate for load in measured.subjects if (rate := measured.delivered_per_s(load))]
    says = ""
    if rates:
        span = number(rates[0]) if len(rates) == 1 else f"From {number(min(rates))} to {number(max(rates))}"
        says = f"{span} messages a second were delivered on average, the drain included."
    if ceiling := _ceiling(measured):
        says += f" Straight into the sink the instrument reached {number(ceiling)} a second."
    return Chart(id="throughput", title="Throughput", says=says.strip(), figure=figure, head=head, rows=rows)


def queue(measured: Measurements, axis: Axis) -> Chart | None:
    """Draw the length of the relay's queue."""
    if not measured.hops or not measured.hops.queue:
        return None
    series = {"queue": measured.hops.queue}
    figure = _over_time(axis, measured.phases, "messages", top=_top(series))
    line = _line(axis, "in the queue", measured.hops.queue, "--series-1", hover="%{y:,.0f} messages", pick=max)
    line["line"]["shape"] = "hv"
    figure["data"] = [line | {"fill": "tozeroy", "fillcolor": "--series-1-wash"}]
    figure["layout"]["showlegend"] = False
    head, rows = _by_phase(measured, series, max, "longest, messages")
    longest = max((v for v in measured.hops.queue.values if v is not None), default=0)
    left = measured.hops.queue.values[-1]
    return Chart(
        id="queue",
        title="Messages in the relay",
        says=f"At most {number(longest)} messages waited in the relay; {number(left)} at the end.",
        figure=figure,
        head=head,
        rows=rows,
    )


def cpu(measured: Measurements, axis: Axis) -> Chart | None:
    """Draw the CPU cores in use, node upon node, and how many cores there are."""
    series = _aligned({node: measured.cores(node) for node in measured.nodes})
    if not any(series.values()):
        return None
    available = (measured.environment.get("engine") or {}).get("cpus")
    top = max((sum(v or 0 for v in values) for values in _columns(series)), default=0.0)
    figure = _over_time(axis, measured.phases, "CPU cores", top=max(top, float(available or 0)))
    figure["data"] = [
        _line(axis, node, points, colour, hover="%{y:.2f} cores")
        | {"mode": "lines", "stackgroup": "cores", "fillcolor": f"{colour}-wash", "line": {"color": colour, "width": 1}}
        for (node, points), colour in _coloured(series)
    ]
    if isinstance(available, int | float):
        figure["layout"]["shapes"].append(
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": available, "y1": available,
             "line": {"color": "--ink", "width": 1, "dash": "dash"}}
        )  # fmt: skip
        figure["layout"]["annotations"].append(
            _note(
                f"the machine has {available:g}",
                x=1,
                y=available,
                xref="paper",
                yref="y",
                xanchor="right",
                yanchor="bottom",
            )
        )
    head, rows = _by_phase(measured, series, _mean, "mean, cores")
    span = measured.span(measured.subject) if measured.subject else None
    when = "under load" if span else "over the whole run"
    span = span or Phase(name="run", start=axis.t0, end=axis.end)
    uses = [use for node in measured.nodes if (use := measured.use(node, span))]
    busiest = max(uses, key=lambda use: use.cores, default=None)
    says = f"{busiest.node} used most: {number(busiest.cores)} cores on average {when}." if busiest else ""
    return Chart(id="cpu", title="CPU by node", says=says, figure=figure, head=head, rows=rows)


def memory(measured: Measurements, axis: Axis) -> Chart | None:
    """Draw the memory of every node, without the file cache."""
    gauges = {node: measured.gauge(node, "memory_b") for node in measured.nodes}
    series = {n: Series(s.t, [None if v is None else v / 1e6 for v in s.values]) for n, s in gauges.items()}
    if not any(series.values()):
        return None
    figure = _over_time(axis, measured.phases, "MB", top=_top(series))
    figure["data"] = [
        _line(axis, node, points, colour, hover="%{y:,.0f} MB", pick=max)
        for (node, points), colour in _coloured(series)
    ]
    head, rows = _by_phase(measured, series, max, "peak, MB")
    peaks = {n: max((v for v in s.values if v is not None), default=0.0) for n, s in series.items()}
    largest = max(peaks, key=lambda n: peaks[n])
    says = f"{largest} used most: {number(peaks[largest])} MB at its peak."
    return Chart(id="memory", title="Memory by node", says=says, figure=figure, head=head, rows=rows)


def reading(measured: Measurements, axis: Axis, name: str) -> Chart:
    """Draw what the scenario itself read off the bed as it went."""
    series = measured.readings[name]
    figure = _over_time(axis, measured.phases, name, top=_top(series))
    figure["data"] = [
        _line(axis, label, points, colour, hover="%{y:,.0f}", pick=max)
        | ({"mode": "lines+markers"} if len(points.t) <= MARKED else {})
        for (label, points), colour in _coloured(series)
    ]
    figure["layout"]["annotations"] = _labels(measured, axis)
    head, rows = _by_phase(measured, series, max, "most")
    peaks = {label: max((v for v in s.values if v is not None), default=0.0) for label, s in series.items()}
    says = "; ".join(f"{label}: {number(peak)} at most" for label, peak in peaks.items())
    chart_id = "reading-" + "".join(c if c.isalnum() else "-" for c in name)
    return Chart(id=chart_id, title=name.capitalize(), says=f"{says}.", figure=figure, head=head, rows=rows)


def latency(measured: Measurements) -> Chart | None:
    """Draw the latencies of the subject by percentile."""
    names = {
        "response": "response: due to accepted",
        "service": "service: sent to accepted",
        "transit": "transit: sent to delivered",
    }
    found = measured.latency(measured.subject) if measured.subject else {}
    curves = {label: found[name] for name, label in names.items() if name in found}
    says = ""
    if "transit" in found:
        says = f"Half of the messages were delivered within {number(found['transit'].at(50), 1e3)} ms of being sent, "
        says += f"99 % within {number(found['transit'].at(99), 1e3)} ms."
    return _percentile_chart("latency", "Latency by percentile", says, curves)


def hops(measured: Measurements) -> Chart | None:
    """Draw where in the relay the time goes."""
    curves = measured.hops.latency if measured.hops else {}
    longest = max(curves, key=lambda n: curves[n].mean, default=None)
    says = f"On average the longest part is: {longest}." if longest else ""
    return _percentile_chart("hops", "Inside the relay, by percentile", says, curves)


def _axis(measured: Measurements) -> Axis | None:
    times = [t for node in measured.nodes for t in measured.cores(node).t]
    times += [t for counter in ("offered", "delivered") for t in measured.ticks_per_s(counter).t]
    times += [t for lines in measured.readings.values() for points in lines.values() for t in points.t]
    times += [p.start for p in measured.phases] + [p.end for p in measured.phases if p.end]
    if len(times) < 2:
        return None
    minutes = max(times) - min(times) > MINUTES_FROM_S
    return Axis(min(times), max(times), "minutes" if minutes else "seconds", 60.0 if minutes else 1.0)


def _base() -> Figure:
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
            "xaxis": {**tick, "showgrid": False, "ticks": "outside"},
            "yaxis": {**tick, "rangemode": "tozero"},
            "shapes": [],
            "annotations": [],
            "dragmode": False,
        },
    }


def _over_time(axis: Axis, phases: Iterable[Phase], unit: str, top: float | None) -> Figure:
    """Start a figure over the common time axis, with the phases shaded."""
    figure = _base()
    layout = figure["layout"]
    layout["xaxis"] |= {
        "range": [0, axis.x(axis.end)],
        "title": {"text": f"{axis.unit} since the start", "standoff": 8, "font": {"size": 12}},
    }
    layout["yaxis"] |= {"title": {"text": html.escape(unit), "standoff": 6, "font": {"size": 12}}}
    if top:
        layout["yaxis"] |= {"range": [0, top * 1.18], "rangemode": "normal"}
    layout["shapes"] = [
        {"type": "rect", "layer": "below", "yref": "paper", "y0": 0, "y1": 1, "x0": axis.x(p.start),
         "x1": axis.x(p.end or axis.end), "line": {"color": "--card", "width": 1},
         "fillcolor": "--calibration" if p.name.startswith("calibration") else "--phase"}
        for p in phases if p.name != "drain"
    ]  # fmt: skip
    return figure


def _labels(measured: Measurements, axis: Axis) -> list[Figure]:
    """Name the phases along the top, as far as there is room.

    Calibrations share a label, a row lower, because they are short.
    """
    first = {"calibration" if p.name.startswith("calibration") else p.name: p for p in reversed(measured.phases)}
    labels = []
    taken = -math.inf
    for name, phase in sorted(first.items(), key=lambda item: item[1].start):
        width = len(name) * LABEL_WIDTH * axis.x(axis.end)
        at_end = axis.x(phase.start) + width > axis.x(axis.end)
        left = axis.x(axis.end) - width if at_end else axis.x(phase.start)
        if name != "calibration":
            if left < taken:
                continue
            taken = left + width
        place = {"x": axis.x(axis.end) if at_end else left, "xanchor": "right" if at_end else "left"}
        labels.append(_note(html.escape(name), y=1, yshift=-14 if name == "calibration" else 0, **place))
    return labels


def _ceiling(measured: Measurements) -> float:
    rates = (measured.accepted_per_s(c) or measured.delivered_per_s(c) or 0.0 for c in measured.calibrations)
    return max(rates, default=0.0)


def _note(text: str, **place: Any) -> Figure:
    return {
        "text": text,
        "showarrow": False,
        "yref": "paper",
        "yanchor": "top",
        "font": {"size": 11},
        "xshift": 2,
        **place,
    }


def _line(
    axis: Axis,
    name: str,
    points: Series,
    colour: str,
    *,
    hover: str,
    dash: str = "solid",
    pick: Callable[..., float] | None = None,
) -> Figure:
    """Draw a line, thinned to what a screen can show: each step its mean, or what ``pick`` takes of it."""
    t, values = _thin(points, pick or _mean)
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


def _below(points: Series, top: float) -> Series:
    """Leave out what is off the scale: calibrations run at many times the rate of a relay."""
    return Series(points.t, [v if v is None or v <= top else None for v in points.values])


def _thin(points: Series, pick: Callable[..., float]) -> tuple[list[float], list[float | None]]:
    step = math.ceil(len(points.t) / POINTS) or 1
    t, values = [], []
    for i in range(0, len(points.t), step):
        known = [v for v in points.values[i : i + step] if v is not None]
        t.append(points.t[i])
        values.append(pick(known) if known else None)
    return t, values


def _percentile_chart(name: str, title: str, says: str, curves: Mapping[str, Latency]) -> Chart | None:
    if not curves:
        return None
    figure = _base()
    layout = figure["layout"]
    for (label, curve), colour in _coloured(curves):
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
        "title": {"text": "share of messages at or below", "standoff": 8, "font": {"size": 12}},
        "showgrid": True, "tickangle": 0,
    }  # fmt: skip
    layout["yaxis"] |= {
        "type": "log",
        "title": {"text": "milliseconds", "standoff": 6, "font": {"size": 12}},
        "dtick": 1,
        "tickformat": "~r",
        "range": _decades(curves.values()),
    }
    rows = []
    for label, curve in curves.items():
        p = percentiles(curve)
        rows.append([label, f"{p['count']:,}", *(number(p[k]) for k in ("p50", "p90", "p99", "p99_9", "max"))])
    head = ["milliseconds", "messages", "50 %", "90 %", "99 %", "99.9 %", "longest"]
    return Chart(id=name, title=title, says=says, figure=figure, head=head, rows=rows)


def _decades(curves: Iterable[Latency]) -> list[float]:
    """Return whole powers of ten, in milliseconds, around all but the fastest tenth, which says little."""
    known = [(curve.at(10) * 1e3, curve.max * 1e3) for curve in curves]
    return [math.floor(math.log10(min(low for low, _ in known))), math.ceil(math.log10(max(top for _, top in known)))]


def _by_phase(
    measured: Measurements, series: Mapping[str, Series], pick: Callable[..., float], what: str
) -> tuple[list[str], list[list[str]]]:
    """Make the table beside a chart: a row for each phase, a column for each line."""
    rows = []
    for phase in measured.phases:
        end = phase.end or math.inf
        row = [phase.name]
        for points in series.values():
            inside = [
                v for t, v in zip(points.t, points.values, strict=True) if phase.start <= t <= end and v is not None
            ]
            row.append(number(pick(inside) if inside else None))
        rows.append(row)
    return [what, *series], rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _top(series: Mapping[str, Series]) -> float | None:
    return max((v for s in series.values() for v in s.values if v is not None), default=None)


def _aligned(series: Mapping[str, Series]) -> dict[str, Series]:
    """Put series on the times of the longest one: lines are only stacked where all have a point."""
    grid = max(series.values(), key=lambda s: len(s.t), default=Series([], [])).t
    return {name: Series(grid, [points.at(t) for t in grid]) for name, points in series.items()}


def _columns(series: Mapping[str, Series]) -> Iterable[tuple[float | None, ...]]:
    return zip(*(s.values for s in series.values() if s), strict=False)


def _coloured(series: Mapping[str, Any]) -> list[tuple[tuple[str, Any], str]]:
    return [(item, PALETTE[i % len(PALETTE)]) for i, item in enumerate(series.items())]
