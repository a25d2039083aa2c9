"""Commands about beds: up, down, ps, logs, exec, stats, plan, graph, schema."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli import shell
from orchestrator.errors import EngineFailed, InvalidInput, Problem
from orchestrator.plaintext import pass_on

if TYPE_CHECKING:
    from orchestrator.hosts import Host
    from orchestrator.hosts.docker.ssh import Target
    from orchestrator.hosts.ownership import DeployedBed
    from orchestrator.plan import NodePlan
    from orchestrator.up.node import RunningNode


def _deployed() -> "list[DeployedBed]":
    """Return the deployed beds, for shell completion; an empty list if no engine answers."""
    from orchestrator.hosts import docker, ownership

    try:
        return ownership.deployed_beds(docker.connect())
    except Problem:
        return []


def _deployed_names() -> list[str]:
    return [word for deployed in _deployed() for word in (deployed.bed, deployed.id)]


def _node_names() -> list[str]:
    return sorted({name for deployed in _deployed() for name in deployed.nodes})


_CPUS = 2
BedArgument = Annotated[
    str,
    typer.Argument(metavar="BED", help="A built-in bed (see list) or a YAML file.", autocompletion=shell.built_in_beds),
]
DeployedArgument = Annotated[
    str | None,
    typer.Argument(metavar="BED", help="Name or id; not needed if only one is up.", autocompletion=_deployed_names),
]
DeployedOption = Annotated[
    str | None,
    typer.Option("--bed", help="Name or id of the bed, if more than one is up.", autocompletion=_deployed_names),
]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The name of a node.", autocompletion=_node_names)]


def plan(
    bed: BedArgument = "relay",
    domains: shell.DomainsOption = None,
    parent: shell.ParentOption = None,
    families: shell.FamiliesOption = None,
    files: Annotated[Path | None, typer.Option(help="Write every rendered file below this folder, too.")] = None,
    cpus: Annotated[int, typer.Option(min=1, help="Number of CPUs of the host to plan for.")] = _CPUS,
    output: Annotated[
        Literal["text", "json", "compose"],
        typer.Option("--format", help="text for people, json for scripts, compose for `docker compose`."),
    ] = "text",
) -> None:
    """Print the plan of a bed without starting it: addresses, files, limits, and the needed resources of the host."""
    from orchestrator.bed import builtin
    from orchestrator.measurements.rundir import write_files
    from orchestrator.plan import make_plan
    from orchestrator.up import compose

    wanted = builtin.bed(bed, domains=domains, parent=parent, families=families)
    if output == "compose":
        composed = compose.compose_plan(wanted, cpus=cpus)
        options = {"domains": domains, "parent": parent, "families": families, "cpus": cpus if cpus != _CPUS else None}
        given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
        command = ["testbed", "plan", bed, *given]
        if files:
            write_files(files, {**compose.files(composed, command), **compose.certificates(composed)})
        else:
            typer.echo(compose.render(composed, command), nl=False)
        return
    made = make_plan(wanted, cpus=cpus)
    if files:
        for node in made.nodes:
            write_files(files / node.name, node.files)
    if output == "json":
        shell.print_json(made.to_dict())
        return
    needs = made.needs
    shell.tell(f"bed {made.bed.name}: {len(made.deliveries):,} domains on {made.subnet}, mail to {made.mail}")
    for node in made.nodes:
        shell.tell(
            f"  {node.name:8} {node.tag:26} {node.v4!s:15} {len(node.addresses):,} addresses, {len(node.files)} files, "
            f"{node.fds:,} fds, {node.memory_mb:,} MiB, {', '.join(node.publish) or 'nothing'} published"
        )
        _show_own(node, made.bed.nodes[node.name].files)
    shell.tell(
        f"needed of the host: {needs.containers} containers, {needs.neighbour_entries:,} neighbour entries, "
        f"{needs.fds:,} open files in one process, {needs.memory_mb:,} MiB"
    )


def _show_own(node: "NodePlan", own: Iterable[str]) -> None:
    """Print the user's own files of a node, and the changes made to them."""
    import hashlib

    for path in sorted(own):
        if (content := node.files.get(path)) is not None:
            typer.echo(f"           {path}  {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    for change in node.changes:
        typer.echo(f"           changed: {change}")
    for detour in node.detours:
        typer.echo(f"           can route mail elsewhere: {detour}")


def graph(
    bed: Annotated[
        str,
        typer.Argument(
            metavar="BED",
            help="The name or id of a bed that is up, else a built-in bed or a YAML file.",
            autocompletion=lambda: [*shell.built_in_beds(), *_deployed_names()],
        ),
    ] = "relay",
    domains: shell.DomainsOption = None,
    parent: shell.ParentOption = None,
    families: shell.FamiliesOption = None,
    output: Annotated[
        Literal["mermaid", "dot", "json"],
        typer.Option("--format", help="mermaid for Markdown, dot for Graphviz, json for scripts."),
    ] = "mermaid",
) -> None:
    """Draw a bed: its networks, and its nodes with roles, addresses and published ports."""
    from orchestrator.bed import builtin
    from orchestrator.hosts import docker
    from orchestrator.plan import graph as drawing
    from orchestrator.plan import make_plan
    from orchestrator.up.attach import attach

    options = domains or parent or families
    if builtin.is_named(bed) and (options or not _is_up(bed)):
        wanted = builtin.bed(bed, domains=domains, parent=parent, families=families)
        drawn = drawing.of_plan(make_plan(wanted, cpus=1))
    elif options:
        raise InvalidInput("a bed file for --domains, --parent and --families", f"bed {bed!r}", "leave them out")
    else:
        host = docker.connect()
        deployed = find(host, bed, "`testbed graph ID`")
        drawn = drawing.of_plan(attach(host, deployed).plan, deployed.ports)
    if output == "json":
        shell.print_json(drawn.to_dict())
    else:
        shell.tell((drawing.dot if output == "dot" else drawing.mermaid)(drawn).rstrip())


def _is_up(bed: str) -> bool:
    """Return whether a bed of this name is up; False if no engine answers."""
    from orchestrator.hosts import docker, ownership

    try:
        return bool(ownership.kept_beds(docker.connect(), bed))
    except EngineFailed:
        return False


def schema() -> None:
    """Print the JSON Schema of a bed file."""
    from orchestrator import services

    shell.print_json(services.schema())


def up(
    bed: BedArgument = "relay",
    domains: shell.DomainsOption = None,
    parent: shell.ParentOption = None,
    families: shell.FamiliesOption = None,
    name: Annotated[str | None, typer.Option(help="Name to use instead of the bed's own.")] = None,
    guests: Annotated[
        bool | None,
        typer.Option("--guests/--no-guests", help="A network `testbed-NAME-guests` that other containers may join."),
    ] = None,
    lasts: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="DURATION",
            help="Life time: 90s, 30m, 2h, 1d. The first up, run or clean after that removes the bed.",
        ),
    ] = None,
    publish: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Publish the ports on this address of the engine's host instead of 127.0.0.1, for other machines.",
        ),
    ] = None,
    wait: Annotated[  # noqa: ARG001
        bool, typer.Option("--wait", help="For scripts that say it: `up` always waits until each service answers.")
    ] = False,
    runs: shell.RunsOption = shell.RUNS,
    output: shell.FormatOption = "text",
) -> None:
    """Bring a bed up, wait until each service answers and a bed with a load delivers a message, and leave it up.

    Before that, remove abandoned and expired beds, and restore missing firewall rules of running ones. If the same bed
    is already up, only show it; if the one of this name differs or is damaged, fail.
    """
    from orchestrator.bed import builtin
    from orchestrator.cli.progress import Steps
    from orchestrator.hosts import LOOPBACK, docker
    from orchestrator.up import keep

    life = None if lasts is None else keep.lifetime(lasts)
    wanted = builtin.bed(bed, called=name, domains=domains, parent=parent, families=families, guests=guests)
    host = docker.connect()
    steps = Steps()
    deployed = keep.up(host, wanted, runs=runs, steps=steps, life=life, publish_at=publish or LOOPBACK)
    with keep.stays_up(deployed.id):
        _show_up(deployed, host.address, output)


def _show_up(deployed: "DeployedBed", machine: "Target | None", output: shell.Format) -> None:
    """Print a bed that is up, and the next commands."""
    if output == "json":
        shell.print_json(deployed.to_dict() | {"forward": _forward(deployed, machine)})
        return
    _show(deployed, machine)
    queue = (
        f"testbed exec --bed {deployed.id} {node['name']} -- postqueue -p"
        for node in deployed.to_dict()["nodes"]
        if node["service"] == "postfix"
    )
    shell.tell(f"next: {', '.join([f'testbed stats {deployed.id}', *queue, f'testbed down {deployed.id}'])}")


def ps(output: shell.FormatOption = "text") -> None:
    """List deployed beds, their nodes, published ports, and firewalls ("walls") that are open or were not looked at."""
    from orchestrator.hosts import docker, ownership, walls

    host = docker.connect()
    beds = ownership.deployed_beds(host)
    looked = walls.look(host, beds)
    if output == "json":
        shell.print_json(
            [
                deployed.to_dict()
                | {"forward": _forward(deployed, host.address)}
                | {
                    name: [wall.to_dict() for wall in looked if wall.bed is deployed and wall.state is state]
                    for name, state in (("open", walls.State.OPEN), ("not_looked_at", walls.State.UNSEEN))
                }
                for deployed in beds
            ]
        )
        return
    for deployed in beds:
        _show(deployed, host.address)
        own = [wall for wall in looked if wall.bed is deployed]
        for wall in own:
            if wall.state is walls.State.OPEN:
                shell.tell(f"  open: needed {wall.needed}; found {wall.found}; do: {wall.do}")
        for _, places, why, do in walls.grouped(own, walls.State.UNSEEN):
            shell.tell(f"  not looked at: {places}: {why}; do: {do}")
    if not beds:
        shell.tell("no bed is up")


def down(bed: DeployedArgument = None) -> None:
    """Take a bed down: containers, networks, veth pair."""
    from orchestrator.hosts import cleaning, docker

    host = docker.connect()
    deployed = find(host, bed, "`testbed down ID`", of_runs=False)
    cleaning.remove(host, deployed, shell.say)
    shell.say(f"bed {deployed.bed} {deployed.id} is down")


def logs(
    node: NodeArgument,
    bed: DeployedOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the node ends.")] = False,
    output: shell.FormatOption = "text",
) -> None:
    """Print the log of a node; on a terminal, control characters become visible."""
    from orchestrator import strict_json

    for line in _node(bed, node).log(follow=follow):
        if output == "json":
            typer.echo(strict_json.dumps({"t": round(line.t, 6), "text": line.text}))
        else:
            pass_on(f"{line.text}\n", sys.stdout)


def exec_(
    node: NodeArgument,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The command and its arguments.")],
    bed: DeployedOption = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Time limit of the command, in seconds.")] = 60.0,
    output: shell.FormatOption = "text",
) -> None:
    """Run a command in a node with its service's capabilities; on a terminal, control characters become visible."""
    from orchestrator.hosts import Overdue

    def show(status: int | None, stdout: str, stderr: str) -> None:
        if output == "json":
            shell.print_json({"status": status, "stdout": stdout, "stderr": stderr})
        else:
            pass_on(stdout, sys.stdout)
            pass_on(stderr, sys.stderr)

    try:
        done = _node(bed, node, running=True).exec(*command, timeout=timeout)
    except Overdue as late:
        show(None, late.stdout, late.stderr)
        late.do = f"give it more time with --timeout (now {timeout:g} s)"
        raise
    show(done.status, done.stdout, done.stderr)
    raise typer.Exit(done.status)


def stats(bed: DeployedArgument = None, output: shell.FormatOption = "text") -> None:
    """Show the state of each node of a bed, and its resource use over one second."""
    from orchestrator.hosts import docker
    from orchestrator.up.attach import attach
    from orchestrator.up.collect.stats import rates, table

    host = docker.connect()
    used = rates(attach(host, find(host, bed, "`testbed stats ID`")))
    shell.answer(output, used, lambda: shell.tell(table(used)))


def find(host: "Host", wanted: str | None, give: str, *, of_runs: bool = True) -> "DeployedBed":
    """Return the deployed bed of this name or id; if None, the only bed.

    ``give``: how to name a bed, for the error. ``of_runs``: beds of running measurements count, too.
    """
    from orchestrator.hosts import ownership

    deployed = ownership.deployed_beds(host)
    present = [bed for bed in deployed if bed.networks]  # a helper container of another command has no network
    if wanted is None:
        found = [bed for bed in present if of_runs or bed.kind is ownership.Kind.UP]
    else:
        found = [bed for bed in deployed if wanted in {bed.id, bed.bed}]
    if len(found) == 1:
        return found[0]
    listed = [f"{bed.bed} {bed.id}{'' if bed.kind is ownership.Kind.UP else ' (of a run)'}" for bed in found or present]
    needed = "one bed" if wanted is None else f"one bed {wanted!r}"
    do = f"give {give}, ID from `testbed ps`" if listed else "bring one up: `testbed up`"
    raise InvalidInput(needed, ", ".join(listed) or "none", do)


def _node(bed: str | None, name: str, *, running: bool = False) -> "RunningNode":
    """Attach to a bed and return one of its nodes; ``running``: raise EngineFailed if it has ended."""
    from orchestrator.hosts import docker
    from orchestrator.up.attach import attach, unfinished

    host = docker.connect()
    deployed = find(host, bed, "`--bed ID`")
    if name in deployed.lost:
        do = f"`testbed down {deployed.id}`, then `testbed up` again"
        raise EngineFailed(f"node {name} of bed {deployed.bed}", "its container was removed", do)
    nodes = attach(host, deployed).nodes
    if name in deployed.nodes and name not in nodes:
        raise unfinished(deployed)
    if name not in nodes:
        raise InvalidInput(f"a node of bed {deployed.bed}", repr(name), f"choose one of {', '.join(sorted(nodes))}")
    container = deployed.node_containers.get(name)
    if running and container and container.state != "running":
        do = f"see `testbed logs --bed {deployed.id} {name}`"
        raise EngineFailed(f"node {name} running", f"it is {container.state}", do)
    return nodes[name]


def _forward(deployed: "DeployedBed", machine: "Target | None") -> str | None:
    """Return the ssh command that forwards a bed's TCP ports to this machine; ``None`` if none is needed."""
    from orchestrator.hosts import LOOPBACK
    from orchestrator.hosts.docker import ssh

    tcp = sorted(n for ports in deployed.ports.values() for port, n in ports.items() if port.endswith("/tcp"))
    return ssh.way_to(machine, tcp) if machine and tcp and deployed.published_at == LOOPBACK else None


def _show(deployed: "DeployedBed", machine: "Target | None") -> None:
    """Print a bed. ``machine``: the remote machine whose 127.0.0.1 has its published ports; ``None``: this machine."""
    from orchestrator.hosts import ownership

    facts = deployed.to_dict()
    until = f", until {deployed.expires}" if deployed.expires else ""
    shell.tell(f"{deployed.bed} {deployed.id} {facts['state']}, {facts['kind']}, on {facts['subnet']}{until}")
    address = ownership.in_url(deployed.published_at)
    for node in facts["nodes"]:
        ports = ", ".join(f"{port} at {address}:{number}" for port, number in node["ports"].items())
        shell.tell(f"  {node['name']:8} {node['service']:10} {node['state']:9} {ports}")
    if guests := facts["guests"]:
        shell.tell(f"  guests: docker run --network {guests['network']} ... reaches {', '.join(guests['aliases'])}")
    if machine and (forward := _forward(deployed, machine)):
        shell.tell(f"  127.0.0.1 is {machine.host}'s; to forward its TCP ports here, until Ctrl-C: {forward}")
