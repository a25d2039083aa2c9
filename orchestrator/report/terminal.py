"""Report of a run on the terminal: the verdict first, then its figures. No meaning is in colour alone."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.measurements import Measurements, facts
from orchestrator.measurements.rundir import RunDir
from orchestrator.plaintext import plain
from orchestrator.report.summary import (
    PERCENTILES,
    TOP_TROUBLES,
    RunFigures,
    attempts,
    best_figure,
    fates,
    figure,
    number,
    summarize,
    written,
)

COLOURS = {"CONFIRMED": "bold green", "REFUTED": "bold red", "INCONCLUSIVE": "bold yellow"}
HOLDS = {True: ("holds", "green"), False: ("FAILS", "bold red"), None: ("unknown", "yellow")}


def summary(rundir: RunDir) -> RunFigures:
    """Return the figures of a run as plain data; ``report.summary.summarize`` documents the shape."""
    return summarize(Measurements.read(rundir))


def show(rundir: RunDir, console: Console | None = None) -> None:
    """Print the summary of a run to standard output, in colour on a terminal."""
    (console or Console(highlight=False)).print(render(summary(rundir)))


def line(rundir: RunDir) -> dict[str, Any]:
    """Return run, scenario, status, outcome and figures of a run; the last two are None without a verdict."""
    known = facts.read(rundir)
    verdict = known.get("verdict") or {}
    return {
        "run": str(rundir.path),
        **{key: known.get(key) for key in ("scenario", "status")},
        **{key: verdict.get(key) for key in ("outcome", "figures")},
    }


def show_runs(rundirs: Iterable[RunDir], console: Console | None = None) -> None:
    """Print a list of runs: name, outcome or status, first figure."""
    table = _table("run", "ended", "", "", left=2)
    for rundir in rundirs:
        run = line(rundir)
        best = best_figure(run)
        outcome = str(run["outcome"] or run["status"])
        answer = (best[1], Text(plain(f"{best[0]} {best[2]}"), style="dim")) if best else ("", "")
        table.add_row(_cell(rundir.path.name), Text(plain(outcome), style=COLOURS.get(outcome, "")), *answer)
    (console or Console(highlight=False)).print(table)


def render(run: RunFigures) -> RenderableType:
    """Lay out a summary, for 80 columns or more."""
    verdict: Mapping[str, Any] = run["verdict"] or {}
    parts: list[RenderableType] = [Text(), *_answer(run)]
    sections = (
        *((table["title"], _verdict_table(table)) for table in verdict.get("tables") or ()),
        ("Figures", _figures(verdict)),
        ("Throughput, messages", _throughput(run)),
        ("Latency, milliseconds", _latency(run)),
        ("Accounting, messages", _accounting(run)),
        ("Connections that failed", _connections(run)),
        ("Nodes, from the first message to the last delivery", _nodes(run)),
        (f"Trouble in the relay's log; delivery attempts: {attempts(run)}", _troubles(run)),
        ("Evidence", _evidence(verdict)),
        ("In their own words", _quotes(verdict)),
    )
    for title, table in sections:
        if table.row_count:
            parts += section(title, table)
    parts.append(Text())
    for fault in run["faults"]:
        parts.append(Text.assemble(("incomplete  ", "yellow"), plain(fault)))
    parts.append(labelled("run", run["run"]))
    if run["report"]:
        parts.append(labelled("report", run["report"]))
    if run["command"]:
        parts.append(labelled("again", shlex.join(run["command"])))
    return Group(*parts)


def section(title: str, *body: RenderableType) -> list[RenderableType]:
    """Return a title with its body below."""
    return [Text(), Text(plain(title), style="bold"), *body]


def labelled(name: str, text: object) -> Text:
    """Return a line of a name and its value or path."""
    return Text.assemble((f"{name:8}", "dim"), plain(text), overflow="fold")


def _answer(run: RunFigures) -> Iterable[RenderableType]:
    verdict, error = run["verdict"], run["error"]
    if verdict:
        outcome = str(verdict["outcome"])
        yield Text.assemble((plain(outcome), COLOURS.get(outcome, "bold")), "  ", (plain(verdict["headline"]), "bold"))
        if verdict["reason"] != verdict["headline"]:
            yield Text(plain(verdict["reason"]))
        for mark in verdict["marks"]:
            yield Text.assemble(("note: ", "yellow"), (plain(mark), "yellow"))
    else:
        yield Text.assemble(("NO VERDICT", "bold yellow"), f"  the run is {plain(run['status'])}")
    if run["question"]:
        yield Text(f"asked: {plain(run['question'])}", style="dim")
    if error:
        yield Text.assemble(("needed ", "dim"), plain(error["needed"]))
        yield Text.assemble(("found  ", "dim"), plain(error["found"]))
        yield Text.assemble(("do     ", "dim"), plain(error["do"]))


def _table(*columns: str, left: int = 1) -> Table:
    """Return an empty table: ``left`` columns of text, then columns of figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", show_edge=False)
    for i, column in enumerate(columns):
        table.add_column(_cell(column), justify="left" if i < left else "right", overflow="fold")
    return table


def _verdict_table(verdict_table: Mapping[str, Any]) -> Table:
    table = _table(*verdict_table["columns"])
    for row in verdict_table["rows"]:
        table.add_row(*(_cell(written(cell)) for cell in row))
    return table


def _quotes(verdict: Mapping[str, Any]) -> Table:
    table = _table("source", "line", left=2)
    for quote in verdict.get("quotes") or []:
        table.add_row(_cell(quote["source"]), _cell(quote["text"]))
    return table


def _figures(verdict: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(overflow="fold")
    grid.add_column(justify="right")
    grid.add_column()
    for name, value in (verdict.get("figures") or {}).items():
        label, amount, unit = figure(name, value)
        grid.add_row(_cell(label), amount, Text(unit, style="dim"))
    return grid


def _throughput(run: RunFigures) -> Table:
    table = _table("", "accepted/s", "delivered/s", "accepted/min", "delivered/min")
    for load, rates in run["throughput"].items():
        table.add_row(
            _cell(load),
            *(number(rates[f"{way}_{unit}"]) for unit in ("per_s", "per_min") for way in ("accepted", "delivered")),
            style="bold" if load == run["subject"] else "",
        )
    return table


def _latency(run: RunFigures) -> Table:
    table = _table("", "p50", "p90", "p99", "p99.9", "max")
    hops = {f"in the relay, {hop}": values for hop, values in run["hops_ms"].items()}
    rows = dict(run["latency_ms"].get(run["subject"]) or {}) | hops
    for name, values in rows.items():
        table.add_row(_cell(name), *(number(values[p]) for p in (*PERCENTILES, "max")))
    return table


def _accounting(run: RunFigures) -> Table:
    accounts = run["accounting"]
    columns = fates(accounts.values())
    table = _table("", *columns)
    for load, account in accounts.items():
        cells = (f"{account[fate]:,}" if account else "unknown" for fate in columns)
        table.add_row(_cell(load), *cells, style="bold" if load == run["subject"] else "")
    return table


def _connections(run: RunFigures) -> Table:
    table = _table("", "cause", "connections", left=2)
    for load, causes in run["connections"].items():
        for cause, count in causes.items():
            table.add_row(_cell(load), _cell(cause), f"{count:,}")
    return table


def _nodes(run: RunFigures) -> Table:
    table = _table("", "CPU cores", "CPU s", "CPU ms/message", "peak MB")
    for node, use in run["nodes"].items():
        cpu = (number(use[name]) for name in ("cpu_cores", "cpu_s", "cpu_ms_per_message"))
        table.add_row(_cell(node), *cpu, number(use["memory_b"], 1e-6))
    return table


def _troubles(run: RunFigures) -> Table:
    table = _table("reason", "lines")
    for trouble in run["troubles"][:TOP_TROUBLES]:
        table.add_row(_cell(trouble["reason"]), f"{trouble['count']:,}")
    if left := run["troubles"][TOP_TROUBLES:]:
        table.add_row(f"{len(left):,} other reasons", f"{sum(trouble['count'] for trouble in left):,}")
    return table


def _evidence(verdict: Mapping[str, Any]) -> Table:
    table = _table("", "fact", "found", "needed", left=4)
    for e in verdict.get("evidence") or []:
        word, colour = HOLDS[e["holds"]]
        table.add_row(Text(word, style=colour), *(_cell(e[part]) for part in ("fact", "found", "needed")))
    return table


def _cell(text: object) -> Text:
    """Make a cell of plain text: markup in it has no effect."""
    return Text(plain(text), overflow="fold")
