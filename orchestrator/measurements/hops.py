"""Delay at each hop of a relay, and the length of its queue, from its own log.

results/hops.json caches the result, because a long log is slow to read. The cache is used only if the log still has
the same size.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from orchestrator import services
from orchestrator.measurements.kept import Kept
from orchestrator.measurements.latency import Latency
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.series import Series
from orchestrator.services import Trouble


def _decoded(texts: Mapping[str, str]) -> dict[str, Latency]:
    """Decode histograms, and leave out empty histograms; raises ValueError or TypeError."""
    latencies = {hop: Latency.decode(text) for hop, text in dict(texts).items()}
    return {hop: latency for hop, latency in latencies.items() if latency}


def _encoded(latencies: Mapping[str, Latency]) -> dict[str, str]:
    return {hop: latency.histogram.encode().decode() for hop, latency in latencies.items()}


class Hops(Kept):
    """results/hops.json: delays, outcomes, queue length and troubles from the relay's log."""

    node: str
    """Name of the relay."""
    log_b: int
    """Size of the log file."""
    latency: Annotated[dict[str, Latency], PlainValidator(_decoded), PlainSerializer(_encoded)]
    """Name of a hop -> its delays, one for each delivery attempt; in the order in which a message passes the hops."""
    queue: list[tuple[float, int]]
    """Unix time and number of messages in the relay's queue, for each second in which the number changed."""
    statuses: dict[str, int]
    """Delivery attempts by outcome: ``sent``, ``deferred``, ``bounced``, ..."""
    troubles: list[Trouble]
    """Troubles by reason, the most frequent first."""
    left_out: str | None
    """The unreadable part of the log; ``None`` if all of the log was read."""

    @property
    def queued(self) -> Series:
        """Messages in the relay's queue over time."""
        return Series([t for t, _ in self.queue], [length for _, length in self.queue])


def read(rundir: RunDir, nodes: Mapping[str, Any], *, recompute: bool) -> Hops | None:
    """Read the log of the first node whose service logs deliveries, if any; ``recompute`` ignores the cache."""
    for node, described in nodes.items():
        log = rundir.path / "logs" / f"{node}.log.gz"
        size = _size(log)
        kept = None if recompute else rundir.checked_result("hops", Hops.from_dict)
        if kept and (kept.node, kept.log_b) == (node, size):
            rundir.leave_out(log, kept.left_out)
            return kept
        service = services.known().get(str(described.get("service")))  # None: only another version has this service
        relay_log = service.read_log(rundir.log(node)) if size and service else None
        if relay_log:
            kept = Hops.model_construct(
                node=node,
                log_b=size,
                latency={hop: Latency(histogram) for hop, histogram in relay_log.hops.items() if histogram.total_count},
                queue=list(relay_log.queue),
                statuses=dict(relay_log.statuses),
                troubles=list(relay_log.troubles),
                left_out=rundir.left_out.get(str(log.relative_to(rundir.path))),
            )
            rundir.leave_out(rundir.path / "results" / "hops.json", None)
            with suppress(OSError):  # the run directory may be read-only
                rundir.save_result("hops", kept.model_dump())
            return kept
    return None


def _size(log: Path) -> int:
    """Return the size of a log; 0 if it is missing or unreadable."""
    try:
        return log.stat().st_size
    except OSError:
        return 0
