"""The command line: parse, call, print, exit code. Heavy imports stand inside the commands, so that --help is quick."""

from collections.abc import Callable

import typer

from orchestrator.cli import beds, inspection, machine, run, shell

app = typer.Typer(
    name="testbed",
    help="A disposable, measured mail-and-DNS network in one command.",
    epilog="Exit codes: 0 as expected, 1 the verdict is not as expected, 2 usage, 3 inconclusive, 4 the host cannot, "
    "5 the engine failed, 70 a bug of ours, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(run.app, name="run", rich_help_panel="Ask")
_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Ask": (inspection.analyze, inspection.runs, inspection.list_),
    "Beds": (beds.up, beds.down, beds.ps, beds.logs, beds.exec_, beds.stats, beds.plan, beds.schema),
    "This machine": (machine.setup, machine.doctor, machine.images, machine.clean),
}
for panel, commands in _PANELS.items():
    for command in commands:
        app.command(command.__name__.rstrip("_"), rich_help_panel=panel)(command)


def main() -> None:
    """Run the command that the arguments name."""
    shell.run_guarded(app)
