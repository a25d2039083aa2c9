"""``testbed run SCENARIO``: each scenario is a command of its own, made from its parameters."""

import inspect
import pkgutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator.cli.shell import RUNS, Format, FormatOption, RunsOption, print_json


class Scenarios(TyperGroup):
    """Finds the scenarios when they are asked for, so that other commands need not import them."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Name every scenario: one file each."""
        path = [str(Path(__file__).parents[1] / "scenarios")]
        return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(path))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Make the command of one scenario."""
        return _command(cmd_name) if cmd_name in self.list_commands(ctx) else None


app = typer.Typer(cls=Scenarios, no_args_is_help=True, help="Ask a bed a question and keep the evidence.")


@app.callback()
def run() -> None:
    """Ask a bed a question and keep the evidence."""


def _command(name: str) -> Any:
    from orchestrator import scenarios

    scenario = scenarios.scenario(name)

    def command(
        *,
        runs: RunsOption = RUNS,
        parent: Annotated[
            str | None, typer.Option(help="Put the lab on this real interface instead of a private one.")
        ] = None,
        output: FormatOption = Format.TEXT,
        **values: Any,
    ) -> None:
        _run(scenario, values, runs=runs, parent=parent, output=output)

    fixed = [p for p in inspect.signature(command).parameters.values() if p.kind is p.KEYWORD_ONLY]
    varied = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=info.default,
            annotation=Annotated[info.annotation, typer.Option(help=info.description)],
        )
        for field, info in scenario.params.model_fields.items()
    ]
    command.__signature__ = inspect.Signature([*varied, *fixed])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*varied, *fixed]}
    single = typer.Typer(pretty_exceptions_enable=False)
    single.command(name, help=scenario.question)(command)
    return typer.main.get_command(single)


def _run(scenario: Any, values: dict[str, Any], *, runs: Path, parent: str | None, output: Format) -> None:
    from orchestrator import runner
    from orchestrator.cli.progress import Steps
    from orchestrator.engine import docker
    from orchestrator.model import checked
    from orchestrator.report import terminal

    params = checked(
        scenario.params, values, f"valid parameters of {scenario.name}", f"see `testbed run {scenario.name} --help`"
    )
    with Steps() as steps:
        finished = runner.run(
            scenario,
            params,
            connect=docker.connect,
            runs=runs,
            parent=parent,
            command=[Path(sys.argv[0]).name, *sys.argv[1:]],
            steps=steps,
        )
    if output is Format.JSON:
        print_json(terminal.summary(finished.rundir))
    else:
        terminal.show(finished.rundir)
    raise typer.Exit(finished.exit_code)
