"""The command line: parse, call, print, exit code. Heavy imports stand inside the commands, so that --help is quick."""

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
for command in (inspection.analyze, inspection.runs, inspection.list_):
    app.command(rich_help_panel="Ask")(command)
for command in (beds.up, beds.down, beds.ps, beds.logs, beds.exec_, beds.stats, beds.plan, beds.schema):
    app.command(rich_help_panel="Beds")(command)
for command in (machine.setup, machine.doctor, machine.images, machine.clean):
    app.command(rich_help_panel="This machine")(command)


def main() -> None:
    """Run the command that the arguments name."""
    shell.run_guarded(app)
