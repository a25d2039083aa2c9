"""Commands about scenarios and finished runs: list, runs, analyze, capsule. None needs an engine."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import shell
from orchestrator.errors import InvalidInput


def list_(output: shell.FormatOption = "text") -> None:
    """List the scenarios, built-in beds and services."""
    from orchestrator import scenarios, services
    from orchestrator.bed import builtin

    if output == "json":
        shell.print_json(
            {
                "scenarios": {
                    name: {
                        "question": scenario.question,
                        "parameters": {
                            field: {"default": info.default, "description": info.description}
                            for field, info in scenario.params.model_fields.items()
                        },
                    }
                    for name, scenario in scenarios.known().items()
                },
                "beds": {name: builtin.bed(name).model_dump(exclude_defaults=True) for name in builtin.names()},
                "services": {name: {"role": kind.role, "image": kind.image} for name, kind in services.known().items()},
            }
        )
        return
    outlines = {}
    for name in builtin.names():
        bed = builtin.bed(name)
        nodes = ", ".join(f"{node} ({spec.service})" for node, spec in bed.nodes.items())
        outlines[name] = f"{len(bed.domain_names):,} domains; {nodes}"
    known = {
        "scenarios": {name: scenario.question for name, scenario in scenarios.known().items()},
        "beds": outlines,
        "services": {name: f"fills the role {kind.role}" for name, kind in services.known().items()},
    }
    for title, entries in known.items():
        shell.tell(title)
        for name, text in entries.items():
            shell.tell(f"  {name:18} {text}")


def runs(where: shell.RunsOption = shell.RUNS, output: shell.FormatOption = "text") -> None:
    """List all runs, oldest first; mark each run whose environment differs from the newest run's."""
    from orchestrator.measurements.rundir import RunDir
    from orchestrator.report import terminal
    from orchestrator.report.summary import in_brief

    found = []
    for path in RunDir.below(where):
        try:
            in_brief(run := RunDir.open(path))
        except InvalidInput as broken:
            shell.say(f"left out: {broken.found}")
            continue
        for mark in run.left_out_marks:
            shell.say(f"{path}: {mark}")
        found.append(run)
    if output == "json":
        shell.print_json([in_brief(run) for run in found])
    elif not found:
        shell.tell(f"no runs below {where}; `testbed run relay-throughput` makes one")
    else:
        terminal.show_runs(found)


RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run directory or its name below --runs.", autocompletion=shell.made_runs),
]


def analyze(
    run: RunArgument,
    where: shell.RunsOption = shell.RUNS,
    output: shell.FormatOption = "text",
) -> None:
    """Judge a run again from its directory, without Docker, and rewrite its report."""
    from orchestrator.measurements.rundir import RunDir
    from orchestrator.runs import runner

    shell.conclude_run(runner.judge_again(RunDir.named(run, where)), output)


def capsule(
    run: RunArgument,
    file: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="File to write, ending in .json (added if missing); by default <run>.capsule.json."
        ),
    ] = None,
    where: shell.RunsOption = shell.RUNS,
) -> None:
    """Write a run into one file, a capsule, which `testbed run FILE` repeats and compares on another machine."""
    from orchestrator.measurements.rundir import RunDir
    from orchestrator.runs import capsule as capsules

    rundir = RunDir.named(run, where)
    path = file or Path(f"{rundir.path.resolve().name}.capsule.json")
    if path.suffix != ".json":
        path = Path(f"{path}.json")
    capsules.write(capsules.make(rundir), path)
    again = shlex.join(["testbed", "run", str(path)])
    shell.tell(f"{path}, {path.stat().st_size:,} bytes; `{again}` runs it again and compares")
