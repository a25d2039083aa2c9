"""Choice of a bed that is up: arguments with their completion, and the search by name or id."""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from orchestrator.hosts import Host
    from orchestrator.hosts.ownership import DeployedBed
    from orchestrator.up.bed import RunningBed


def _all() -> "list[DeployedBed]":
    """Return the deployed beds, for shell completion; an empty list if no engine answers."""
    from orchestrator.hosts import docker, ownership

    try:
        return ownership.deployed_beds(docker.connect())
    except Problem:
        return []


def names() -> list[str]:
    """Return the names and ids of the deployed beds, for shell completion."""
    return [word for deployed in _all() for word in (deployed.bed, deployed.id)]


def node_names() -> list[str]:
    """Return the names of the nodes of all deployed beds, for shell completion."""
    return sorted({name for deployed in _all() for name in deployed.nodes})


Argument = Annotated[
    str | None,
    typer.Argument(metavar="BED", help="Name or id; not needed if only one is up.", autocompletion=names),
]
Option = Annotated[
    str | None,
    typer.Option("--bed", help="Name or id of the bed, if more than one is up.", autocompletion=names),
]


def find(host: "Host", wanted: str | None, give: str, *, of_runs: bool = True) -> "DeployedBed":
    """Return the deployed bed with the name or id ``wanted``; for None, the only deployed bed.

    ``give``: advice in the error on how to name a bed. ``of_runs``: include beds of running scenarios.
    """
    from orchestrator.hosts import ownership

    deployed = ownership.deployed_beds(host)
    present = [bed for bed in deployed if bed.networks]  # skip another command's helper container: it has no network
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


def attached(bed: str | None, give: str = "`--bed ID`") -> "RunningBed":
    """Find a deployed bed as ``find`` does, and return its handle."""
    from orchestrator.hosts import docker
    from orchestrator.up.attach import attach

    host = docker.connect()
    return attach(host, find(host, bed, give))
