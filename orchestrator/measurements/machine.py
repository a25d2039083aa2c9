"""The machine's CPUs while a load went on: what a bed has of them is seldom all that is in use."""

from collections.abc import Mapping
from dataclasses import dataclass

FULL = 0.1
"""With less than this share of all CPUs idle nothing was left: they are read a moment before the load and after it."""

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
        """There was nothing left: whoever had more CPU would have done more."""
        return self.idle < FULL

    @property
    def starved(self) -> bool:
        """There was nothing left, and others had a good part."""
        return self.full and self.bed < SHARE * self.cpus

    @property
    def bed(self) -> float:
        """What all nodes used."""
        return sum(self.nodes.values())

    @property
    def others(self) -> float:
        """What the engine used, which keeps logs and statistics, and testbed, which reads them, and anybody else."""
        return max(0.0, self.busy - self.bed)
