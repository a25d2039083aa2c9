"""Shared by all commands: output formats, messages, exit codes, completion."""

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from orchestrator.errors import ExitCode, HostCannot, InvalidInput, Problem, host_cannot
from orchestrator.interrupts import Interrupted, raise_on_signals
from orchestrator.plaintext import LAYOUT, plain

if TYPE_CHECKING:
    from orchestrator.runs.runner import Finished


Format = Literal["text", "json"]
_errors_in_json: ContextVar[bool] = ContextVar("errors_in_json", default=False)


def errors_as(output: str) -> str:
    """Print errors in the output format of the command; callback of every option ``--format``."""
    _errors_in_json.set(output == "json")
    return output


FormatOption = Annotated[
    Format, typer.Option("--format", callback=errors_as, help="text for people, json for scripts.")
]
RunsOption = Annotated[
    Path, typer.Option("--runs", envvar="TESTBED_RUNS", help="Where run directories are kept.", show_default=True)
]
DomainsOption = Annotated[int | None, typer.Option(help="Number of domains, instead of the bed's own.")]
FamiliesOption = Annotated[str | None, typer.Option(help="IP versions: v4, v6 or both, instead of the bed's own.")]
ParentOption = Annotated[str | None, typer.Option(help="Attach the bed to this real interface, not to a private one.")]
RUNS = Path("runs")
MARKUP = None
"""Help as plain text: rich would double the time of `testbed --help`."""
_LINES, _WIDTH = 20, 1000
"""Maximum lines and columns of an error message; the logs hold the full text."""


class Panels(TyperGroup):
    """A group whose help lists the commands by panel, each with the first paragraph of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            if (command := self.get_command(ctx, name)) and not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                row = (name, (command.help or "").partition("\n\n")[0])
                panels.setdefault(panel if isinstance(panel, str) else "Commands", []).append(row)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


def built_in_beds() -> list[str]:
    """Return the names of the built-in beds, for shell completion, without reading the beds' files."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / "bed" / "builtin").glob("*.yaml"))


BedArgument = Annotated[
    str,
    typer.Argument(metavar="BED", help="A built-in bed (see list) or a YAML file.", autocompletion=built_in_beds),
]


def made_runs(ctx: typer.Context) -> list[str]:
    """Return the names of the runs, for shell completion."""
    from orchestrator.measurements.rundir import RunDir

    with suppress(InvalidInput):
        return [path.name for path in RunDir.below(ctx.params.get("where") or RUNS)]
    return []


def print_json(data: Any) -> None:
    """Print data for a script."""
    from orchestrator import strict_json

    typer.echo(strict_json.dumps(data, indent=1, default=str))


def answer(output: Format, data: Any, show: Callable[[], object]) -> None:
    """Print an answer: ``data`` as JSON for a script, or call ``show`` to print it for a person."""
    if output == "json":
        print_json(data)
    else:
        show()


def tell(text: str) -> None:
    """Print an answer for a person on standard output; control characters in it become visible."""
    typer.echo(plain(text, LAYOUT))


def say(text: str) -> None:
    """Print progress for a person on standard error; control characters become visible."""
    typer.echo(plain(text, LAYOUT), err=True)


def conclude_run(finished: "Finished", output: Format) -> NoReturn:
    """Show a run and end with its exit code."""
    from orchestrator.report import terminal
    from orchestrator.report.summary import summarize_run

    run = summarize_run(finished.rundir)
    answer(output, run, lambda: terminal.show(run))
    end_with(finished.exit_code, finished.unreported)


def end_with(code: int, unreported: Problem | None) -> NoReturn:
    """Exit with this code once the answer is shown; warn if the report of the answer could not be written.

    Raises:
        HostCannot: the disk had no room for the report.
    """
    if isinstance(unreported, HostCannot):
        raise unreported
    if unreported:
        say(f"warning: {unreported.found}; {unreported.do}")
    raise typer.Exit(code)


def run_guarded(command: Callable[[], Any]) -> None:
    """Call the command; turn every error into a message and an exit code."""
    errors_as("text")  # until the command's own option is read
    try:
        raise_on_signals()
        command()
    except Problem as problem:
        _end_with(problem)
    except (Interrupted, KeyboardInterrupt) as signal:
        say(f"interrupted ({signal}); {'; '.join(_left(signal)) or 'nothing was left behind'}")
        sys.exit(ExitCode.INTERRUPTED)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer has caught the BrokenPipeError, and exits with 1
            sys.exit(ExitCode.NO_READER)
        raise
    except Exception as error:  # noqa: BLE001 - the outermost frame: an unforeseen error is our bug
        if isinstance(error, OSError) and (refused := host_cannot(error, "the output")):
            _end_with(refused)
        say(traceback.format_exc().rstrip())
        say("this is a bug of testbed; please report it with the lines above")
        sys.exit(ExitCode.BUG)


def _end_with(problem: Problem) -> NoReturn:
    if _errors_in_json.get():
        from orchestrator import strict_json

        facts = {**problem.to_dict(), "notes": _notes(problem), "exit_code": problem.exit_code}
        typer.echo(strict_json.dumps(facts), err=True)
    else:
        words = [f"needed: {problem.needed}", f"found:  {problem.found}", f"do:     {problem.do}", *_notes(problem)]
        say("\n".join(_shown(part) for part in words))
    sys.exit(problem.exit_code)


def _shown(text: str) -> str:
    """Shorten text to ``_LINES`` lines of ``_WIDTH`` characters."""
    lines = text.splitlines() or [""]
    kept = lines if len(lines) <= _LINES else [lines[0], f"(... {len(lines) - _LINES} lines)", *lines[1 - _LINES :]]
    shown = (line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ..." for line in kept)
    return "\n".join(plain(line) for line in shown)


def _notes(error: BaseException) -> list[str]:
    """Return the notes that a clean-up added to an error."""
    return list(getattr(error, "__notes__", ()))


def _left(signal: BaseException) -> list[str]:
    """Return notes about remaining objects, also of chained errors: a second signal may have hidden the first one."""
    notes = _notes(signal)
    error = signal.__cause__ or signal.__context__
    while error:
        notes += [*([str(error)] if isinstance(error, Problem) else []), *_notes(error)]
        error = error.__cause__ or error.__context__
    return notes
