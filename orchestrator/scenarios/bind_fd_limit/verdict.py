"""judge(), its evidence, figures and tables: was the limit exceeded as reported, and does the fix avoid that?"""

from dataclasses import replace

from orchestrator.measurements import Measurements
from orchestrator.measurements.verdict import Cell, Evidence, Outcome, Quote, Table, Verdict
from orchestrator.report.figures import number
from orchestrator.scenarios.bind_fd_limit.named import (
    ADDRESSES,
    FIXED,
    FULL_WORKERS,
    REPORTED,
    Named,
    Params,
    files_of_named,
    servers,
)
from orchestrator.scenarios.bind_fd_limit.readings import ABORT, OVER, RNDC_REFUSED, SIGNATURES, ServerReadings

TOLERANCE, TOLERANCE_FILES = 0.02, 2
"""Relative and absolute (files) tolerance of a prediction; the larger one counts."""


def judge(measured: Measurements, params: Params) -> Verdict:
    """Judge one run: was the limit exceeded as reported, and does the fix avoid that?"""
    readings = {name: ServerReadings.read(measured, name, named) for name, named in servers(params).items()}
    reported, fixed = readings[REPORTED], readings.get(FIXED)
    outcome, reason = _outcome(reported, fixed, params.fix)
    return Verdict(
        outcome=outcome,
        claim=f"BIND {reported.version or ''} ({reported.setup.release}) with {reported.setup} runs over its limit"
        + (", and then refuses to shut down" if reported.refused or not reported.over else "")
        + (f"; the fix {params.fix} keeps clear of it." if params.fix else "."),
        reason=reason,
        evidence=(*_as_reported(reported), *(_with_fix(fixed) if fixed else ())),
        marks=tuple(_marks(reported.setup, params)),
        figures=_figures(reported, fixed),
        tables=(
            Table.across(
                "named as reported" + (", and with the fix" if fixed else ""),
                {node: _facts(server) for node, server in readings.items()},
            ),
            Table.across(
                "Lines in the logs",
                {node: {name: len(server.lines[name]) for name in SIGNATURES} for node, server in readings.items()},
                "line",
            ),
        ),
        quotes=tuple(
            Quote(source=f"log of {server.node}", t=lines[0][0], text=lines[0][1])
            for server in readings.values()
            for lines in server.lines.values()
            if lines
        ),
    )


def _outcome(reported: ServerReadings, fixed: ServerReadings | None, fix: str | None) -> tuple[Outcome, str]:
    if reported.over is None:
        return Outcome.INCONCLUSIVE, "No outgoing socket of named was observed, so its limit was not tested."
    files = f"With {number(reported.counts.open_files)} open files it"
    if not reported.over:
        briefly = "met its limit only while several outgoing sockets were open at once"
        how = briefly if reported.lines[OVER] else "was refused no outgoing socket"
        return Outcome.REFUTED, f"{files} {how}; {reported.end}."
    shown = f"{files} is over its limit; {reported.end}."
    if reported.ended is not None:
        needed, allowed = reported.setup.open_files, reported.setup.nofile
        shown = f"It needs {needed:,} open files, and may have {allowed:,}: {reported.end}."
    if fixed is None:
        return Outcome.CONFIRMED, shown
    if fixed.over is None or fixed.refused is None:
        return Outcome.INCONCLUSIVE, f"{shown} The fix {fix} was not tested to the end; {fixed.end}."
    outcome = Outcome.REFUTED if fixed.over or fixed.lines[OVER] or fixed.refused else Outcome.CONFIRMED
    return outcome, f"{shown} With the fix {fix} it has {number(fixed.counts.open_files)}; {fixed.end}."


def _as_reported(server: ServerReadings) -> tuple[Evidence, ...]:
    node, log, sockets = server.node, f"logs/{server.node}.log.gz", server.counts.sockets
    lines = server.lines[ABORT] if server.ended is not None else server.lines[OVER]
    turned_away = None if server.stop is None else len(server.lines[RNDC_REFUSED])
    listening = 2 * server.setup.workers
    return (
        Evidence.some(f"lines on the limit in the log of {node}", None if server.over is None else len(lines), log),
        Evidence.some(f"{node} is over its limit even when idle: rndc is turned away", turned_away, log, of=" lines"),
        _shutdown(f"{node} refuses to shut down", server, "still there after rndc stop and SIGTERM", refused=True),
        _predicted(server),
        Evidence.of(
            f"sockets for each address of {node}",
            sockets / server.counts.addresses if sockets is not None and server.counts.addresses else None,
            f"{listening}: UDP and TCP, {server.setup.workers} workers",
            lambda each: each == listening,
            f"results/{node}-open.json",
            "{:,g}",
        ),
    )


def _with_fix(server: ServerReadings) -> tuple[Evidence, ...]:
    lines, log = None if server.over is None else len(server.lines[OVER]), f"logs/{server.node}.log.gz"
    return (
        Evidence.none("lines on the limit with the fix", lines, log),
        _shutdown("with the fix it shuts down", server, "ended", refused=False),
        _predicted(server),
    )


def _shutdown(fact: str, server: ServerReadings, needed: str, *, refused: bool) -> Evidence:
    holds = None if server.refused is None else server.refused is refused
    return Evidence(fact=fact, found=server.end, needed=needed, holds=holds, source=f"results/{server.node}-stop.json")


def _predicted(server: ServerReadings) -> Evidence:
    predicted = server.setup.open_files
    return Evidence.of(
        f"open files of {server.node}",
        server.counts.open_files,
        f"within {TOLERANCE:.0%} of the {predicted:,} predicted",
        lambda found: abs(found - predicted) <= max(TOLERANCE * predicted, TOLERANCE_FILES),
        f"results/{server.node}-open.json",
    )


def _marks(setup: Named, params: Params) -> list[str]:
    marks = []
    full = replace(setup, addresses=ADDRESSES, workers=FULL_WORKERS, listen="lab", listen_v6="none")
    if not params.full:
        marks.append(
            f"scaled: {setup.listening:,} addresses x 2 x {setup.workers} workers = "
            f"{setup.listening * 2 * setup.workers:,} sockets; at full size {ADDRESSES:,} x 2 x {FULL_WORKERS} = "
            f"{full.listening * 2 * full.workers:,}, in all {full.open_files:,} open files, over Debian's -S "
            f"{files_of_named().most_files('bullseye'):,}"
        )
    if setup.release != "bullseye" and setup.max_sockets:
        marks.append("-S has no effect since BIND 9.17.20: this release meets only the kernel's limit (--nofile)")
    return marks


def _figures(reported: ServerReadings, fixed: ServerReadings | None) -> dict[str, float | None]:
    setup = reported.setup
    figures: dict[str, float | None] = {
        "open_files_measured": reported.counts.open_files,
        "open_files_predicted": setup.open_files,
        "over_limit_lines": len(reported.lines[OVER]),
        "ready_s": reported.ready_s,
        "memory_b": reported.counts.memory_b,
    }
    if setup.threshold is not None:
        figures["predicted_threshold_addresses"] = setup.threshold
    if reported.stopped_s is not None:
        figures["stopped_after_s"] = reported.stopped_s
    if fixed:
        figures["fixed_open_files_measured"] = fixed.counts.open_files
        figures["fixed_stopped_after_s"] = fixed.stopped_s
    return figures


def _facts(server: ServerReadings) -> dict[str, Cell]:
    return {
        "addresses that it listens on": server.counts.addresses,
        "listening sockets": server.counts.sockets,
        "open files, predicted": server.setup.open_files,
        "open files, measured": server.counts.open_files,
        "-S": server.setup.max_sockets,
        "ready after, s": server.ready_s,
        "memory, MB": server.counts.memory_b and server.counts.memory_b / 1e6,
        "how it ends": server.end,
    }
