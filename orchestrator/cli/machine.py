"""Commands that prepare, check and clean this machine."""

from typing import Annotated

import typer

from orchestrator.cli.shell import Format, FormatOption, print_json, say
from orchestrator.errors import ExitCode


def setup() -> None:
    """Make this machine ready: the container engine, the base images, our images. A second call takes seconds."""
    from orchestrator import setup as setting_up
    from orchestrator.cli.progress import Steps

    with Steps() as steps, steps.step("set up this machine"):
        setting_up.setup(steps.say)


def doctor(
    bed: Annotated[str, typer.Argument(help="A built-in bed or a YAML file to check this machine for.")] = "relay",
    domains: Annotated[int | None, typer.Option(help="Domains, instead of the bed's own number.")] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Say what this host can and cannot run: what is needed, what was found, what to do."""
    from orchestrator import beds, host
    from orchestrator.engine import docker
    from orchestrator.plan import make_plan

    engine = docker.connect()
    readings = host.read(engine)
    plan = make_plan(beds.bed(bed, domains=domains), cpus=engine.info().cpus)
    checks = host.check(readings, plan.needs)
    if output is Format.JSON:
        print_json([check.to_dict() for check in checks])
    else:
        for check in checks:
            typer.echo(f"{check.state:5} {check.name}: needed {check.needed}; found {check.found}")
            if check.do:
                typer.echo(f"      do: {check.do}")
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(ExitCode.HOST)


def images(
    build: Annotated[bool, typer.Option("--build", help="Build what is missing or older than its files.")] = False,
    release: Annotated[str, typer.Option(help="The Debian release of their daemons.")] = "bookworm",
    output: FormatOption = Format.TEXT,
) -> None:
    """List the images, and whether they are built from the files as they are now."""
    from orchestrator import images as catalogue
    from orchestrator.cli.progress import Steps
    from orchestrator.engine import docker

    engine = docker.connect()
    if build:
        with Steps() as steps, steps.step(f"build the images for {release}"):
            catalogue.ensure(engine, [(name, release) for name in catalogue.names(release)], steps.say)
    states = catalogue.states(engine, release)
    if output is Format.JSON:
        print_json([state.to_dict() for state in states])
    else:
        for state in states:
            typer.echo(f"{state.tag:32} {state.state:8} {state.size_b / 1e6:7.0f} MB" if state.size_b else state.tag)


def clean(
    everything: Annotated[bool, typer.Option("--all", help="Also beds that are up and runs that go on.")] = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Remove every trace of runs that were killed; beds that are up stay, unless --all."""
    from orchestrator import cleaning
    from orchestrator.engine import docker

    done = cleaning.clean(docker.connect(), everything=everything, say=say)
    if output is Format.JSON:
        print_json(done.to_dict())
        return
    typer.echo(f"{len(done.removed)} removed, {len(done.kept)} kept")
    for bed in done.kept:
        typer.echo(f"  kept {bed.bed} {bed.id}: it is {bed.state}; `testbed clean --all` removes it, too")
