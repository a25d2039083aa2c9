"""Charts of a report, each with a sentence and a table of its figures; charts without data are left out."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from statistics import fmean

from orchestrator.measurements import Latency, Measurements, Phase, Series
from orchestrator.measurements.verdict import Cell, Table
from orchestrator.report import drawing
from orchestrator.report.drawing import Axis, Picture
from orchestrator.report.figures import number
from orchestrator.report.summary import PERCENTILES, percentiles
from orchestrator.services import Purpose

MARKED = 60
"""A line of at most this many readings has a circle at each, because a scenario takes readings at irregular times."""
MINUTES_FROM_S = 1_800
"""The time axis is in minutes if the run took longer than this, in seconds."""
ABOVE = 1.2
"""The throughput chart leaves out a calibration whose rate is above this multiple of the highest other rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart, with its content in words and figures for readers who cannot see charts."""

    id: str
    says: str
    """The finding, in one sentence."""
    picture: Picture
    table: Table
    """The chart's figures; chart and table have the same title."""


def charts(measured: Measurements) -> list[Chart]:
    """Return all charts that have data."""
    axis = _axis(measured)
    drawn = [draw(measured, axis) for draw in (throughput, queue, cpu, memory)] if axis else []
    drawn += [reading(measured, axis, name) for name in measured.readings] if axis else []
    return [chart for chart in [*drawn, latency(measured), hops(measured)] if chart]


def throughput(measured: Measurements, axis: Axis) -> Chart | None:
    """Draw the rates of messages offered, accepted and delivered."""
    series = {name: measured.ticks_per_s(name) for name in ("offered", "accepted", "delivered")}
    if not any(series.values()):
        return None
    calibrations = [p for p in measured.phases if p.purpose == Purpose.CALIBRATE]
    ordinary = [
        v for s in series.values() for t, v in zip(s.t, s.values, strict=True)
        if v is not None and not any(p.start <= t <= (p.end or axis.end) + 1.5 for p in calibrations)
    ]  # fmt: skip
    top = ABOVE * max(ordinary, default=math.inf)
    lines = []
    for (name, points), colour in zip(series.items(), ("--muted", "--series-2", "--series-1"), strict=True):
        values = [v if v is None or v <= top else None for v in points.values]
        lines.append(drawing.line(axis, name, Series(points.t, values), colour, dashed=name == "offered"))
    rates = [rate for load in measured.sent(Purpose.MEASURE) if (rate := measured.delivered_per_s(load))]
    says = ""
    if rates:
        span = number(rates[0]) if len(rates) == 1 else f"From {number(min(rates))} to {number(max(rates))}"
        says = f"{span} messages a second were delivered on average, the drain included."
    calibrated = measured.sent(Purpose.CALIBRATE)
    ceiling = max((measured.accepted_per_s(c) or measured.delivered_per_s(c) or 0.0 for c in calibrated), default=0.0)
    if ceiling:
        says += f" Straight to the sink, the load generator reached {number(ceiling)} a second."
    return Chart(
        id="throughput",
        says=says.strip(),
        picture=drawing.over_time(axis, "messages per second", lines),
        table=_by_phase(measured, "Throughput", series, fmean, "mean, messages per second"),
    )


def queue(measured: Measurements, axis: Axis) -> Chart | None:
    """Draw the length of the relay's queue."""
    if not measured.hops or not (length := measured.hops.queued):
        return None
    line = drawing.line(axis, "in the queue", length, drawing.PALETTE[0], pick=max, stepped=True, filled=True)
    longest, left = max(length.known, default=0), length.values[-1]
    return Chart(
        id="queue",
        says=f"At most {number(longest)} messages waited in the relay; {number(left)} at the end.",
        picture=drawing.over_time(axis, "messages", [line]),
        table=_by_phase(measured, "Messages in the relay", {"queue": length}, max, "longest, messages"),
    )


def cpu(measured: Measurements, axis: Axis) -> Chart | None:
    """Draw the CPU cores in use by each node and by all, and the number of cores of the machine."""
    series = {node: measured.cores(node) for node in measured.nodes}
    if not any(series.values()):
        return None
    times = max(series.values(), key=lambda points: len(points.t)).t
    sums = Series(times, [sum(points.at(t) or 0.0 for points in series.values()) for t in times])
    total = drawing.line(axis, "all nodes", sums, "--muted", filled=True)
    available = (measured.environment.get("engine") or {}).get("cpus")
    level = {"at": available, "text": f"the machine has {available:g}"} if isinstance(available, int | float) else None
    span = measured.span(measured.subject) if measured.subject else None
    when = "under load" if span else "over the whole run"
    span = span or Phase(name="run", start=axis.t0, end=axis.end)
    uses = [use for node in measured.nodes if (use := measured.use(node, span))]
    busiest = max(uses, key=lambda use: use.cores, default=None)
    says = f"{busiest.node} used the most: {number(busiest.cores)} cores on average {when}." if busiest else ""
    return Chart(
        id="cpu",
        says=says,
        picture=drawing.over_time(axis, "CPU cores", [total, *_lines(axis, series, fmean)], level=level),
        table=_by_phase(measured, "CPU by node", series, fmean, "mean, cores"),
    )


def memory(measured: Measurements, axis: Axis) -> Chart | None:
    """Draw the memory of every node, without the file cache."""
    gauges = {node: measured.gauge(node, "memory_b") for node in measured.nodes}
    series = {n: Series(s.t, [None if v is None else v / 1e6 for v in s.values]) for n, s in gauges.items()}
    if not any(series.values()):
        return None
    peaks = {n: max(s.known, default=0.0) for n, s in series.items()}
    largest = max(peaks, key=lambda n: peaks[n])
    return Chart(
        id="memory",
        says=f"{largest} used the most: {number(peaks[largest])} MB at its peak.",
        picture=drawing.over_time(axis, "MB", _lines(axis, series, max)),
        table=_by_phase(measured, "Memory by node", series, max, "peak, MB"),
    )


def reading(measured: Measurements, axis: Axis, name: str) -> Chart:
    """Draw the scenario's own readings of one quantity."""
    series = measured.readings[name]
    lines = _lines(axis, series, max)
    for line in lines:
        line["marked"] |= len(line["x"]) <= MARKED
    peaks = {label: max(points.known, default=0.0) for label, points in series.items()}
    says = "; ".join(f"{label}: {number(peak)} at most" for label, peak in peaks.items())
    return Chart(
        id="reading-" + "".join(c if c.isalnum() else "-" for c in name),
        says=f"{says}.",
        picture=drawing.over_time(axis, name, lines),
        table=_by_phase(measured, name.capitalize(), series, max, "most"),
    )


def latency(measured: Measurements) -> Chart | None:
    """Draw the latencies of the load under measurement by percentile."""
    names = {
        "response": "response: due to accepted",
        "service": "service: sent to accepted",
        "transit": "transit: sent to delivered",
    }
    latencies = measured.latency(measured.subject) if measured.subject else {}
    curves = {label: latencies[name] for name, label in names.items() if name in latencies}
    says = ""
    if transit := latencies.get("transit"):
        says = f"Half of the messages were delivered within {number(transit.at(50), 1e3)} ms of being sent, "
        says += f"99 % within {number(transit.at(99), 1e3)} ms."
    return _percentile_chart("latency", "Latency by percentile", says, curves)


def hops(measured: Measurements) -> Chart | None:
    """Draw the time that messages spent in each hop of the relay."""
    curves = measured.hops.latency if measured.hops else {}
    longest = max(curves, key=lambda n: curves[n].mean, default=None)
    says = f"The longest hop on average: {longest}." if longest else ""
    return _percentile_chart("hops", "Inside the relay, by percentile", says, curves)


def _axis(measured: Measurements) -> Axis | None:
    times = [t for node in measured.nodes for t in measured.gauge(node, "memory_b").t]
    times += [t for counter in ("offered", "delivered") for t in measured.ticks_per_s(counter).t]
    times += [t for lines in measured.readings.values() for points in lines.values() for t in points.t]
    times += [p.start for p in measured.phases] + [p.end for p in measured.phases if p.end]
    if len(times) < 2:
        return None
    minutes = max(times) - min(times) > MINUTES_FROM_S
    return Axis(min(times), max(times), "minutes" if minutes else "seconds", 60.0 if minutes else 1.0, measured.phases)


def _percentile_chart(name: str, title: str, says: str, curves: Mapping[str, Latency]) -> Chart | None:
    if not curves:
        return None
    columns = ("milliseconds", "messages", "50 %", "90 %", "99 %", "99.9 %", "longest")
    rows: list[list[Cell]] = []
    for label, curve in curves.items():
        figures = percentiles(curve)
        rows.append([label, *(figures[key] for key in ("count", *PERCENTILES, "max"))])
    table = Table(title=title, columns=columns, rows=rows)
    return Chart(id=name, says=says, picture=drawing.over_percentiles(curves), table=table)


def _by_phase(
    measured: Measurements, title: str, series: Mapping[str, Series], pick: Callable[..., float], heading: str
) -> Table:
    """Return the table of a chart: a row for each phase, a column for each line."""
    rows = []
    for phase in measured.phases:
        end = phase.end or math.inf
        row: list[Cell] = [phase.name]
        for points in series.values():
            inside = [
                v for t, v in zip(points.t, points.values, strict=True) if phase.start <= t <= end and v is not None
            ]
            row.append(pick(inside) if inside else None)
        rows.append(row)
    return Table(title=title, columns=(heading, *series), rows=rows)


def _lines(axis: Axis, series: Mapping[str, Series], pick: Callable[..., float]) -> list[Picture]:
    coloured = zip(series.items(), cycle(drawing.PALETTE), strict=False)
    return [drawing.line(axis, name, points, colour, pick=pick) for (name, points), colour in coloured]
