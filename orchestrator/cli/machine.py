"""Commands that prepare, check and clean this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.shell import Format, FormatOption, built_in_beds, print_json, say
from orchestrator.errors import EngineFailed, ExitCode

if TYPE_CHECKING:
    from orchestrator.host import Check


def setup() -> None:
    """Make this machine ready: the container engine, the base images, our images. A second call takes seconds."""
    from orchestrator import setup as setting_up
    from orchestrator.cli.progress import Steps

    with Steps() as steps, steps.step("set up this machine"):
        setting_up.setup(steps.say)


def doctor(
    bed: Annotated[
        str,
        typer.Argument(
            metavar="BED", help="A built-in bed or a YAML file to check this machine for.", autocompletion=built_in_beds
        ),
    ] = "relay",
    domains: Annotated[int | None, typer.Option(help="Domains, instead of the bed's own number.")] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Say what this host can and cannot run: what is needed, what was found, what to do."""
    from orchestrator import beds, host
    from orchestrator import images as catalogue
    from orchestrator.engine import docker
    from orchestrator.lab import HELPER
    from orchestrator.plan import make_plan

    wanted = beds.bed(bed, domains=domains)
    make_plan(wanted, cpus=1)  # a bed that cannot be built is no matter of this machine
    code = ExitCode.OK
    try:
        engine = docker.connect()
        info = engine.info()
        found = f"{info.version} on {info.operating_system}, {info.cpus} CPUs"
        checks = [host.Check(name="engine", needed="Docker 20.10 or later", found=found, do="", state="ok")]
        lacking = [tag for tag in (catalogue.tag(*image) for image in catalogue.of(wanted)) if not engine.image(tag)]
        checks.append(
            host.Check(
                name="images of the bed",
                needed=f"{len(catalogue.of(wanted))}",
                found=f"missing: {', '.join(lacking)}" if lacking else "all of them",
                do="`testbed setup` builds them, and so does the first run" if lacking else "",
                state="warn" if lacking else "ok",
            )
        )
        if HELPER not in lacking:  # it is what looks at the host
            checks += host.check(host.read(engine), make_plan(wanted, cpus=info.cpus).needs)
    except EngineFailed as none:
        checks = [host.Check(name="engine", needed=none.needed, found=none.found, do=none.do, state="fail")]
        code = none.exit_code
    if output is Format.JSON:
        print_json([check.to_dict() for check in checks])
    else:
        _show(checks)
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(code or ExitCode.HOST)


def _show(checks: "Sequence[Check]") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for title in ("", "check", "needed", "found"):
        table.add_column(title, overflow="fold")
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for check in checks:
        row = (check.name, check.needed, check.found)
        table.add_row(Text(check.state, style=colours[check.state]), *(Text(cell) for cell in row))
    console = Console(highlight=False)
    console.print(table)
    for check in checks:
        if check.do:
            console.print(f"do: {check.do}  ({check.name})", markup=False)


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
