"""A distribution of durations, in constant memory (HdrHistogram)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from hdrh.histogram import HdrHistogram

from orchestrator.agents.histogram import decode


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution of durations, recorded in microseconds."""

    histogram: HdrHistogram

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """Read the contract's encoding; ``None`` when nothing was recorded.

        Raises:
            ValueError: it is no histogram.
        """
        histogram = decode(text)
        return cls(histogram) if histogram.get_total_count() else None

    @property
    def count(self) -> int:
        """How many durations there are."""
        return int(self.histogram.get_total_count())

    @property
    def mean(self) -> float:
        """The mean, in seconds, to three significant digits (the library's own takes a hundred times as long)."""
        counts = self.histogram.counts
        total = sum(n * self.histogram.get_value_from_index(i) for i, n in enumerate(counts) if n)
        return float(total) / self.count / 1e6

    @property
    def max(self) -> float:
        """The longest, in seconds, to three significant digits."""
        return float(self.histogram.get_max_value()) / 1e6

    def at(self, percentile: float) -> float:
        """Return the duration that ``percentile`` per cent of all do not exceed, in seconds."""
        return float(self.histogram.get_value_at_percentile(percentile)) / 1e6

    def at_each(self, percentiles: Sequence[float]) -> list[float]:
        """Return ``at`` for many percentiles in one pass over the histogram."""
        values = self.histogram.get_percentile_to_value_dict(list(percentiles))
        return [float(values[p]) / 1e6 for p in percentiles]
