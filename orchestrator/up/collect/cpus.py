"""CPU time that a machine has used since its boot, by CPU."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from orchestrator.measurements.rundir import RunDir

COMMAND = ("cat", "/proc/stat", "/proc/1/status")
"""Command to run in a node. /proc/stat describes the whole machine, even in a container; the second file the node."""
_TICK_S = 0.01
"""Unit of /proc/stat (USER_HZ, proc(5))."""
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """One reading: CPU seconds by CPU number."""

    busy: Mapping[int, float]
    """Busy time: user, nice, system, irq, softirq, and steal (time that the hypervisor gave to other guests)."""
    steal: Mapping[int, float]
    allowed: str
    """CPUs on which the node's first process may run; empty if unknown."""

    @classmethod
    def parse(cls, output: str) -> Self:
        """Parse the output of ``COMMAND``: ``cpuN user nice system idle iowait irq softirq steal ...`` (proc(5))."""
        lines = [words for line in output.splitlines() if (words := line.split())]
        times = {
            int(words[0][3:]): [int(word) * _TICK_S for word in words[1:9]]
            for words in lines
            if words[0].startswith("cpu") and words[0][3:].isdecimal() and len(words) > 8
        }
        return cls(
            busy={n: sum(spent) - spent[_IDLE] - spent[_IOWAIT] for n, spent in times.items()},
            steal={n: spent[_STEAL] for n, spent in times.items()},
            allowed=next((words[1] for words in lines if words[0] == "Cpus_allowed_list:" and len(words) > 1), ""),
        )

    def since(self, before: Self, cpus: Iterable[int]) -> dict[str, float] | None:
        """Return ``busy_s`` and ``steal_s`` since ``before``, summed over ``cpus``; ``None`` if a CPU is missing."""
        chosen = list(cpus)
        if not chosen or not all(n in self.busy and n in before.busy for n in chosen):
            return None
        return {
            "busy_s": round(sum(self.busy[n] - before.busy[n] for n in chosen), 3),
            "steal_s": round(sum(self.steal[n] - before.steal[n] for n in chosen), 3),
        }


@contextmanager
def recorded(rundir: RunDir, load: str, read: Callable[[], str], cpus: Iterable[int] | None = None) -> Iterator[None]:
    """Record the use of these CPUs (``None``: all) during the block as ``measurements.machine.RecordedCpus``.

    ``read`` runs ``COMMAND`` in a node and returns its output.
    """
    start, before = time.time(), CpuTimes.parse(read())
    yield
    end, after = time.time(), CpuTimes.parse(read())
    chosen = list(after.busy if cpus is None else cpus)
    rundir.save_result(
        f"{load}-cpus",
        {
            "start": start,
            "end": end,
            "cpus": len(chosen),
            "allowed": after.allowed,
            "used": after.since(before, chosen),
        },
    )
