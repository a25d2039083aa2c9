"""Commands that bring beds up, list them and take them down: up, ps, down."""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import chosen, shell

if TYPE_CHECKING:
    from orchestrator.hosts.docker.ssh import Target
    from orchestrator.hosts.ownership import DeployedBed


def up(
    bed: shell.BedArgument = "relay",
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
    """Bring a bed up, wait until each service answers (and, with a load generator, mail arrives), and leave it up.

    Before that, remove abandoned and expired beds, and restore missing firewall rules of running ones. If the same bed
    is already up, only show it; if it is damaged, or another bed of this name is up, fail.
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


def down(bed: chosen.Argument = None) -> None:
    """Take a bed down: its containers and networks."""
    from orchestrator.hosts import cleaning, docker

    host = docker.connect()
    found = chosen.find(host, bed, "`testbed down ID`", of_runs=False)
    cleaning.remove(host, found, shell.say)
    shell.say(f"bed {found.bed} {found.id} is down")


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
