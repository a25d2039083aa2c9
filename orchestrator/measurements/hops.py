"""Delay at each hop of a relay, and the length of its queue, from its own log.

Reading the log of a long run takes a while, so what it says is kept as results/hops.json, with the size of the log
that it was read from; of a log that has changed since, it is read again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from orchestrator import services
from orchestrator.errors import InvalidInput
from orchestrator.measurements.latency import Latency
from orchestrator.measurements.rundir import Kept, RunDir
from orchestrator.measurements.series import Series
from orchestrator.services import Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Hops:
    """Delivery times, outcomes, queue length and troubles from the relay's log."""

    node: str
    """The relay's."""
    latency: Mapping[str, Latency]
    """Name of the hop -> its durations in each delivery attempt, in the order in which a message passes them."""
    queue: Series
    """Messages in the relay's queue, at the end of every second in which that changed."""
    statuses: Mapping[str, int]
    """Delivery attempts by outcome: ``sent``, ``deferred``, ``bounced``, ..."""
    troubles: Sequence[Trouble]
    """What went wrong, by reason, the most frequent first."""


class _Trouble(Kept):
    reason: str
    count: int
    example: str


class _Kept(Kept):
    """results/hops.json."""

    node: str
    log_b: int
    latency: dict[str, str]
    queue: list[Annotated[list[int | float], Field(min_length=2, max_length=2)]]
    statuses: dict[str, int]
    troubles: list[_Trouble]
    left_out: str | None


def read(rundir: RunDir, nodes: Mapping[str, Any], *, recompute: bool) -> Hops | None:
    """Read the log of the first of these nodes (name -> its part of the bed) whose service can tell.

    ``None`` when there is none. ``recompute`` disregards what was kept.
    """
    for node, described in nodes.items():
        log = rundir.path / "logs" / f"{node}.log.gz"
        size = _size(log)
        kept = None if recompute else rundir.checked_result("hops", _Kept.model_validate)
        if kept and (kept.node, kept.log_b) == (node, size):
            rundir.leave_out(log, kept.left_out)
            with suppress(ValueError):  # no histogram
                return _hops(kept)
        told = _told(str(described.get("service")), rundir.log(node)) if size else None
        if told:
            found = {
                "node": node,
                "log_b": size,
                "latency": {name: str(histogram.encode().decode()) for name, histogram in told.hops.items()},
                "queue": [list(point) for point in told.queue],
                "statuses": dict(told.statuses),
                "troubles": [asdict(trouble) for trouble in told.troubles],
                "left_out": rundir.left_out.get(str(log.relative_to(rundir.path))),
            }
            rundir.leave_out(rundir.path / "results" / "hops.json", None)
            with suppress(OSError):  # a run kept where it cannot be written can still be read
                rundir.save_result("hops", found)
            return _hops(_Kept.model_validate(found))
    return None


def _size(log: Path) -> int:
    """Return the size of a log; 0: there is none, or it is closed."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def _told(service: str, lines: Iterator[tuple[float, str]]) -> services.RelayLog | None:
    try:
        return services.read_log(service, lines)
    except InvalidInput:  # a service that is not known here: an old run, or another version's
        return None


def _hops(kept: _Kept) -> Hops:
    latency = {name: Latency.decode(text) for name, text in kept.latency.items()}
    return Hops(
        node=kept.node,
        latency={name: durations for name, durations in latency.items() if durations},
        queue=Series([t for t, _ in kept.queue], [length for _, length in kept.queue]),
        statuses=kept.statuses,
        troubles=[Trouble(reason=one.reason, count=one.count, example=one.example) for one in kept.troubles],
    )
