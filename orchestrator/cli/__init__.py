"""The command line. Commands import heavy modules inside their functions, so that --help is quick."""

import gc
from collections.abc import Callable
from typing import Annotated

import typer

from orchestrator.cli import beds, bisect, images, inspection, machine, mail, nodes, plans, run, shell
from orchestrator.cli.verbosity import verbose

app = typer.Typer(
    name="testbed",
    cls=shell.Panels,
    rich_markup_mode=shell.MARKUP,
    epilog="Exit codes: 0 as expected, 1 the verdict is not as expected, 2 usage, 3 inconclusive, 4 the host cannot, "
    "5 the engine failed, 70 a bug of ours, 130 interrupted, 141 nobody read the output.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - Typer's signature of a callback
    if asked:
        from importlib.metadata import version

        typer.echo(f"testbed {version('testbed')}")
        raise typer.Exit


@app.callback(help="A disposable, measured mail-and-DNS network in one command.")
@verbose
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end.")
    ] = False,
) -> None:
    """Read the options that precede the name of a command."""


app.add_typer(run.app, name="run", rich_help_panel="Ask")
app.add_typer(bisect.app, name="bisect", rich_help_panel="Ask")
_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Ask": (inspection.analyze, inspection.capsule, inspection.runs, inspection.list_),
    "Beds": (
        *(beds.up, beds.down, beds.ps),
        *(nodes.logs, nodes.exec_, nodes.stats),
        *(plans.plan, plans.graph, plans.schema),
    ),
    "Mail and DNS of a bed": (mail.wait_mail, mail.inbox),
    "This machine": (machine.setup, machine.doctor, machine.clean),
}
for panel, commands in _PANELS.items():
    for command in commands:
        kind = machine.Doctor if command is machine.doctor else None
        app.command(command.__name__.rstrip("_").replace("_", "-"), cls=kind, rich_help_panel=panel)(verbose(command))


app.add_typer(images.app, name="images", rich_help_panel="This machine")
app.add_typer(mail.dns_app, name="dns", rich_help_panel="Mail and DNS of a bed")


def main() -> None:
    """Run the command named by the arguments."""
    gc.set_threshold(50_000, 20, 20)  # with the default 700, imports cause 140 collections: a tenth of their CPU time
    shell.run_guarded(app)
