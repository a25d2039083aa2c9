"""``testbed bisect SCENARIO``: the smallest value of a parameter at which a scenario is confirmed."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import scenario_commands, shell
from orchestrator.cli.run import command_line, conclude, one_of_many
from orchestrator.cli.verbosity import verbose

if TYPE_CHECKING:
    from orchestrator.scenarios import Scenario


def _bisect(
    scenario: "Scenario[Any]",
    values: dict[str, Any],
    *,
    over: Annotated[
        str, typer.Option(metavar="PARAMETER=LOW..HIGH", help="The whole-number parameter to search, and its range.")
    ],
    repeat: Annotated[
        int, typer.Option(min=1, max=20, help="Equal outcomes required on each side of the threshold.")
    ] = 2,
    tolerance: Annotated[int, typer.Option(min=1, help="Largest distance between the two sides.")] = 1,
    runs: shell.RunsOption = shell.RUNS,
    parent: shell.ParentOption = None,
    output: shell.FormatOption = "text",
) -> None:
    """Search for the threshold; show every run."""
    from orchestrator.cli.progress import Steps
    from orchestrator.report import many as report
    from orchestrator.runs import bisect as bisection
    from orchestrator.runs.sweep import Summary, varied

    params = scenario_commands.params_of(scenario, values)
    span = bisection.parse(scenario, over)
    for end in (span.low, span.high):
        varied(scenario, params, {span.name: end})
    summary = Summary(runs, "bisect", scenario, command=command_line())
    steps = Steps()
    execute = one_of_many(scenario, steps, runs, parent)
    code = bisection.bisect(scenario, params, span, execute, summary, repeat=repeat, tolerance=tolerance)
    conclude(report.search(summary.facts), summary, output, code)


class Searches(scenario_commands.Scenarios):
    """The scenarios, as subcommands of ``bisect``."""

    body = staticmethod(_bisect)


app = typer.Typer(
    cls=Searches,
    rich_markup_mode=shell.MARKUP,
    no_args_is_help=True,
    subcommand_metavar="SCENARIO --over PARAMETER=LOW..HIGH [OPTIONS]",
)


@app.callback(
    epilog="Exit codes: 0 found, 1 not in the range, 3 inconclusive (a value stays INCONCLUSIVE, or the threshold is "
    "not sharp)."
)
@verbose
def bisect() -> None:
    """Find the smallest value of a parameter at which a scenario is confirmed, by bisection over real runs."""
