"""What a run directory says of one pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.measurements import Measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was measured in one pass."""

    name: str
    look_up: Mapping[str, Any]
    """``agents.neighbours.Report`` of the look-ups over UDP."""
    connect: Mapping[str, Any]
    """The same of the connections."""
    tables: list[dict[str, Any]]
    """``agents.neighbours.Table``, in the order in which they were read."""
    messages: int
    """Those that the relay should take and deliver at once."""
    accepted: int
    """Those that it took."""
    delivered: int
    """Those that the sink had at the end of the drain."""
    deferred: dict[str, tuple[float, str]]
    """Queue id of each message that was deferred -> when first, and the line of the log that says so."""
    kernel: list[dict[str, Any]] | None
    """Lines of the kernel (``collect.kernel.KernelLine``); ``None``: its log could not be read."""

    @classmethod
    def read(cls, measured: Measurements, name: str, messages: int, until: float) -> Self | None:
        """Read what a run directory says of one pass that ended before a time; ``None``: it did not come to its end."""
        parts = {act: measured.rundir.result(f"{name}-{act}") for act in ("look-up", "connect", "mail", "kernel")}
        sent, got, began = measured.loads.get(name), measured.sinks.get(name), measured.phase(f"{name}: mail")
        look_up, connect, mail, told = parts.values()
        if not (look_up and connect and mail and told and sent and sent.accepted is not None and got and began):
            return None
        deferred: dict[str, tuple[float, str]] = {}
        for t, text in measured.log_lines("relay", r"/smtp\[\d+\]: [0-9A-Za-z]+: to=.*, status=deferred "):
            if began.start <= t < until:
                deferred.setdefault(text.partition("]: ")[2].partition(":")[0], (t, text))
        return cls(
            name=name,
            look_up=look_up["report"],
            connect=connect["report"],
            tables=[table for part in (look_up, connect, mail) for table in part["tables"]],
            messages=messages,
            accepted=sent.accepted,
            delivered=got.delivered,
            deferred=deferred,
            kernel=told["lines"],
        )

    @property
    def fulls(self) -> int:
        """Entries that found no room."""
        return int(self.tables[-1]["fulls"] - self.tables[0]["fulls"])

    @property
    def most(self) -> int:
        """Entries at most, of all network namespaces."""
        return max(int(table["entries"]) for table in self.tables)

    @property
    def limit(self) -> int:
        """Entries that the table holds (gc_thresh3)."""
        return int(self.tables[0]["limit"])

    @property
    def failures(self) -> dict[str, tuple[int, int]]:
        """What was tried -> how many failed, of how many."""
        asked, opened = self.look_up, self.connect
        return {
            "look-ups failed": (asked["asked"] - asked["reached"], asked["asked"]),
            "connections failed": (opened["asked"] - opened["reached"], opened["asked"]),
            "messages were deferred": (self.messages - self.accepted + len(self.deferred), self.messages),
        }

    @property
    def clean(self) -> bool:
        """Nothing failed."""
        return not any(failed for failed, _ in self.failures.values())
