"""cpu_of(), the CPU state during a load: was CPU left, did the bed use all CPU, or did other processes take it?"""

from enum import StrEnum

from orchestrator.measurements import Measurements
from orchestrator.services import Role

AT_ITS_LIMIT = 0.9
"""A relay that uses at least this share of its CPU limit counts as limited by its CPU limit."""


class Cpu(StrEnum):
    """CPU state during a load."""

    LEFT = "left"
    SPENT = "spent"
    """The bed used up all CPUs, or the relay reached its CPU limit."""
    TAKEN = "taken"
    """All CPUs were used up, a large share by processes outside the bed (``Machine.starved``)."""


def cpu_of(measured: Measurements, load: str) -> Cpu | None:
    """Return the CPU state during a load."""
    machine, span = measured.machine(load), measured.span(load)
    if machine is None or span is None:
        return None
    allowed = (measured.planned(Role.RELAY).get("limits") or {}).get("cpus")
    relay = measured.use(measured.name_of(Role.RELAY), span)
    if relay and allowed and relay.cores >= AT_ITS_LIMIT * allowed:
        return Cpu.SPENT
    if not machine.full:
        return Cpu.LEFT
    return Cpu.TAKEN if machine.starved else Cpu.SPENT
