"""Bring-up of a bed for tests. The bed belongs to this process; beds of killed processes are removed first."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.bed.model import Bed
from orchestrator.errors import InvalidInput, Problem
from orchestrator.hosts import LOOPBACK, Host, cleaning, networks
from orchestrator.hosts.ownership import ID, NODE, Identity, Kind, scratch, this_process
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import make_plan
from orchestrator.testing.failure import part
from orchestrator.testing.progress import Logged
from orchestrator.up.admission import admit, features_explained, reading
from orchestrator.up.bed import RecordedBed
from orchestrator.up.bringup import bring_up, verify


def start(
    host: Host,
    bed: Bed,
    publish_at: str,
    *,
    kind: Kind,
    owner: str,
    files: ExitStack,
    stack: ExitStack,
    labels: Mapping[str, str],
) -> tuple[str, RecordedBed]:
    """Bring a bed up; return its id and its handle. ``stack`` removes the bed; ``files`` removes its run directory.

    ``labels``: labels of another tool, added to every object.

    Raises:
        InvalidInput: this process could not reach the published ports.
        HostCannot: the host lacks something that the bed needs.
        EngineFailed: the bring-up failed; a note for each node has the end of its log.
    """
    steps = Logged()
    _check_reach(host, publish_at)
    folder = Path(files.enter_context(TemporaryDirectory(prefix=scratch(owner or this_process()))))
    cpus = host.info().cpus
    with reading(host) as read:  # in a thread, while this process plans
        plan = make_plan(bed, cpus=cpus)
        verify(plan)
        cleaning.make_way(host, steps.say)
        admit(host, plan, read, disk=folder, steps=steps)
    rundir = RunDir.create(folder, "testing")
    try:
        with features_explained(host, plan.needs), ExitStack() as up:
            identity = Identity.new(bed, kind, owner=owner, published_at=publish_at, foreign=labels)
            live = bring_up(host, bed, identity, rundir=rundir, steps=steps, stack=up, cpus=cpus, statistics=False)
            found = {one.labels[NODE]: one.ports for one in host.find({ID: identity.id}) if NODE in one.labels}
            stack.push(up.pop_all())
    except Problem as problem:
        for node in rundir.logs():
            problem.add_note(part(f"log of {node}", [text for _, text in rundir.log(node)]))
        raise
    nodes = {name: replace(node, ports=found[name], published_at=publish_at) for name, node in live.nodes.items()}
    return identity.id, replace(live, nodes=nodes)


def _check_reach(host: Host, publish_at: str) -> None:
    """Raise InvalidInput if the ports would be published on the loopback address of another machine."""
    if publish_at != LOOPBACK:
        networks.require_address(host, publish_at)
    elif host.address and host.address.host not in {LOOPBACK, "localhost"}:
        needed, found = (
            "ports that this machine reaches",
            f"an engine on {host.address.host}: its 127.0.0.1 is another machine's",
        )
        raise InvalidInput(needed, found, 'use MailBed(publish_at="0.0.0.0"), which opens the bed to that network')
