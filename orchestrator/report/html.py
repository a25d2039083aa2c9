"""report.html: a run as one self-contained page, from templates, with a Content Security Policy.

uPlot (folder uplot/, unchanged from the npm package) draws the charts in the browser. The page's Content Security
Policy (CSP level 3) forbids the page to load anything, and to run any script except the one with the given hash. So
text from a run cannot act as a script, even if the text was not escaped.
"""

import base64
import hashlib
import shlex
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2

from orchestrator.errors import Problem, host_cannot
from orchestrator.measurements import Measurements
from orchestrator.measurements.files import replace
from orchestrator.measurements.rundir import RunDir
from orchestrator.report import tables
from orchestrator.report.charts import charts
from orchestrator.report.figures import best_figure, number
from orchestrator.report.summary import summarize, tried
from orchestrator.services import Purpose

_LONGEST = 400
"""Maximum number of characters of a value on the page: a parameter may hold a whole file."""
FOLDER = Path(__file__).parent


def write(rundir: RunDir) -> Path:
    """Write report.html of a run and return its path; raises OSError if that fails."""
    path = rundir.path / "report.html"
    replace(path, render(Measurements.read(rundir)))
    return path


def unwritten(error: Exception, do: str) -> Problem:
    """Convert an error of ``write`` to a Problem; ``do``: advice to the user if the error is a bug of testbed."""
    refused = host_cannot(error, "report.html") if isinstance(error, OSError) else None
    return refused or Problem("report.html", f"the report failed: {type(error).__name__}: {error}", do)


def render(measured: Measurements) -> str:
    """Return the page."""
    faults: list[str] = []
    drawn = tried(faults, "charts", partial(charts, measured)) or []
    run = summarize(measured)
    run["faults"] += faults
    verdict = run["verdict"] or {}
    script = f"/*\n{_text('uplot/LICENSE')}*/\n{_text('uplot/uPlot.iife.min.js')}{_text('templates/report.js')}"
    shown = tables.of_run(run)
    compared = [measured.subject, *measured.sent(Purpose.CALIBRATE)] if measured.subject else []
    rates = {load: rate for load in compared if (rate := measured.accepted_per_s(load))}
    return fill(
        "report.html.j2",
        run=run,
        title=verdict.get("headline") or f"{run['scenario']}: {run['status']}",
        began=_date(measured),
        best=best_figure(verdict),
        tables=shown,
        verdict_bars=[_bars(verdict_table) for verdict_table in verdict.get("tables") or ()],
        attempts=tables.attempts(run),
        rates=rates,
        unmet=[fate for fate in tables.FATES if fate not in shown["accounting"].columns]
        if all(run["accounting"].values())
        else [],
        over_time=[chart for chart in drawn if "x" in chart.picture],
        by_percentile=[chart for chart in drawn if "x" not in chart.picture],
        charts={chart.id: chart.picture for chart in drawn},
        environment=list(_flat(run["environment"])),
        params=list(_flat(run["params"])),
        again=shlex.join(str(word) for word in run["command"] or []),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def fill(template: str, **facts: Any) -> str:
    """Return a page from a template; all text is escaped."""
    style = _text("uplot/uPlot.min.css") + _text("templates/report.css")
    return _environment().get_template(template).render(style=style, **facts)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "cells": tables.cells}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


@cache
def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _bars(verdict_table: dict[str, Any]) -> dict[str, Any] | None:
    """Return a verdict's table as bars: title, rows (label, value) and largest value; None if it has no bars."""
    if not verdict_table["bars"]:
        return None
    column = verdict_table["columns"].index(verdict_table["bars"])
    rows = [(row[0], row[column]) for row in verdict_table["rows"]]
    most = max((value or 0 for _, value in rows), default=0) or 1
    return {"title": verdict_table["bars"], "rows": rows, "most": most}


def _date(measured: Measurements) -> str:
    started = min((p.start for p in measured.phases), default=None)
    return f"{datetime.fromtimestamp(started, UTC):%-d %B %Y, %H:%M} UTC" if started else ""


def _flat(data: Any, prefix: str = "") -> Any:
    """Yield (name, text) of the leaves of nested data; the name joins the keys with `` / ``."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _flat(value, f"{prefix} / {key}" if prefix else str(key))
    else:
        words = [str(d) for d in data] if isinstance(data, list) else ["unset" if data is None else str(data)]
        text = ", ".join(words)
        yield prefix, text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text):,} characters)"
