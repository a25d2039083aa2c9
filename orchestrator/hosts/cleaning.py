"""Removal of beds: a finished bed, and all objects that killed commands left behind."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.errors import Problem
from orchestrator.hosts import Host
from orchestrator.hosts.kernel_settings import SETTINGS, put_back
from orchestrator.hosts.networks import remove_parent
from orchestrator.hosts.ownership import DeployedBed, deployed_beds

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What a clean-up did."""

    removed: tuple[DeployedBed, ...]
    kept: tuple[DeployedBed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a script."""
        return {"removed": [s.to_dict() for s in self.removed], "kept": [s.to_dict() for s in self.kept]}


def clean(engine: Host, *, everything: bool, say: Callable[[str], None]) -> Cleaned:
    """Remove every trace of beds whose maker is dead or whose time is over; ``everything``: of all beds.

    Kept are beds that are up, beds of commands that still run, and beds made from another machine.

    Raises:
        EngineFailed: something could not be removed; the rest was.
    """
    found = deployed_beds(engine)
    removed = [s for s in found if everything or s.abandoned]
    if problems := _remove_each(engine, removed, say):
        raise problems[0]
    return Cleaned(removed=tuple(removed), kept=tuple(s for s in found if s not in removed))


def make_way(engine: Host, say: Callable[[str], None]) -> None:
    """Remove every trace of beds whose maker is dead or whose time is over, before another bed is made.

    A bed that cannot be removed is named and stays: it has its own names and its own slice, and is in nobody's way.

    Raises:
        EngineFailed: the engine cannot be reached.
    """
    _remove_each(engine, [s for s in deployed_beds(engine) if s.abandoned], say)


def _remove_each(engine: Host, beds: Sequence[DeployedBed], say: Callable[[str], None]) -> list[Problem]:
    """Remove beds, and return what went wrong; each bed that is not wholly removed is named."""
    problems = []
    for bed in beds:
        why = f", expired at {bed.expires}" if bed.expired else ", left by a command that is gone"
        say(f"removing {bed.bed} {bed.id}{why}" if bed.abandoned else f"removing {bed.id}")
        try:
            remove(engine, bed)
        except Problem as problem:
            problems.append(problem)
            say(f"warning: bed {bed.bed} {bed.id} is not wholly removed: {problem}; `testbed clean` tries again")
    return problems


def remove_id(engine: Host, id_: str) -> None:
    """Remove a bed by its id; idempotent."""
    for bed in deployed_beds(engine):
        if bed.id == id_:
            remove(engine, bed)


def remove(engine: Host, bed: DeployedBed) -> None:
    """Remove a bed: containers, lab, veth pair, and the control network last, because the rest is found by it.

    Host settings that its command changed are put back whatever else fails; their lock goes only if nothing failed.

    Raises:
        EngineFailed: something could not be removed; what does not depend on it was.
    """
    _log.info("remove bed %s %s: %d containers, %d networks", bed.bed, bed.id, len(bed.containers), len(bed.networks))
    failed: list[Exception] = []

    def attempt(act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a bug in one step does not stop the others
            failed.append(error)

    locks = [container for container in bed.containers if SETTINGS in container.labels]
    others = [container for container in bed.containers if container not in locks]
    with ThreadPoolExecutor(max(1, len(others))) as pool:
        removals = [pool.submit(attempt, engine.node(container.id).remove) for container in others]
    for removal in removals:
        removal.result()
    for lock in locks:
        attempt(partial(put_back, engine, bed.identity, lock))
    for lock in locks if not failed else ():
        attempt(engine.node(lock.id).remove)
    control = [n for n in bed.networks if n.name.endswith("-control")]
    for network in [n for n in bed.networks if n not in control]:
        attempt(partial(engine.remove_network, network.id))
    if bed.private and bed.networks:
        attempt(lambda: remove_parent(engine, bed.identity))
    for network in control if not failed else ():
        attempt(partial(engine.remove_network, network.id))
    if failed:
        raise failed[0]
