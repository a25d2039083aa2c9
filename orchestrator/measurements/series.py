"""Time series with gaps, and growth rates of counters, also of counters that grow in bursts."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from orchestrator.agents.contract import TICK_S

STEP_S = 0.5
"""Minimum time between two readings for a rate: a rate over a few milliseconds means nothing."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values over time: ``values[i]`` holds from ``t[i - 1]`` to ``t[i]``; ``None`` marks a gap."""

    t: Sequence[float]
    values: Sequence[float | None]

    def __bool__(self) -> bool:
        return bool(self.t)

    @property
    def known(self) -> list[float]:
        """The values, without the gaps."""
        return [v for v in self.values if v is not None]

    def at(self, t: float) -> float | None:
        """Return the value at ``t``; ``None`` outside of the series."""
        i = bisect_left(self.t, t)
        return self.values[i] if i < len(self.t) and (i or t == self.t[0]) else None


def growth(points: Sequence[tuple[float, float | None]]) -> Series:
    """Return a counter's growth per second up to each reading; ``None`` where the counter fell or has no value."""
    t: list[float] = []
    values: list[float | None] = []
    last = points[0] if points else (0.0, None)
    for now, value in points[1:]:
        if now - last[0] < STEP_S:
            continue
        more = None if value is None or last[1] is None or value < last[1] else value - last[1]
        t.append(now)
        values.append(None if more is None else more / (now - last[0]))
        last = (now, value)
    return Series(t, values)


def join(parts: Iterable[Series]) -> Series:
    """Concatenate series in the order of time, with a gap between each two."""
    t: list[float] = []
    values: list[float | None] = []
    for part in sorted((p for p in parts if p), key=lambda p: p.t[0]):
        if t:
            t.append((t[-1] + part.t[0]) / 2)
            values.append(None)
        t += part.t
        values += part.values
    return Series(t, values)


def grown(points: Sequence[dict[str, Any]], field: str, start: float, end: float) -> float:
    """Return the growth of a counter between two times, interpolated linearly."""

    def at(t: float) -> float:
        i = min(max(bisect_left(points, t, key=lambda p: float(p["t"])), 1), len(points) - 1)
        a, b = points[i - 1], points[i]
        share = (t - a["t"]) / (b["t"] - a["t"]) if b["t"] > a["t"] else 1.0
        return float(a[field] + (b[field] - a[field]) * share)

    return at(end) - at(start)


def steady(points: Sequence[tuple[float, float]], start: float, end: float, period: float) -> float | None:
    """Return the growth per second of a counter that grows in bursts, one every ``period`` seconds.

    The mean of the counter over a whole period does not depend on the phase of the bursts. The result is the growth of
    this mean from period 2 to the last period; period 1 is warm-up. ``None`` if the time covers less than 4 periods.
    ``points``: readings about ``TICK_S`` apart; a reading equal to the previous reading may be missing.
    """
    if end - start < 4 * period or not points:
        return None
    knots = [(start, 0.0)]
    for t, value in points:
        if t - knots[-1][0] > 2 * TICK_S:  # equal readings are missing: no growth until TICK_S before this reading
            knots.append((t - TICK_S, knots[-1][1]))
        knots.append((t, value))
    knots.append((max(end, knots[-1][0] + TICK_S), knots[-1][1]))

    def mean(begin: float) -> float:
        area = 0.0
        for (t, a), (u, b) in pairwise(knots):
            low, high = max(t, begin), min(u, begin + period)
            if high > low:
                area += (high - low) * (a + (b - a) * ((low + high) / 2 - t) / (u - t))
        return area / period

    first, last = start + period, end - period
    return (mean(last) - mean(first)) / (last - first)
