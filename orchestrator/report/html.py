"""report.html: a run as one self-contained page.

uPlot (folder uplot/, unchanged from the npm package) draws the charts in the browser. The page's Content Security
Policy (CSP level 3) forbids loading anything, and every script but the one with the given hash: text from a run stays
text even if an escape is missing.
"""

import base64
import hashlib
import json
import shlex
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2

from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir, replace
from orchestrator.report.charts import charts
from orchestrator.report.summary import (
    FATES,
    TOP_TROUBLES,
    attempts,
    best_figure,
    fates,
    figure,
    number,
    summarize,
    tried,
    written,
)
from orchestrator.services import Purpose

_LONGEST = 400
"""Most characters of a value on the page: a parameter may hold a whole file."""
FOLDER = Path(__file__).parent


def write(rundir: RunDir, measured: Measurements | None = None) -> Path:
    """Write report.html of a run and return its path; ``measured``: its measurements, if already read.

    Raises:
        OSError: the file cannot be written.
    """
    path = rundir.path / "report.html"
    replace(path, render(measured or Measurements.read(rundir)))
    return path


def render(measured: Measurements) -> str:
    """Return the page."""
    faults: list[str] = []
    drawn = tried(faults, "charts", partial(charts, measured)) or []
    run = summarize(measured)
    run["faults"] += faults
    verdict = run["verdict"] or {}
    script = f"/*\n{_text('uplot/LICENSE')}*/\n{_text('uplot/uPlot.iife.min.js')}{_text('templates/report.js')}"
    columns = fates(run["accounting"].values())
    compared = [measured.subject, *measured.sent(Purpose.CALIBRATE)] if measured.subject else []
    rates = {load: rate for load in compared if (rate := measured.accepted_per_s(load))}
    return _environment().get_template("report.html.j2").render(
        run=run,
        title=verdict.get("headline") or f"{run['scenario']}: {run['status']}",
        began=_date(measured),
        best=best_figure(verdict),
        figures=[figure(n, v) for n, v in (verdict.get("figures") or {}).items()],
        rates=rates,
        fates=columns,
        unmet=[fate for fate in FATES if fate not in columns] if all(run["accounting"].values()) else [],
        tables=[_table(verdict_table) for verdict_table in verdict.get("tables") or ()],
        quotes=[(quote["source"], quote["text"]) for quote in verdict.get("quotes") or ()],
        attempts=attempts(run),
        troubles=[[trouble["reason"], f"{trouble['count']:,}"] for trouble in run["troubles"][:TOP_TROUBLES]],
        over_time=[chart for chart in drawn if chart.over_time],
        by_percentile=[chart for chart in drawn if not chart.over_time],
        charts={chart.id: chart.picture for chart in drawn},
        environment=list(_flat(run["environment"])),
        params=list(_flat(run["params"])),
        again=shlex.join(str(word) for word in run["command"] or []),
        style=_text("uplot/uPlot.min.css") + _text("templates/report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def fill(template: str, **facts: Any) -> str:
    """Return a page without scripts from a template; all text is escaped."""
    return _environment().get_template(template).render(style=_text("templates/report.css"), **facts)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    environment.policies["json.dumps_function"] = _dumps
    return environment


def _dumps(data: Any, **options: Any) -> str:
    """Return compact JSON; keys keep the order of the charts."""
    return json.dumps(data, **{**options, "sort_keys": False, "separators": (",", ":"), "allow_nan": False})


@cache
def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _table(verdict_table: dict[str, Any]) -> dict[str, Any]:
    """Return a table of the verdict as text, with the column and the maximum of its bars."""
    column = verdict_table["columns"].index(verdict_table["bars"]) if verdict_table["bars"] else None
    return verdict_table | {
        "cells": [[written(cell) for cell in row] for row in verdict_table["rows"]],
        "column": column,
        "most": (column and max((row[column] or 0 for row in verdict_table["rows"]), default=0)) or 1,
    }


def _date(measured: Measurements) -> str:
    started = min((p.start for p in measured.phases), default=None)
    return f"{datetime.fromtimestamp(started, UTC):%-d %B %Y, %H:%M} UTC" if started else ""


def _flat(data: Any, prefix: str = "") -> Any:
    """Yield the leaves of nested data: dotted name and text."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _flat(value, f"{prefix} / {key}" if prefix else str(key))
    else:
        words = [str(d) for d in data] if isinstance(data, list) else ["unset" if data is None else str(data)]
        text = ", ".join(words)
        yield prefix, text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text):,} characters)"
