"""Removal of finished beds and of objects left by killed commands."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread
from typing import NamedTuple

from orchestrator.errors import Problem
from orchestrator.hosts import Found, Host, images
from orchestrator.hosts.kernel_settings import SETTINGS, put_back
from orchestrator.hosts.networks import remove_parent
from orchestrator.hosts.ownership import ID, OWNER, DeployedBed, deployed_beds
from orchestrator.interrupts import shielded

_log = logging.getLogger(__name__)


class Cleaned(NamedTuple):
    """Result of a clean-up."""

    removed: list[DeployedBed]
    kept: list[DeployedBed]


def clean(host: Host, *, everything: bool, say: Callable[[str], None]) -> Cleaned:
    """Remove all objects of abandoned and expired beds, or with ``everything`` of all beds.

    Unless ``everything``, keep beds that are up, beds of running commands, and beds made from another machine.

    Raises:
        EngineFailed: an object could not be removed; all other objects were removed.
    """
    beds = deployed_beds(host)
    removed = [bed for bed in beds if everything or bed.abandoned]
    if problems := _remove_each(host, removed, say):
        raise problems[0]
    return Cleaned(removed, [bed for bed in beds if bed not in removed])


def make_way(host: Host, say: Callable[[str], None]) -> None:
    """Remove abandoned and expired beds before a new bed is made.

    If a bed cannot be removed, report and leave it: its names and subnet cannot conflict with the new bed's.
    """
    _remove_each(host, [s for s in deployed_beds(host) if s.abandoned], say)


def _remove_each(host: Host, beds: Sequence[DeployedBed], say: Callable[[str], None]) -> list[Problem]:
    """Remove beds and return the problems; report each bed that is not wholly removed."""
    problems = []
    for bed in beds:
        why = f", expired at {bed.expires}" if bed.expired else ", left by a command that has ended"
        say(f"removing {bed.bed} {bed.id}{why}" if bed.abandoned else f"removing {bed.id}")
        try:
            remove(host, bed, say)
        except Problem as problem:
            problems.append(problem)
            say(f"warning: bed {bed.bed} {bed.id} is not wholly removed: {problem}; `testbed clean` tries again")
    return problems


def remove_owned(host: Host, owner: str, say: Callable[[str], None] = _log.info) -> None:
    """Remove every bed with this OWNER label; idempotent.

    Raises:
        EngineFailed: an object could not be removed; all other objects were removed.
    """
    ids = {item.labels.get(ID) for item in host.find({OWNER: owner})}
    if problems := _remove_each(host, [bed for bed in deployed_beds(host) if bed.id in ids], say):
        raise problems[0]


def remove_id(host: Host, id_: str, say: Callable[[str], None] = _log.info) -> None:
    """Remove a bed by its id; idempotent."""
    for bed in deployed_beds(host):
        if bed.id == id_:
            remove(host, bed, say)


def _remove_network(host: Host, bed: DeployedBed, network: Found, say: Callable[[str], None]) -> None:
    """Disconnect the guests from a network, then remove it: the engine removes no network in use."""
    for name in host.disconnect(network.id) if network is bed.guest_network else ():
        say(f"warning: disconnected container {name} from {network.name}")
    host.remove_network(network.id)


def remove(host: Host, bed: DeployedBed, say: Callable[[str], None]) -> None:
    """Remove a bed: containers, lab network, veth pair; last the control network: its labels identify the remains.

    Host settings are restored even if another step fails; the lock container is removed only if no step failed. If the
    removal needs the helper's image and it is missing, build it first; hold back signals only after the build.

    Raises:
        EngineFailed: an object could not be removed; all independent objects were removed.
    """
    _log.info("remove bed %s %s: %d containers, %d networks", bed.bed, bed.id, len(bed.containers), len(bed.networks))
    failed: list[Exception] = []

    def attempt(act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a bug in one step must not stop the others
            failed.append(error)

    locks = [container for container in bed.containers if SETTINGS in container.labels]
    others = [container for container in bed.containers if container not in locks]
    if locks or (bed.private and bed.networks):
        attempt(partial(images.ensure_helper, host, say))
    with shielded():
        _at_once([partial(attempt, host.node(container.id).remove) for container in others])
        for lock in locks:
            attempt(partial(put_back, host, lock))
        for lock in locks if not failed else ():
            attempt(host.node(lock.id).remove)
        control = [n for n in bed.networks if n.name.endswith("-control")]
        for network in [n for n in bed.networks if n not in control]:
            attempt(partial(_remove_network, host, bed, network, say))
        if bed.private and bed.networks:
            attempt(lambda: remove_parent(host, bed))
        for network in control if not failed else ():
            attempt(partial(host.remove_network, network.id))
    if failed:
        raise failed[0]


def _at_once(acts: Sequence[Callable[[], None]]) -> None:
    """Call functions in parallel, without a pool: a pool starts no thread at the interpreter's exit."""
    threads = [Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
