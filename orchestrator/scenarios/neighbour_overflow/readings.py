"""Readings of one pass for judge(), from a run directory: failures, mail, neighbour table, kernel log."""

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from orchestrator.agents.neighbours import NeighbourTable, Report
from orchestrator.measurements import Measurements
from orchestrator.measurements.kept import Kept
from orchestrator.services import Role

_DEFERRED = re.compile(r"/smtp\[\d+\]: [0-9A-Za-z]+: to=.*, status=deferred ")


class _Part(Kept):
    tables: Annotated[list[NeighbourTable], Field(min_length=1)]


class _Asked(_Part):
    report: Report


class _KernelLine(Kept):
    t: float
    stamp: str
    text: str


class _Kernel(Kept):
    lines: list[_KernelLine] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReadings:
    """Measurements of one pass."""

    name: str
    relay: str
    """Name of the relay's node."""
    look_up: Report
    """Look-ups over UDP."""
    connect: Report
    tables: list[NeighbourTable]
    """Readings of the neighbour table, in order of time."""
    messages: int
    """Messages offered to the relay."""
    accepted: int
    """Messages that the relay accepted."""
    delivered: int
    """Messages that had reached the sink by the end of the drain."""
    deferred: dict[str, tuple[float, str]]
    """Queue id of a deferred message -> Unix time and text of its first log line."""
    kernel: list[_KernelLine] | None
    """Lines of the kernel's log about the overflow; ``None``: the log could not be read."""

    @classmethod
    def read(cls, measured: Measurements, name: str, messages: int, until: float) -> Self | None:
        """Read one pass that ended before Unix time ``until``; ``None`` if the pass is incomplete."""
        read = measured.rundir.checked_result
        look_up, connect = (read(f"{name}-{act}", _Asked.from_dict) for act in ("look-up", "connect"))
        mail, kernel = read(f"{name}-mail", _Part.from_dict), read(f"{name}-kernel", _Kernel.from_dict)
        sent, got, began = measured.loads.get(name), measured.sinks.get(name), measured.phase(f"{name}: mail")
        relay = measured.name_of(Role.RELAY)
        if not (look_up and connect and mail and kernel and sent and sent.accepted is not None and got and began):
            return None
        deferred: dict[str, tuple[float, str]] = {}
        for t, text in measured.rundir.log(relay):
            if began.start <= t < until and _DEFERRED.search(text):
                deferred.setdefault(text.partition("]: ")[2].partition(":")[0], (t, text))
        return cls(
            name=name,
            relay=relay,
            look_up=look_up.report,
            connect=connect.report,
            tables=[table for part in (look_up, connect, mail) for table in part.tables],
            messages=messages,
            accepted=sent.accepted,
            delivered=got.delivered,
            deferred=deferred,
            kernel=kernel.lines,
        )

    @property
    def fulls(self) -> int:
        """Number of entries that the kernel refused because the table was full."""
        return self.tables[-1].fulls - self.tables[0].fulls

    @property
    def most(self) -> int:
        """Largest number of entries in any reading, all network namespaces together."""
        return max(table.entries for table in self.tables)

    @property
    def limit(self) -> int:
        """Size of the table, in entries (gc_thresh3)."""
        return self.tables[0].limit

    @property
    def failures(self) -> dict[str, tuple[int, int]]:
        """Kind of attempt -> failed and total number."""
        looked_up, opened = self.look_up, self.connect
        return {
            "look-ups failed": (looked_up.asked - looked_up.reached, looked_up.asked),
            "connections failed": (opened.asked - opened.reached, opened.asked),
            "messages were deferred": (self.messages - self.accepted + len(self.deferred), self.messages),
        }

    @property
    def clean(self) -> bool:
        """Whether no attempt failed."""
        return not any(failed for failed, _ in self.failures.values())
