"""Beds that stay up after their command: reuse of a deployed bed, or bring-up of a new one."""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from orchestrator.bed.model import Bed
from orchestrator.errors import EngineFailed, InvalidInput, Problem, usable
from orchestrator.hosts import LOOPBACK, Host, cleaning, networks, walls
from orchestrator.hosts.ownership import (
    DeployedBed,
    Identity,
    Kind,
    Owner,
    bringing_up,
    definition,
    deployed_beds,
    kept_beds,
)
from orchestrator.interrupts import Interrupted, shielded
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import make_plan
from orchestrator.up.admission import admit, features_explained, reading
from orchestrator.up.bringup import Progress, Withdrawn, bring_up, verify

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def lifetime(text: str) -> timedelta:
    """Parse a lifetime: 90s, 30m, 2h, 1d.

    Raises:
        InvalidInput: the text is not a lifetime.
    """
    if read := re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text):
        return timedelta(seconds=int(read[1]) * _UNITS[read[2]])
    raise InvalidInput("the lifetime of a bed", repr(text), "write a number and a unit: 90s, 30m, 2h or 1d")


def up(
    host: Host, bed: Bed, *, runs: Path, steps: Progress, life: timedelta | None = None, publish_at: str = LOOPBACK
) -> DeployedBed:
    """Return the deployed bed of this name and definition; bring it up if there is none.

    First remove abandoned beds and restore open walls (firewalls) of all beds. ``life`` starts with the first object.
    ``publish_at``: address of the host on which the ports are published.

    Raises:
        InvalidInput: another bed of this name is up, or the definition or ``publish_at`` is invalid.
        HostCannot: the bed needs more than the host has.
        EngineFailed: the deployed bed is damaged, or the bring-up failed; the logs of its nodes are kept.
    """
    cpus = host.info().cpus
    with reading(host) as read:  # in a thread, while this process plans
        plan = make_plan(bed, cpus=cpus)
        verify(plan)  # before any object is made
        if present := _present(host, bed, steps, life, publish_at):
            return present
        admit(host, plan, read, disk=runs, steps=steps)
    if publish_at != LOOPBACK:
        networks.require_address(host, publish_at)
        if not ip_address(publish_at).is_loopback:
            steps.say(
                f"warning: the ports are published on {publish_at}: every machine that reaches it can use the bed"
            )
    try:
        with features_explained(host, plan.needs):
            id_ = _bring_up(host, bed, runs, steps, life, cpus, publish_at)
    except Withdrawn:
        if present := _present(host, bed, steps, life, publish_at):
            steps.say(f"this is bed {present.bed} {present.id} of the other command")
            return present
        raise
    with stays_up(id_):
        if made := next((deployed for deployed in deployed_beds(host) if deployed.id == id_), None):
            return made
    raise EngineFailed(f"bed {bed.name} {id_} up", "it was removed as soon as it was up", "find out who removed it")


@contextmanager
def stays_up(id_: str) -> Iterator[None]:
    """If the block is interrupted, add a note to the exception that this bed is up."""
    try:
        yield
    except Interrupted as signal:
        signal.add_note(f"bed {id_} is up; `testbed down {id_}` takes it down")
        raise


def _present(host: Host, bed: Bed, steps: Progress, life: timedelta | None, publish_at: str) -> DeployedBed | None:
    """Return the undamaged deployed bed of this name and definition; ``None`` if no bed of this name is up."""
    with steps.step("look at the beds that are up"):
        cleaning.make_way(host, steps.say)
        not_closed = walls.mend(host, steps.say)
    for deployed in kept_beds(host, bed.name):
        named, down = f"bed {deployed.bed} {deployed.id}", f"`testbed down {deployed.id}`"
        if deployed.definition != definition(bed):
            found = f"{named}, {deployed.state}, of another definition"
            raise InvalidInput(f"no other bed called {bed.name}", found, f"{down}, or give this one another --name")
        if deployed.published_at != publish_at:
            found = f"{named}, with its ports on {deployed.published_at}"
            raise InvalidInput(
                f"the ports of bed {bed.name} on {publish_at}", found, f"{down} first, or the same --publish"
            )
        if deployed.owner_state is Owner.ALIVE:
            raise EngineFailed(f"{named} up", "another command is bringing it up", "wait for the end of that command")
        if faults := [f"{wall.place}: {wall.found}" for wall in not_closed if wall.bed.id == deployed.id]:
            do = f"{down}, then `testbed up` again; `testbed logs --bed {deployed.id} NODE` says why a node ended"
            raise EngineFailed(f"{named} undamaged", ", ".join(faults), do)
        if life:
            end = deployed.expires or "none"
            steps.say(f"warning: {named} is up already; its end does not change: {end}")
        return deployed
    return None


def _bring_up(
    host: Host, bed: Bed, runs: Path, steps: Progress, life: timedelta | None, cpus: int, publish_at: str
) -> str:
    """Bring a bed up and return its id; keep the recording only if the bring-up fails after a node logged a line."""
    with usable(runs):
        made = [folder for folder in (runs, *runs.parents) if not folder.exists()]
    rundir = RunDir.create(runs, "up")
    try:
        with ExitStack() as claim, ExitStack() as stack:
            owner = claim.enter_context(bringing_up())
            identity = Identity.new(bed, Kind.UP, life, owner=owner, published_at=publish_at)
            running = bring_up(
                host, bed, identity, rundir=rundir, steps=steps, stack=stack, cpus=cpus, statistics=False
            )
            with stays_up(identity.id), shielded():
                stack.pop_all()
                running.recorder.close(timeout=0)
                claim.close()
    except Interrupted:
        _discard(rundir.path, made)
        raise
    except Problem as problem:
        if rundir.logs():
            rundir.save_end({"scenario": "up", "status": "failed", "error": problem.to_dict()}, problem)
            problem.add_note(f"kept:   {rundir.path}, with the nodes' logs until the failure")
        else:
            _discard(rundir.path, made)
        raise
    with stays_up(identity.id), shielded():
        _discard(rundir.path, made)
    return identity.id


def _discard(rundir: Path, made: Iterable[Path]) -> None:
    """Remove the run directory of an `up`, and the empty parent folders that this command made."""
    shutil.rmtree(rundir, ignore_errors=True)
    with suppress(OSError):
        for folder in made:
            folder.rmdir()
