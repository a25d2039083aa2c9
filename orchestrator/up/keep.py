"""A bed that stays up: found as it stands, or brought up and left standing."""

import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

from orchestrator.bed.model import Bed
from orchestrator.errors import EngineFailed, InvalidInput, Problem, usable
from orchestrator.hosts import Host, capacity, cleaning, images, walls
from orchestrator.hosts.ownership import DeployedBed, Kind, Owner, definition, deployed_beds
from orchestrator.interrupts import Interrupted
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import make_plan
from orchestrator.up.bringup import Progress, bring_up, verify

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def lifetime(text: str) -> timedelta:
    """Read a life time: 90s, 30m, 2h, 1d.

    Raises:
        InvalidInput: it is none.
    """
    if read := re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text):
        return timedelta(seconds=int(read[1]) * _UNITS[read[2]])
    raise InvalidInput("the life time of a bed", repr(text), "write a number and a unit: 90s, 30m, 2h or 1d")


def up(engine: Host, bed: Bed, *, runs: Path, steps: Progress, life: timedelta | None = None) -> DeployedBed:
    """Return the bed of this name if it stands, whole and of the same definition; else bring it up and leave it up.

    Open walls of all beds are put back and abandoned beds removed first. ``life`` begins with the first object made.

    Raises:
        InvalidInput: another bed of this name is up, or this one cannot be built.
        HostCannot: the host lacks what it needs.
        EngineFailed: the bed stands damaged, or did not come up; the logs of its nodes are kept.
    """
    cpus = engine.info().cpus
    plan = make_plan(bed, cpus=cpus)
    verify(plan)  # what cannot be built is refused before anything is made
    with steps.step("look at the beds that are up"):
        cleaning.make_way(engine, steps.say)
        there = _there(bed, deployed_beds(engine), walls.mend(engine, steps.say))
    if there:
        if life:
            steps.say(f"warning: bed {there.bed} {there.id} is up already; its end stays: {there.expires or 'none'}")
        return there
    with steps.step("find or build the images"):
        images.ensure(engine, images.of(bed), steps.say)
        capacity.admit(capacity.read(engine), plan.needs, runs, provoked=frozenset(), smaller=None, say=steps.say)
    id_ = _bring_up(engine, bed, runs, steps, life, cpus)
    return next(found for found in deployed_beds(engine) if found.id == id_)


def _there(bed: Bed, beds: Iterable[DeployedBed], not_closed: Sequence[walls.Wall]) -> DeployedBed | None:
    """Return the bed that is wanted from those that stand; ``None``: no bed of its name is up."""
    for there in beds:
        if there.kind is not Kind.UP or there.bed != bed.name or there.abandoned:
            continue
        named, down = f"bed {there.bed} {there.id}", f"`testbed down {there.id}`"
        if there.definition != definition(bed):
            found = f"{named}, {there.state}, of another definition"
            raise InvalidInput(f"no other bed called {bed.name}", found, f"{down}, or give this one another --name")
        if there.owner is Owner.ALIVE:
            raise EngineFailed(f"{named} up", "another command is bringing it up", "wait for the end of that command")
        if faults := [f"{wall.place}: {wall.found}" for wall in not_closed if wall.bed.id == there.id]:
            do = f"{down}, then `testbed up` again; `testbed logs --bed {there.id} NODE` says why a node ended"
            raise EngineFailed(f"{named} whole, to go on with it", ", ".join(faults), do)
        return there
    return None


def _bring_up(engine: Host, bed: Bed, runs: Path, steps: Progress, life: timedelta | None, cpus: int) -> str:
    """Bring a bed up and return its id; the recording is kept only if a node had printed something before a failure."""
    with usable(runs):
        made = [folder for folder in (runs, *runs.parents) if not folder.exists()]
    rundir = RunDir.create(runs, "up")
    try:
        with ExitStack() as stack:
            identity, live = bring_up(
                engine, bed, kind=Kind.UP, rundir=rundir, steps=steps, stack=stack, cpus=cpus, life=life
            )
            stack.pop_all()
            live.recorder.close(timeout=0)
    except Interrupted:
        _discard(rundir.path, made)
        raise
    except Problem as problem:
        if rundir.logs():
            rundir.save_end({"scenario": "up", "status": "failed", "error": problem.to_dict()}, problem)
            problem.add_note(f"kept:   {rundir.path}, with the logs of the nodes until then")
        else:
            _discard(rundir.path, made)
        raise
    _discard(rundir.path, made)
    return identity.id


def _discard(rundir: Path, made: Iterable[Path]) -> None:
    """Remove the directory of an `up` that nobody needs, and the folders made for it, if nothing else is in them."""
    shutil.rmtree(rundir, ignore_errors=True)
    with suppress(OSError):
        for folder in made:
            folder.rmdir()
