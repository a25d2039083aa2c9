"""``testbed run SCENARIO``, once or for each of several values, and ``testbed run CAPSULE``."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from orchestrator.cli import scenario_commands, shell
from orchestrator.cli.verbosity import verbose
from orchestrator.errors import HostCannot, Problem

if TYPE_CHECKING:
    from orchestrator.bed.model import Strict
    from orchestrator.cli.progress import Steps
    from orchestrator.report.many import Page
    from orchestrator.runs.runner import Finished
    from orchestrator.runs.sweep import Execute, Summary
    from orchestrator.scenarios import Scenario
    from orchestrator.up.bringup import Progress

_NAMED = 20
"""Maximum number of files that a message about a capsule lists."""


def _run(
    scenario: "Scenario[Any]",
    values: dict[str, Any],
    *,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PARAMETER=VALUE,VALUE",
            help="One run for each value, in one table: dns.release=bullseye,bookworm. Several --vary make a matrix.",
        ),
    ] = None,
    runs: shell.RunsOption = shell.RUNS,
    parent: shell.ParentOption = None,
    output: shell.FormatOption = "text",
) -> None:
    """Make one run, or one run for each combination of the values of ``vary``."""
    from orchestrator.cli.progress import Steps
    from orchestrator.report import many as report
    from orchestrator.runs import sweep

    params = scenario_commands.params_of(scenario, values)
    steps = Steps()
    if vary:
        planned = sweep.combinations(scenario, params, vary)
        summary = sweep.Summary(runs, "sweep", scenario, command=command_line(), varied=list(planned[0][0]))
        code = sweep.sweep(planned, one_of_many(scenario, steps, runs, parent), summary)
        conclude(report.sweep(summary.facts), summary, output, code)
    finished = _execute(scenario, params, runs, parent, command_line(), steps)
    shell.conclude_run(finished, output)


def _execute(
    scenario: "Scenario[Any]", params: "Strict", runs: Path, parent: str | None, command: list[str], steps: "Progress"
) -> "Finished":
    from orchestrator.hosts import docker
    from orchestrator.runs import runner

    return runner.run(scenario, params, connect=docker.connect, runs=runs, parent=parent, command=command, steps=steps)


def one_of_many(scenario: "Scenario[Any]", steps: "Steps", runs: Path, parent: str | None) -> "Execute":
    """Return a callable that executes one run and prints one line with its outcome."""
    from orchestrator.cli.progress import Within
    from orchestrator.runs import sweep

    def execute(params: "Strict") -> "Finished":
        command = [*sweep.command_of(scenario, params), *(["--parent", parent] if parent else [])]
        with steps.step(" ".join(command[2:])):
            finished = _execute(scenario, params, runs, parent, command, Within(steps))
        steps.say(f"{finished.verdict.outcome}: {finished.rundir.path.name}")
        if finished.unreported:
            steps.say(f"warning: {finished.unreported}")
        return finished

    return execute


def command_line() -> list[str]:
    """Return the command line of this process, without the program's folder."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def conclude(page: "Page", summary: "Summary", output: shell.Format, code: int) -> NoReturn:
    """Show the results of many runs, write them as a page beside their summary, and exit with this code."""
    from orchestrator.report import many as report
    from orchestrator.report.html import unwritten

    path = summary.path
    where = [("runs", path.parents[1]), ("kept", path)]
    unreported: Problem | None = None
    try:
        where.append(("report", report.write(page, path.parent)))
    except Exception as error:  # noqa: BLE001 - an error of the page must not hide the answer
        unreported = unwritten(error, "report it")
    shell.answer(output, summary.facts, lambda: report.show(page, where))
    shell.end_with(code, unreported)


def _ask_trust(file: Path, files: list[str]) -> None:
    """Ask on the terminal whether to run a capsule's own files; raise HostCannot unless the answer is yes."""
    named = ", ".join(files[:_NAMED]) + (f" and {len(files) - _NAMED} more" if len(files) > _NAMED else "")
    if sys.stdin.isatty():
        shell.say(f"{file} brings files from its maker, which would run in containers of its bed:\n  {named}")
        with suppress(typer.Abort):  # end of input counts as no
            if typer.confirm("Run them?", err=True):
                return
    raise HostCannot(
        "your consent to run the files that the capsule brings",
        f"{file}: {named}",
        "read them in the capsule (key `params`), then give --trust-files",
    )


def _again(
    file: Annotated[Path, typer.Argument(metavar="CAPSULE", help="A file that `testbed capsule` has made.")],
    allow_host_changes: Annotated[
        bool,
        typer.Option("--allow-host-changes", help="Consent to any changes that its scenario makes to the host."),
    ] = False,
    trust_files: Annotated[
        bool, typer.Option("--trust-files", help="Consent to run the files and programs that it brings, in its bed.")
    ] = False,
    runs: shell.RunsOption = shell.RUNS,
    parent: shell.ParentOption = None,
    output: shell.FormatOption = "text",
) -> None:
    """Run a capsule's scenario here with the capsule's parameters; list the differences between the runs."""
    from orchestrator.cli.progress import Steps
    from orchestrator.report import many as report
    from orchestrator.runs import capsule
    from orchestrator.runs.sweep import Summary, summary_row

    taken = capsule.read(file)
    scenario, params = capsule.question(taken, consent=allow_host_changes)
    if (files := capsule.installed_files(params)) and not trust_files:
        _ask_trust(file, files)
    summary = Summary(runs, "capsule", scenario, command=command_line(), capsule=str(file))
    try:
        steps = Steps()
        finished = one_of_many(scenario, steps, runs, parent)(params)
        summary.runs.append(summary_row(finished))
        compared = capsule.compare(taken, finished)
        summary.save(status="finished", **compared)
    except BaseException as error:
        summary.broken(error)
        raise
    conclude(report.comparison(summary.facts), summary, output, capsule.exit_code(compared))


class Runs(scenario_commands.Scenarios):
    """The scenarios as subcommands of ``run``, and any capsule file."""

    body = staticmethod(_run)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Treat a first word that ends in .json as a capsule file."""
        if args and args[0].endswith(".json"):
            single = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=shell.MARKUP)
            single.command("run")(verbose(_again))
            return "run", typer.main.get_command(single), args
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Runs, rich_markup_mode=shell.MARKUP, no_args_is_help=True, subcommand_metavar="SCENARIO|CAPSULE.json [OPTIONS]"
)


@app.callback(
    epilog="Exit codes: 0 CONFIRMED, 1 REFUTED, 3 INCONCLUSIVE. With --vary: 0 if every run was CONFIRMED or REFUTED, "
    "else 3. A capsule: 3 if the run here is INCONCLUSIVE, else 0 if both outcomes are the same, 1 if they differ."
)
@verbose
def run() -> None:
    """Run a scenario and keep the evidence; or run a capsule again here and compare."""
