"""CPU use of the machine during a load: by the bed's nodes and by everything else."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.measurements.rundir import Kept

FULL = 0.1
"""Less than this idle share counts as saturated; the readings include a moment before and after the load."""

SHARE = 0.75
"""On a machine whose CPUs are full, a bed with less than this share of them was held up by others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How many CPUs were in use, on average, and by whom."""

    seconds: float
    """How long they were looked at: from before the load until after it."""
    cpus: int
    """How many were looked at: all that there are, or a set of them."""
    busy: float
    nodes: Mapping[str, float]
    """Node of the bed -> what it used, on any CPU."""

    @property
    def idle(self) -> float:
        """Share of these CPUs that nobody used."""
        return max(0.0, 1 - self.busy / self.cpus)

    @property
    def full(self) -> bool:
        """The CPUs were saturated."""
        return self.idle < FULL

    @property
    def starved(self) -> bool:
        """The CPUs were saturated, and processes outside the bed used over a quarter of them."""
        return self.full and self.bed < SHARE * self.cpus

    @property
    def bed(self) -> float:
        """What all nodes used."""
        return sum(self.nodes.values())

    @property
    def others(self) -> float:
        """What the engine used, which keeps logs and statistics, and testbed, which reads them, and anybody else."""
        return max(0.0, self.busy - self.bed)


class UsedCpus(Kept):
    """CPU seconds by all processes, and those that a hypervisor gave to others."""

    busy_s: float
    steal_s: float


class RecordedCpus(Kept):
    """results/<load>-cpus.json: the CPUs of the machine from before a load until after it."""

    start: float
    """Unix time."""
    end: float
    cpus: int
    """How many were looked at."""
    allowed: str = ""
    """The CPUs that the kernel lets the relay run on; empty when it does not tell."""
    used: UsedCpus | None
    """``None``: hidden."""
