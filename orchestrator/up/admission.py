"""Checks before a bed's bring-up: finds or builds its images, and compares its needs with the host's capacity."""

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import EngineFailed
from orchestrator.hosts import Host, capacity, images
from orchestrator.interrupts import shielded
from orchestrator.plan import HostNeeds, Plan
from orchestrator.up.bringup import Progress, Withdrawn

Read = Callable[[], capacity.Readings]


@contextmanager
def reading(host: Host) -> Iterator[Read]:
    """Read the host in a thread, except its kernel's features; yield a function that returns the readings.

    The thread fails if the helper's image is missing; the function then reads the host again.
    """
    with ThreadPoolExecutor(1) as pool:
        with shielded():  # the pool does not wait for a thread whose start was interrupted
            first = pool.submit(_read, host)

        def readings() -> capacity.Readings:
            try:
                return first.result()
            except EngineFailed:
                return _read(host)

        yield readings


def admit(
    host: Host,
    plan: Plan,
    read: Read,
    *,
    disk: Path,
    steps: Progress,
    provoked: AbstractSet[str] = frozenset(),
    smaller: str | None = None,
) -> tuple[capacity.Readings, list[str]]:
    """Find or build the images of a bed, and compare its needs with the host's capacity.

    Return the host's readings, and the images whose rebuild failed (``images.ensure``). ``disk``, ``provoked``,
    ``smaller``: as in ``capacity.admit``.

    Raises:
        HostCannot: the bed needs more than the host has.
        EngineFailed: an image could not be built.
    """
    with steps.step("find or build the images"):
        old = images.ensure(host, images.needed_by(plan.bed), steps.say)
        readings = read()
        capacity.admit(readings, plan.needs, disk, provoked=provoked, smaller=smaller, say=steps.say)
    return readings, old


@contextmanager
def features_explained(host: Host, needs: HostNeeds) -> Iterator[None]:
    """If the block fails because the kernel lacks a feature, raise HostCannot with that feature instead."""
    try:
        yield
    except Withdrawn:
        raise
    except EngineFailed:
        with suppress(EngineFailed):  # keep the first error unless a feature is missing
            capacity.require(capacity.check(capacity.read(host), needs))
        raise


def _read(host: Host) -> capacity.Readings:
    return capacity.read(host, features=False)
