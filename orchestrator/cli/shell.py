"""What every command shares: formats, messages, exit codes, and the bed that a command is about."""

import json
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.errors import ExitCode, Problem
from orchestrator.interrupts import Interrupted, raise_on_signals


class Format(StrEnum):
    """How a command prints its answer."""

    TEXT = "text"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="text for people, json for scripts.")]
RunsOption = Annotated[
    Path, typer.Option("--runs", envvar="TESTBED_RUNS", help="Where run directories are kept.", show_default=True)
]
RUNS = Path("runs")
BedOption = Annotated[
    str | None, typer.Option("--bed", help="Name or id of the bed, when more than one is up.", show_default=False)
]


def print_json(data: Any) -> None:
    """Print data for a script."""
    typer.echo(json.dumps(data, indent=1, default=str))


def say(text: str) -> None:
    """Tell a person what is happening, on standard error."""
    typer.echo(text, err=True)


def run_guarded(command: Callable[[], Any]) -> None:
    """Call the command line; every error becomes a message and an exit code."""
    raise_on_signals()
    try:
        command()
    except Problem as problem:
        say(
            "\n".join(
                [f"needed: {problem.needed}", f"found:  {problem.found}", f"do:     {problem.do}", *_notes(problem)]
            )
        )
        sys.exit(problem.exit_code)
    except (Interrupted, KeyboardInterrupt) as signal:
        say(f"interrupted ({signal}); {'; '.join(_notes(signal)) or 'nothing was left behind'}")
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
    except Exception:  # noqa: BLE001 - the last frame: what nobody foresaw is our bug
        traceback.print_exc()
        say("this is a bug of testbed; please report it with the lines above")
        sys.exit(ExitCode.BUG)


def _notes(error: BaseException) -> list[str]:
    """Return what a clean-up has added to an error."""
    return list(getattr(error, "__notes__", ()))
