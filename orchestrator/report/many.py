"""Report of many runs side by side: a sweep, a bisection, a repeated capsule.

``show`` and ``write`` escape all text of a ``Page``: it may come from an untrusted capsule.
"""

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from orchestrator.measurements.files import replace
from orchestrator.measurements.verdict import Table
from orchestrator.plaintext import plain
from orchestrator.report import html, tables
from orchestrator.report.figures import figure
from orchestrator.report.terminal import COLOURS, labelled, laid_out, section

FIGURES = 2
"""Maximum number of figures in a run's row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Content of a report on many runs."""

    word: str
    """The answer in one word: ``FOUND``, ``CONFIRMED``, ..."""
    outcome: str
    """The outcome whose colour the word has."""
    says: str
    facts: Mapping[str, Any]
    """Summary of the runs, with question and command."""
    tables: tuple[Table, ...]
    quotes: tuple[tuple[str, str], ...] = ()
    """(source, line) of each quoted log line."""
    texts: tuple[tuple[str, str], ...] = ()
    """(title, text) of each longer passage, such as the differences of a file."""


def sweep(facts: Mapping[str, Any]) -> Page:
    """Lay out a sweep: a row for each run."""
    runs = facts["runs"]
    names = _figure_names(runs)
    varied = facts["varied"]
    outcomes = [run["outcome"] or "NO VERDICT" for run in runs]
    rows = tuple(
        (*(_value(run["values"][name]) for name in varied), outcome, *_figures(run, names), _run_name(run, facts))
        for run, outcome in zip(runs, outcomes, strict=True)
    )
    whole = facts["status"] == "finished" and set(outcomes) <= {"CONFIRMED", "REFUTED"}
    return Page(
        word="ANSWERED" if whole else "INCONCLUSIVE",
        outcome="CONFIRMED" if whole else "INCONCLUSIVE",
        says=f"{len(runs)} runs over {', '.join(varied)}: "
        + ", ".join(f"{count} {outcome}" for outcome, count in Counter(outcomes).items()),
        facts=facts,
        tables=(
            Table(
                title="Runs",
                columns=(*varied, "outcome", *map(_heading, names), "run"),
                rows=rows,
                align="l" * (len(varied) + 1) + "r" * len(names) + "l",
            ),
            *_unjudged(runs, facts),
        ),
        quotes=tuple(
            (", ".join(f"{name} {_value(value)}" for name, value in run["values"].items()), line)
            for run in runs
            for line in (run["quotes"][:1] or [run["error"]])
            if line
        ),
    )


SEARCH_WORDS = {"found": ("FOUND", "CONFIRMED"), "always": ("NOT FOUND", "REFUTED"), "never": ("NOT FOUND", "REFUTED")}
"""Status of a search -> (word, outcome whose colour the word has); any other status is INCONCLUSIVE."""


def search(facts: Mapping[str, Any]) -> Page:
    """Lay out a bisection: a row for each run, by value."""
    runs = sorted(facts["runs"], key=lambda run: run["value"])
    names = _figure_names(runs)
    word, outcome = SEARCH_WORDS.get(facts["status"], ("INCONCLUSIVE", "INCONCLUSIVE"))
    quoted = next((run for run in runs if run["value"] == facts.get("threshold") and run["quotes"]), None)
    return Page(
        word=word,
        outcome=outcome,
        says=facts.get("says") or f"the search is {facts['status']}",
        facts=facts,
        tables=(
            Table(
                title=f"Runs, by {facts['over']}",
                columns=(facts["over"], "outcome", *map(_heading, names), "seconds", "run"),
                rows=tuple(
                    (f"{run['value']:,}", run["outcome"], *_figures(run, names), run["seconds"], _run_name(run, facts))
                    for run in runs
                ),
                align="rl" + "r" * (len(names) + 1) + "l",
            ),
            *_unjudged(runs, facts),
        ),
        quotes=tuple((f"{facts['over']} {quoted['value']:,}", line) for line in quoted["quotes"]) if quoted else (),
    )


DIFFERENCES, DIFF_LINES = 20, 40
"""Maximum number of differing files on the page, and of lines of each difference."""


def comparison(facts: Mapping[str, Any]) -> Page:
    """Lay out the comparison of a run with its capsule (shape: ``capsule.compare``)."""
    (original, here), changed = facts["outcome"], facts["config"]
    same = original == here
    differs = len(facts["environment"]) + len(changed)
    texts = [
        (f"{file['path']} of {', '.join(file['nodes'])}", _shortened(file["diff"])) for file in changed[:DIFFERENCES]
    ]
    if len(changed) > DIFFERENCES:
        texts.append(("Further files", f"{len(changed) - DIFFERENCES} more files differ"))
    return Page(
        word=here if same else "DIFFERENT",
        outcome=here if same or here == "INCONCLUSIVE" else "REFUTED",
        says=f"The capsule, and the run here: {here}." if same else f"The capsule: {original}; the run here: {here}.",
        facts=facts,
        tables=(
            Table(
                title="Claims",
                columns=("", "outcome", "claim", "first line"),
                align="l",
                rows=tuple(
                    (where, *(facts[part][i] for part in ("outcome", "claim")), (facts["quotes"][i] or ["none"])[0])
                    for i, where in enumerate(("capsule", "here"))
                ),
            ),
            Table(
                title="Figures",
                columns=("", "capsule", "here", "here / capsule"),
                rows=tuple(
                    (_heading(name), figure(name, then)[1], figure(name, now)[1], ratio)
                    for name, then, now, ratio in facts["figures"]
                ),
            ),
            Table(
                title=f"Differences in the environment: {differs}" if differs else "The environment is the same",
                columns=("fact", "capsule", "here"),
                align="l",
                rows=(
                    *(tuple(row) for row in facts["environment"]),
                    *((f["path"], "", f"differs on {', '.join(f['nodes'])}") for f in changed),
                ),
            ),
        ),
        texts=tuple(texts),
    )


def _shortened(text: str) -> str:
    lines = text.splitlines()
    more = [f"... {len(lines) - DIFF_LINES} more lines"] if len(lines) > DIFF_LINES else []
    return "\n".join([*lines[:DIFF_LINES], *more])


def show(page: Page, where: Sequence[tuple[str, Path]], console: Console | None = None) -> None:
    """Print a page, then a line (name, path) for each file in ``where``."""
    parts: list[RenderableType] = [
        Text(),
        Text.assemble((page.word, COLOURS[page.outcome]), "  ", (plain(page.says), "bold")),
        Text(f"asked: {plain(page.facts['question'])}", style="dim"),
    ]
    for table in (*page.tables, *([tables.quotes(page.quotes)] if page.quotes else [])):
        parts += section(table.title, *([laid_out(table)] if table.rows else []))
    for title, text in page.texts:
        parts += section(title, Text(plain(text)))
    parts.append(Text())
    parts += [labelled(name, path) for name, path in where]
    parts.append(labelled("again", shlex.join(page.facts["command"])))
    (console or Console(highlight=False)).print(Group(*parts))


def write(page: Page, folder: Path) -> Path:
    """Write a page as report.html in a folder and return its path; raises OSError if that fails."""
    path = folder / "report.html"
    runs = [Path(run["run"]) for run in page.facts["runs"] if run["run"]]
    links = [(run.name, os.path.relpath(run / "report.html", folder)) for run in runs]
    again = shlex.join(page.facts["command"])
    replace(path, html.fill("many.html.j2", page=page, title=page.says, again=again, links=links))
    return path


def _value(value: object) -> str:
    return "unset" if value is None else str(value)


def _figure_names(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the first ``FIGURES`` figures of the runs."""
    return list(dict.fromkeys(name for run in runs for name in list(run["figures"])[:FIGURES]))[:FIGURES]


def _figures(run: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    """Return these figures of a run as text, in brackets if the run is INCONCLUSIVE."""
    form = "({})" if run["outcome"] == "INCONCLUSIVE" else "{}"
    return (form.format(figure(name, run["figures"].get(name))[1]) for name in names)


def _unjudged(runs: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> tuple[Table, ...]:
    """Return a table of the INCONCLUSIVE runs and their reasons."""
    rows = tuple((_run_name(run, facts), run["reason"]) for run in runs if run.get("reason"))
    title = "Inconclusive runs: their figures are in brackets"
    return (Table(title=title, columns=("run", "reason"), rows=rows, align="l"),) if rows else ()


def _heading(name: str) -> str:
    label, _, unit = figure(name, None)
    return f"{label}, {unit}" if unit else label


def _run_name(run: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return the time of a run from its directory's name, <time>-<scenario>."""
    return Path(run["run"]).name.replace(f"-{facts['scenario']}", "") if run["run"] else "none"
