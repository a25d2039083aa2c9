"""Summary of a run as plain data, for ``--format json``, the terminal and report.html."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from orchestrator.measurements import Latency, Measurements, run_json
from orchestrator.measurements.rundir import RunDir
from orchestrator.services import Purpose

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}

RunFigures = dict[str, Any]


def summarize(measured: Measurements) -> RunFigures:
    """Return the figures of a run as plain data; an unmeasured figure is ``None`` or absent.

    ::

        run, report        paths; report is None if there is no report.html
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


def tried(faults: list[str], part: str, make: Callable[[], T]) -> T | None:
    """Return the result of ``make``; if it raises, return None and add the reason to ``faults``."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - a failed figure must not hide the others, or the verdict
        faults.append(f"{part}: {type(error).__name__}: {error}")
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


def summarize_run(rundir: RunDir) -> RunFigures:
    """Return the figures of a run directory as ``summarize`` does."""
    return summarize(Measurements.read(rundir))


def in_brief(rundir: RunDir) -> dict[str, Any]:
    """Return path, scenario, status, outcome and figures of a run; outcome and figures are None without a verdict."""
    known = run_json.read(rundir)
    verdict = known.get("verdict") or {}
    return {
        "run": str(rundir.path),
        **{key: known.get(key) for key in ("scenario", "status")},
        **{key: verdict.get(key) for key in ("outcome", "figures")},
    }
