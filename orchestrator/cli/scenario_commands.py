"""Commands with a scenario as subcommand; the scenario's parameters are the subcommand's options."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from orchestrator.cli import shell
from orchestrator.cli.verbosity import verbose

if TYPE_CHECKING:
    from orchestrator.bed.model import Strict
    from orchestrator.scenarios import Scenario

_SCENARIOS = Path(__file__).parents[1] / "scenarios"


def _files() -> dict[str, Path]:
    """Map each scenario to its file (module, or the __init__.py of a package) without importing any."""
    modules = {path.stem: path for path in _SCENARIOS.glob("[!_]*.py")}
    packages = {path.parent.name: path for path in _SCENARIOS.glob("*/__init__.py")}
    return {
        name.replace("_", "-"): path
        for name, path in (modules | packages).items()
        if "\nSCENARIO = " in path.read_text()
    }


def names() -> list[str]:
    """Return the names of all scenarios, without importing any."""
    return sorted(_files())


class Scenarios(shell.Panels):
    """Subcommands, one for each scenario file; only the called scenario is imported, so that help is quick."""

    body: Callable[..., None]
    """The function that every subcommand executes: ``body`` of ``command``."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all scenarios."""
        return names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - click's signature
        """Return a stub whose help is the first line of the scenario's file."""
        file = _files().get(cmd_name)
        if file is None:
            return None
        question = (ast.get_docstring(ast.parse(file.read_text())) or cmd_name).splitlines()[0]
        return TyperCommand(cmd_name, help=question, rich_markup_mode=shell.MARKUP)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Make the command of one scenario: its options are the scenario's parameters."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, command(str(name), self.body) if found else None, rest


def command(name: str, body: Callable[..., None]) -> Any:
    """Make the command of a scenario; its options are the scenario's parameters and the keyword parameters of ``body``.

    ``body`` is called with the scenario, the parameters given on the command line, and its own options. An option
    of ``body`` overrides a scenario parameter of the same name, which keeps its default.
    """
    from orchestrator import scenarios
    from orchestrator.bed.user_files import FromDisk

    scenario = scenarios.scenario(name)
    disk = {
        field: mark
        for field, info in scenario.params.model_fields.items()
        for mark in info.metadata
        if isinstance(mark, FromDisk)
    }

    def call(context: typer.Context, **given: Any) -> None:
        own = {p.name: given.pop(p.name) for p in fixed}
        given = {field: value for field, value in given.items() if _is_given(context, field)}
        given |= {field: mark.read(given[field]) for field, mark in disk.items() if field in given}
        body(scenario, given, **own)

    fixed = [p for p in inspect.signature(body).parameters.values() if p.kind is p.KEYWORD_ONLY]
    types = get_type_hints(scenario.params)  # without pydantic's constraints: --help would show them
    varied = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=info.default,
            annotation=Annotated[Path | None, typer.Option(help=info.description, metavar=disk[field].metavar)]
            if field in disk
            else Annotated[types[field], typer.Option(help=info.description)],
        )
        for field, info in scenario.params.model_fields.items()
        if field not in {p.name for p in fixed}
    ]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    call.__signature__ = inspect.Signature([context, *varied, *fixed])  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in [context, *varied, *fixed]}
    single = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=shell.MARKUP)
    single.command(name, help=scenario.question)(verbose(call))
    return typer.main.get_command(single)


def _is_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name != "DEFAULT"


def params_of(scenario: "Scenario[Any]", values: dict[str, Any]) -> "Strict":
    """Check parameter values.

    Raises:
        InvalidInput: a value is invalid.
    """
    from orchestrator.bed.model import checked

    needed, do = f"valid parameters of {scenario.name}", f"see `testbed run {scenario.name} --help`"
    return checked(scenario.params, values, needed, do)
