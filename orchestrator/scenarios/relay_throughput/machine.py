"""Whether the relay had CPUs to itself: what the machine's did while the load was offered, and for whom."""

from dataclasses import dataclass
from typing import Self

from orchestrator.measurements import Measurements, Phase

FULL = 0.05
"""CPUs that are idle for less than this share of the time have no more to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine's CPUs while the load was offered: how many were in use, on average, and by whom."""

    cpus: int
    relay: float
    harness: float
    """All other nodes."""
    others: float
    """The engine, which keeps logs and statistics, testbed, which reads them, and whatever else runs there."""

    @classmethod
    def read(cls, measured: Measurements, load: str) -> Self | None:
        """Return what was recorded while a load was offered; ``None`` when that does not tell."""
        read = measured.rundir.result(f"{load}-cpus")
        if not read or not read["used"]:
            return None
        window, seconds = Phase(name=load, start=read["start"], end=read["end"]), read["end"] - read["start"]
        cores = {node: use.cores for node in measured.nodes if (use := measured.use(node, window))}
        if "relay" not in cores:
            return None
        bed = sum(cores.values())
        return cls(
            cpus=read["cpus"],
            relay=cores["relay"],
            harness=bed - cores["relay"],
            others=max(0.0, read["used"]["busy_s"] / seconds - bed),
        )

    @property
    def share(self) -> float:
        """How much of them was in use."""
        return (self.relay + self.harness + self.others) / self.cpus

    @property
    def marks(self) -> tuple[str, ...]:
        """Warn where the relay had to share all that there is: with CPUs of its own it would carry more."""
        if self.share < 1 - FULL:
            return ()
        had = f"of {self.cpus}, the relay had {self.relay:.2f}, the other nodes {self.harness:.2f}"
        others = f"the engine, testbed and others {self.others:.2f}"
        return (f"the machine's CPUs were all in use while load was offered: {had}, {others}",)
