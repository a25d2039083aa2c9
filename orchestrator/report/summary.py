"""Summary of a run as plain data, for ``--format json``, the terminal and report.html."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from orchestrator.measurements import Latency, Measurements
from orchestrator.services import Purpose

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}

RunFigures = dict[str, Any]


def summarize(measured: Measurements) -> RunFigures:
    """Return the figures of a run as plain data; an unmeasured figure is ``None`` or absent.

    ::

        run, report        paths; report is None if it does not exist
        scenario, question, status, version, command, params, environment, phases, steps, error: as in run.json
        verdict            outcome, headline, claim, reason, marks, figures, evidence; or None
        subject            name of the load under measurement; None if there are several, or none
        throughput         load -> {accepted_per_s, accepted_per_min, delivered_per_s, delivered_per_min}
        latency_ms         load -> {response, service, transit, age, connect} -> percentiles
        hops_ms            hop of the relay -> percentiles
        statuses           delivery attempts of the relay by outcome
        troubles           errors in the relay's log: [{reason, count, example}], the most frequent first
        nodes              node -> {cpu_s, cpu_cores, cpu_ms_per_message, memory_b, throttled_s}, in load and drain
        accounting         load -> {offered, accepted, ..., delivered, lost, lost_examples, duplicated, ...}
        connections        load -> cause -> number of the load generator's connections that failed
        faults             incomplete recordings, unreadable files, figures that could not be computed

    Percentiles are {count, mean, p50, p90, p99, p99_9, max} in milliseconds.
    """
    facts = measured.facts
    subject = measured.subject
    report = measured.rundir.path / "report.html"
    loads = [*measured.sent(Purpose.MEASURE), *measured.sent(Purpose.CALIBRATE)]
    faults: list[str] = []
    latencies = {load: tried(faults, f"latency of {load}", partial(measured.latency, load)) or {} for load in loads}
    summary: RunFigures = {
        "run": str(measured.rundir.path),
        "report": str(report) if report.is_file() else None,
        **{key: facts.get(key) for key in ("scenario", "question", "status", "version", "command")},
        "verdict": facts.get("verdict"),
        "error": facts.get("error"),
        "subject": subject,
        "throughput": tried(faults, "throughput", lambda: {load: _throughput(measured, load) for load in loads}) or {},
        "latency_ms": {load: {n: percentiles(v) for n, v in kinds.items()} for load, kinds in latencies.items()},
        "hops_ms": {n: percentiles(v) for n, v in measured.hops.latency.items()} if measured.hops else {},
        "statuses": dict(measured.hops.statuses) if measured.hops else {},
        "troubles": [asdict(trouble) for trouble in measured.hops.troubles] if measured.hops else [],
        "nodes": (tried(faults, "nodes", partial(_nodes, measured, subject)) if subject else None) or {},
        "accounting": {load: tried(faults, f"account of {load}", partial(_account, measured, load)) for load in loads},
        "connections": {
            name: causes
            for name in loads
            if (load := measured.loads.get(name)) and (causes := load.connect_failed | load.goodbye_failed)
        },
        "params": measured.params,
        "environment": measured.environment,
        "phases": facts.get("phases") or [],
        "steps": facts.get("steps") or [],
    }
    marked = (summary["verdict"] or {}).get("marks") or ()
    unread = [mark for mark in measured.rundir.left_out_marks if mark not in marked]
    return summary | {"faults": [*measured.faults, *unread, *faults]}


T = TypeVar("T")


def tried(faults: list[str], what: str, make: Callable[[], T]) -> T | None:
    """Return the result of ``make``; if it raises, return None and add the reason to ``faults``."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - a failed figure must not hide the others, or the verdict
        faults.append(f"{what}: {type(error).__name__}: {error}")
        return None


def percentiles(latency: Latency) -> dict[str, float]:
    """Return count, and mean, percentiles and maximum in milliseconds."""
    at = zip(PERCENTILES, map(latency.at, PERCENTILES.values()), strict=True)
    values = {"mean": latency.mean, **dict(at), "max": latency.max}
    return {"count": latency.count, **{name: round(value * 1e3, 3) for name, value in values.items()}}


def _throughput(measured: Measurements, load: str) -> dict[str, float | None]:
    rates = {"accepted": measured.accepted_per_s(load), "delivered": measured.delivered_per_s(load)}
    return {
        f"{name}_per_{unit}": None if rate is None else round(rate * factor, 2)
        for name, rate in rates.items()
        for unit, factor in (("s", 1), ("min", 60))
    }


FATES = (
    "offered", "accepted", "refused", "unresolved", "delivered", "lost", "duplicated", "corrupted", "misrouted",
    "outside", "unaccepted", "foreign",
)  # fmt: skip
_ALWAYS = {"offered", "accepted", "delivered", "lost", "duplicated", "corrupted"}


def fates(accounts: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """Return the columns of an accounting table: the usual fates of messages, and any other with a count above 0."""
    known = [account for account in accounts if account]
    return [fate for fate in FATES if fate in _ALWAYS or any(account[fate] for account in known)]


def _account(measured: Measurements, load: str) -> dict[str, Any] | None:
    accounting = measured.accounting(load)
    return asdict(accounting) if accounting else None


def _nodes(measured: Measurements, subject: str) -> dict[str, dict[str, float | None]]:
    span = measured.span(subject)
    uses = [measured.use(node, span) for node in measured.nodes] if span else []
    sink = measured.sinks.get(subject)
    delivered = sink.delivered if sink else 0
    return {
        use.node: {
            "cpu_s": round(use.cpu_s, 3),
            "cpu_cores": round(use.cores, 3),
            "cpu_ms_per_message": round(use.cpu_s * 1e3 / delivered, 3) if delivered else None,
            "memory_b": use.memory_b,
            "throttled_s": use.throttled_s,
        }
        for use in uses
        if use
    }


FIGURE_UNITS = {
    "_per_s": ("per second", 1.0),
    "_per_minute": ("per minute", 1.0),
    "_per_cpu_s": ("per CPU second", 1.0),
    "_ms_per_message": ("ms per message", 1.0),
    "_ms": ("ms", 1.0),
    "_s": ("s", 1.0),
    "_mb": ("MB", 1.0),
    "_b": ("MB", 1e-6),
}
"""Suffix of a figure's name -> (unit in words, factor that converts to it); the first match counts."""


def figure(name: str, value: float | None) -> tuple[str, str, str]:
    """Return a figure of a verdict as text: (name without the unit, value, unit).

    >>> figure("relay_messages_per_s", 451.3)
    ('relay messages', '451', 'per second')
    """
    end, (unit, factor) = next(((e, u) for e, u in FIGURE_UNITS.items() if name.endswith(e)), ("", ("", 1.0)))
    if name.startswith("share_") or name.endswith("_share"):
        unit, factor = "%", 100.0
    return name.removesuffix(end).replace("_", " ").replace("cpu", "CPU"), number(value, factor), unit


def number(value: float | None, factor: float = 1.0) -> str:
    """Format a number: three significant digits (integers: all), commas for thousands; None as ``not measured``."""
    if value is None:
        return "not measured"
    if value == 0 or (isinstance(value, int) and factor == 1):
        return f"{value:,.0f}"
    value *= factor
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{places}f}"


def best_figure(verdict: Mapping[str, Any] | None) -> tuple[str, str, str] | None:
    """Return the first measured figure of a verdict as text; None without one, or if the verdict is INCONCLUSIVE."""
    if verdict and verdict.get("outcome") == "INCONCLUSIVE":
        return None
    figures = (verdict or {}).get("figures") or {}
    return next((figure(name, value) for name, value in figures.items() if value is not None), None)
