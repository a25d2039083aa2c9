"""CPU use of the machine during a load: by the bed's nodes and by everything else."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.measurements.kept import Kept

FULL = 0.1
"""CPUs with a smaller idle share count as saturated. Not 0, because readings include a moment without load."""

OTHERS = 0.27
"""Other processes slowed the bed down if they used more than this share of saturated CPUs.

The share, measured on 2 CPUs, is 0.10 to 0.23 if nothing else runs on the machine, and 0.30 to 0.45 beside one or two
``sha256sum /dev/zero``. Engine and testbed count as outside the bed; in a run with nothing else on the machine, these
two used 0.10 (0.21 CPUs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Mean number of CPUs in use: by all processes, and by each node."""

    seconds: float
    """Length of the observation, which begins before the load and ends after the load."""
    cpus: int
    """Number of CPUs observed: all of the machine, or some."""
    busy: float
    nodes: Mapping[str, float]
    """Node -> mean number of CPUs that the node used, including CPUs that were not observed."""

    @property
    def idle(self) -> float:
        """Idle share of the observed CPUs."""
        return max(0.0, 1 - self.busy / self.cpus)

    @property
    def full(self) -> bool:
        """Whether the CPUs were saturated."""
        return self.idle < FULL

    @property
    def starved(self) -> bool:
        """Whether the CPUs were saturated, and other processes slowed the bed down."""
        return self.full and self.others > OTHERS * self.cpus

    @property
    def bed(self) -> float:
        """CPUs in use by all nodes."""
        return sum(self.nodes.values())

    @property
    def others(self) -> float:
        """CPUs in use outside the bed: by the engine (logs, statistics), testbed and all other processes."""
        return max(0.0, self.busy - self.bed)


class UsedCpus(Kept):
    """CPU time in use, in seconds, and the part of it that the hypervisor stole."""

    busy_s: float
    steal_s: float


class RecordedCpus(Kept):
    """results/<load>-cpus.json: CPU time of the machine, read before a load and after the load."""

    start: float
    """Unix time of the first reading."""
    end: float
    cpus: int
    """Number of CPUs observed."""
    allowed: str = ""
    """CPUs that the kernel allows the relay; empty if unknown."""
    used: UsedCpus | None
    """``None`` if the kernel hides these CPUs."""
