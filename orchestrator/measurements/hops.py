"""Delay at each hop of a relay, and the length of its queue, from its own log.

results/hops.json caches the result, because a long log is slow to read. A log of another size is read again.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import services
from orchestrator.measurements.latency import Latency
from orchestrator.measurements.rundir import Kept, RunDir
from orchestrator.measurements.series import Series
from orchestrator.services import Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Hops:
    """Delays, outcomes, queue length and troubles from the relay's log."""

    node: str
    """Name of the relay."""
    latency: Mapping[str, Latency]
    """Name of a hop, in the order in which a message passes them -> the delays there, one for each delivery attempt."""
    queue: Series
    """Messages in the relay's queue, at the end of each second in which the number changed."""
    statuses: Mapping[str, int]
    """Delivery attempts by outcome: ``sent``, ``deferred``, ``bounced``, ..."""
    troubles: Sequence[Trouble]
    """Troubles by reason, the most frequent first."""


class _Kept(Kept):
    """results/hops.json."""

    node: str
    log_b: int
    latency: dict[str, str]
    queue: list[tuple[float, int]]
    statuses: dict[str, int]
    troubles: list[Trouble]
    left_out: str | None


def read(rundir: RunDir, nodes: Mapping[str, Any], *, recompute: bool) -> Hops | None:
    """Read the log of the first node whose service logs deliveries, if any; ``recompute`` ignores the cache."""
    for node, described in nodes.items():
        log = rundir.path / "logs" / f"{node}.log.gz"
        size = _size(log)
        kept = None if recompute else rundir.checked_result("hops", _Kept.from_dict)
        if kept and (kept.node, kept.log_b) == (node, size):
            rundir.leave_out(log, kept.left_out)
            with suppress(ValueError):  # the cache holds no valid histogram
                return _hops(kept)
        service = str(described.get("service"))  # unknown if another version made the run
        relay_log = services.read_log(service, rundir.log(node)) if size and service in services.known() else None
        if relay_log:
            kept = _Kept(
                node=node,
                log_b=size,
                latency={name: str(histogram.encode().decode()) for name, histogram in relay_log.hops.items()},
                queue=list(relay_log.queue),
                statuses=dict(relay_log.statuses),
                troubles=list(relay_log.troubles),
                left_out=rundir.left_out.get(str(log.relative_to(rundir.path))),
            )
            rundir.leave_out(rundir.path / "results" / "hops.json", None)
            with suppress(OSError):  # the run directory may be read-only
                rundir.save_result("hops", kept.model_dump())
            return _hops(kept)
    return None


def _size(log: Path) -> int:
    """Return the size of a log; 0 if it is missing or unreadable."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def _hops(kept: _Kept) -> Hops:
    latency = {name: Latency.decode(text) for name, text in kept.latency.items()}
    return Hops(
        node=kept.node,
        latency={name: durations for name, durations in latency.items() if durations},
        queue=Series([t for t, _ in kept.queue], [length for _, length in kept.queue]),
        statuses=kept.statuses,
        troubles=kept.troubles,
    )
