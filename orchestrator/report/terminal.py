"""Report of a run on the terminal: the verdict first, then its figures. Colour adds no information."""

import shlex
from collections.abc import Iterable

from rich import box, table
from rich.console import Console, Group, RenderableType
from rich.text import Text

from orchestrator.measurements import run_json
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Table
from orchestrator.plaintext import plain
from orchestrator.report.figures import best_figure
from orchestrator.report.summary import RunFigures, in_brief
from orchestrator.report.tables import cells, of_run

COLOURS = {
    "CONFIRMED": "bold green", "REFUTED": "bold red", "INCONCLUSIVE": "bold yellow",
    "holds": "green", "FAILS": "bold red", "unknown": "yellow",
    "ok": "green", "warn": "yellow", "fail": "bold red", "wanted": "cyan",
}  # fmt: skip
"""Word in a table's cell, from a verdict, its evidence or a check of the host -> style."""
_OTHER = "*"
"""Mark of a run whose environment differs from that of the newest run."""
WHOLE = 16
"""A column of text of at most this width, in characters, is never folded."""


def show(run: RunFigures, console: Console | None = None) -> None:
    """Print the summary of a run to standard output, in colour on a terminal."""
    (console or Console(highlight=False)).print(render(run))


def show_runs(rundirs: Iterable[RunDir], console: Console | None = None) -> None:
    """Print a line for each run: name, outcome (status, if it has no verdict), first figure.

    A run in another environment than the last run is marked, because figures of the two cannot be compared.
    """
    rows, environments = [], []
    for rundir in rundirs:
        run = in_brief(rundir)
        name, amount, unit = best_figure(run) or ("", "", "")
        rows.append((rundir.path.name, str(run["outcome"] or run["status"]), amount, f"{name} {unit}".strip()))
        known = run_json.read(rundir).get("environment")
        environments.append(known and {key: known.get(key) for key in ("source", "engine", "cpu")})
    newest = next(filter(None, reversed(environments)), None)
    marks = [_OTHER if environment and environment != newest else "" for environment in environments]
    marked = [(*row, mark) for row, mark in zip(rows, marks, strict=True)]
    show_table(Table(title="", columns=("run", "ended", "", "", ""), rows=marked, align="llrll"), console)
    if any(marks):
        text = f"{_OTHER} other code, engine or CPU than the newest run: figures cannot be compared"
        (console or Console(highlight=False)).print(Text(text, style="dim"))


def show_table(part: Table, console: Console | None = None) -> None:
    """Print a table without its title."""
    (console or Console(highlight=False)).print(laid_out(part))


def render(run: RunFigures) -> RenderableType:
    """Lay out a summary, for 80 columns or more."""
    parts: list[RenderableType] = [Text(), *_answer(run)]
    for part in of_run(run).values():
        if part.rows:
            parts += section(part.title, laid_out(part))
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
        for word in ("needed", "found", "do"):
            yield Text.assemble((f"{word:7}", "dim"), plain(error[word]))


def laid_out(part: Table) -> table.Table:
    """Lay a table out; markup in its text has no effect."""
    laid = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", show_edge=False)
    laid.show_header = any(part.columns)
    rows = cells(part)
    for i, column in enumerate(part.columns):
        right = part.align[: i + 1][-1] == "r"
        longest = max((len(row[i]) for row in rows), default=0)
        laid.add_column(
            Text(plain(column), overflow="fold"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=longest <= WHOLE and not right,
        )
    for row in rows:
        laid_row = (Text(plain(cell), style=COLOURS.get(cell, ""), overflow="fold") for cell in row)
        laid.add_row(*laid_row, style="bold" if row[0] == part.strong else "")
    return laid
