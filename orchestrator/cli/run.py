"""``testbed run SCENARIO``: each scenario is a command of its own, made from its parameters."""

import ast
import inspect
import pkgutil
import sys
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from orchestrator.cli.shell import RUNS, Format, FormatOption, RunsOption, print_json

_SCENARIOS = Path(__file__).parents[1] / "scenarios"


class Scenarios(TyperGroup):
    """Finds the scenarios by their files; only the one that is called is imported, so that help is quick."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Name every scenario: one file each."""
        return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules([str(_SCENARIOS)]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what a list says of one scenario: the first line of its file."""
        if cmd_name not in self.list_commands(ctx):
            return None
        source = (_SCENARIOS / f"{cmd_name.replace('-', '_')}.py").read_text()
        return TyperCommand(cmd_name, help=(ast.get_docstring(ast.parse(source)) or cmd_name).splitlines()[0])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Make the command of the scenario that is called: its options are the scenario's parameters."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, _command(str(name)) if found else None, rest


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
    types = get_type_hints(scenario.params)  # without what pydantic checks: it would be shown
    varied = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=info.default,
            annotation=Annotated[types[field], typer.Option(help=info.description)],
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
