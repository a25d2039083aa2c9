"""Commands about beds that stay up, and about what a bed file says."""

import shutil
import sys
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.shell import (
    RUNS,
    BedOption,
    Format,
    FormatOption,
    RunsOption,
    beds_there,
    built_in_beds,
    nodes_there,
    print_json,
    say,
)
from orchestrator.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from orchestrator.engine import Engine, Found
    from orchestrator.engine.ssh import Target
    from orchestrator.ownership import Standing


class PlanFormat(StrEnum):
    """How a plan is printed."""

    TEXT = "text"
    JSON = "json"
    COMPOSE = "compose"


BedArgument = Annotated[
    str,
    typer.Argument(metavar="BED", help="A built-in bed (see list), or a YAML file.", autocompletion=built_in_beds),
]
DomainsOption = Annotated[int | None, typer.Option(help="Domains, instead of the bed's own number.")]
ParentOption = Annotated[str | None, typer.Option(help="Put the lab on this real interface, not a private one.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The name of a node.", autocompletion=nodes_there)]


def plan(
    bed: BedArgument = "relay",
    domains: DomainsOption = None,
    parent: ParentOption = None,
    files: Annotated[Path | None, typer.Option(help="Write every rendered file below this folder, too.")] = None,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of the host that it is planned for.")] = 2,
    output: Annotated[
        PlanFormat, typer.Option("--format", help="text for people, json for scripts, compose for `docker compose`.")
    ] = PlanFormat.TEXT,
) -> None:
    """Work a bed out, and start nothing: addresses, files, limits, and what it asks of the host."""
    from orchestrator import beds, compose
    from orchestrator.plan import make_plan
    from orchestrator.rundir import write_files

    wanted = beds.bed(bed, domains=domains, parent=parent)
    if output is PlanFormat.COMPOSE:
        composed = compose.compose_plan(wanted, cpus=cpus)
        if files:
            write_files(files, compose.files(composed))
        else:
            typer.echo(compose.render(composed), nl=False)
        return
    made = make_plan(wanted, cpus=cpus)
    if files:
        for node in made.nodes:
            write_files(files / node.name, node.files)
    if output is PlanFormat.JSON:
        print_json(made.to_dict())
        return
    needs = made.needs
    typer.echo(f"bed {made.bed.name}: {len(made.deliveries):,} domains on {made.subnet}, mail to {made.mail}")
    for node in made.nodes:
        typer.echo(
            f"  {node.name:8} {node.tag:26} {node.v4!s:15} {len(node.addresses):,} addresses, {len(node.files)} files, "
            f"{node.fds:,} fds, {node.memory_mb:,} MiB, {', '.join(node.publish) or 'nothing'} published"
        )
    typer.echo(
        f"asks of the host: {needs.containers} containers, {needs.neighbour_entries:,} neighbour entries, "
        f"{needs.fds:,} open files in one process, {needs.memory_mb:,} MiB"
    )


def schema() -> None:
    """Print the JSON Schema of a bed file."""
    from orchestrator import services

    print_json(services.schema())


def up(
    bed: BedArgument = "relay",
    domains: DomainsOption = None,
    parent: ParentOption = None,
    runs: RunsOption = RUNS,
    output: FormatOption = Format.TEXT,
) -> None:
    """Bring a bed up and leave it up, once a message to its domains is delivered."""
    from orchestrator import beds, images
    from orchestrator.bringup import bring_up
    from orchestrator.cli.progress import Steps
    from orchestrator.engine import docker
    from orchestrator.ownership import Kind
    from orchestrator.plan import make_plan
    from orchestrator.rundir import RunDir

    wanted = beds.bed(bed, domains=domains, parent=parent)
    engine = docker.connect()
    cpus = engine.info().cpus
    make_plan(wanted, cpus=cpus)  # what cannot be built is refused before anything is made
    with Steps() as steps:
        with steps.step("find or build the images"):
            old = images.ensure(engine, images.of(wanted), steps.say)
        images.note_old(old, steps.step)
        rundir = RunDir.create(runs, "up")
        try:
            with ExitStack() as stack:
                identity, live = bring_up(
                    engine, wanted, kind=Kind.UP, rundir=rundir, steps=steps, stack=stack, cpus=cpus
                )
                stack.pop_all()
                live.recorder.close(timeout=0)
        except Problem as problem:
            if rundir.logs():
                rundir.save({"scenario": "up", "status": "failed", "error": problem.to_dict()})
                problem.add_note(f"kept:   {rundir.path}, with the logs of the nodes until then")
            else:
                _discard(rundir.path)
            raise
    _discard(rundir.path)
    standing = _standing(engine, identity.id)
    if output is Format.JSON:
        print_json(standing.to_dict())
    else:
        _show(standing, engine.host)
        typer.echo(f"next: testbed stats, testbed exec relay -- postqueue -p, testbed down {identity.id}")


def ps(output: FormatOption = Format.TEXT) -> None:
    """List the beds there are, with their nodes and published ports."""
    from orchestrator import ownership
    from orchestrator.engine import docker

    engine = docker.connect()
    found = ownership.standing(engine)
    if output is Format.JSON:
        print_json([standing.to_dict() for standing in found])
        return
    for standing in found:
        _show(standing, engine.host)
    if not found:
        typer.echo("no bed is up")


def down(
    bed: Annotated[
        str | None,
        typer.Argument(metavar="BED", help="Name or id; not needed when one is up.", autocompletion=beds_there),
    ] = None,
) -> None:
    """Take a bed down: containers, networks, veth pair."""
    from orchestrator import cleaning
    from orchestrator.engine import docker
    from orchestrator.interrupts import shielded

    engine = docker.connect()
    standing = _standing(engine, bed)
    with shielded():
        cleaning.remove(engine, standing)
    say(f"bed {standing.bed} {standing.id} is down")


def logs(
    node: NodeArgument,
    bed: BedOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the node ends.")] = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Print what a node has printed."""
    from orchestrator.engine import docker

    engine = docker.connect()
    for line in engine.logs(_node(engine, bed, node).id, follow=follow):
        if output is Format.JSON:
            typer.echo(f'{{"t": {line.t:.6f}, "text": {_quoted(line.text)}}}')
        else:
            typer.echo(line.text)


def exec_(
    node: NodeArgument,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The command and its arguments.")],
    bed: BedOption = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that it may take.")] = 60.0,
    output: FormatOption = Format.TEXT,
) -> None:
    """Run a command in a node, with no right that its service has not."""
    from orchestrator import services, wiring
    from orchestrator.engine import docker
    from orchestrator.ownership import SERVICE

    engine = docker.connect()
    found = _node(engine, bed, node)
    rights = services.service(found.labels[SERVICE]).capabilities
    done = engine.exec(found.id, wiring.without_setup_rights(command, rights), timeout=timeout)
    if output is Format.JSON:
        print_json({"status": done.status, "stdout": done.stdout, "stderr": done.stderr})
    else:
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
    raise typer.Exit(done.status)


def stats(bed: BedOption = None, output: FormatOption = Format.TEXT) -> None:
    """Show what each node of a bed uses at this moment, over one second."""
    from orchestrator.collect.stats import rates
    from orchestrator.engine import docker
    from orchestrator.ownership import NODE

    engine = docker.connect()
    nodes = {c.labels[NODE]: c.id for c in _standing(engine, bed).containers if NODE in c.labels}
    used = rates(engine, nodes)
    if output is Format.JSON:
        print_json(used)
        return
    typer.echo(f"{'node':10}{'cores':>8}{'MiB':>8}{'in kB/s':>10}{'out kB/s':>10}{'pids':>7}")
    for name, use in used.items():
        typer.echo(
            f"{name:10}{use['cores']:8.2f}{use['memory_b'] / 2**20:8.0f}"
            f"{use['rx_b_per_s'] / 1e3:10.1f}{use['tx_b_per_s'] / 1e3:10.1f}{use['pids']:7.0f}"
        )


def _discard(rundir: Path) -> None:
    """Remove the directory of an `up` that nobody needs, and the folder around it when nothing else is in it."""
    shutil.rmtree(rundir, ignore_errors=True)
    with suppress(OSError):
        rundir.parent.rmdir()


def _standing(engine: "Engine", wanted: str | None) -> "Standing":
    """Find the bed that a command is about: by id or name, or the only one there is."""
    from orchestrator import ownership

    found = [s for s in ownership.standing(engine) if wanted is None or wanted in {s.id, s.bed}]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{s.bed} {s.id}" for s in found) or "none"
    raise InvalidInput("one bed" if wanted is None else f"one bed {wanted!r}", there, "name its id; see `testbed ps`")


def _node(engine: "Engine", bed: str | None, name: str) -> "Found":
    standing = _standing(engine, bed)
    if found := standing.node(name):
        return found
    names = ", ".join(node["name"] for node in standing.to_dict()["nodes"])
    raise InvalidInput(f"a node of bed {standing.bed}", repr(name), f"choose one of {names}")


def _show(standing: "Standing", host: "Target | None") -> None:
    """Print a bed; ``host`` is the machine whose 127.0.0.1 its ports are on, ``None``: this one."""
    from orchestrator.engine import ssh

    facts = standing.to_dict()
    typer.echo(f"{standing.bed} {standing.id} {facts['state']}, {facts['kind']}, on {facts['subnet']}")
    for node in facts["nodes"]:
        ports = ", ".join(f"{port} at 127.0.0.1:{host}" for port, host in node["ports"].items())
        typer.echo(f"  {node['name']:8} {node['service']:10} {node['state']:9} {ports}")
    tcp = [number for node in facts["nodes"] for port, number in node["ports"].items() if port.endswith("/tcp")]
    if host and tcp:
        typer.echo(f"  127.0.0.1 is {host.host}'s; its TCP ports are here while this runs: {ssh.way_to(host, tcp)}")


def _quoted(text: str) -> str:
    import json

    return json.dumps(text)
