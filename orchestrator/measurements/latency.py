"""Latency: a distribution of durations (HdrHistogram), with its count, mean, maximum and percentiles."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, compress
from typing import Self

from hdrh.histogram import HdrHistogram

from orchestrator.agents.histogram import decode


@dataclass(frozen=True)
class Latency:
    """A distribution of durations, recorded in microseconds."""

    histogram: HdrHistogram

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """Decode a histogram (``agents.contract``); ``None`` if it is empty. Raises ValueError if that fails."""
        histogram = decode(text)
        return cls(histogram) if histogram.get_total_count() else None

    @cached_property
    def _filled(self) -> tuple[list[int], list[int]]:
        """Values and counts of the filled buckets: about 100 of 23,552 (the library visits all 23,552 each time)."""
        octets, size = bytes(self.histogram.counts), self.histogram.word_size
        first, end = (len(octets) - len(octets.lstrip(b"\0"))) // size, -(-len(octets.rstrip(b"\0")) // size)
        counts = self.histogram.counts[first:end]
        values = [self.histogram.get_value_from_index(i) for i in compress(range(first, end), counts)]
        return values, list(filter(None, counts))

    @cached_property
    def _cumulated(self) -> list[int]:
        return list(accumulate(self._filled[1]))

    @property
    def count(self) -> int:
        """Number of durations."""
        return int(self.histogram.get_total_count())

    @property
    def mean(self) -> float:
        """The mean, in seconds, to three significant digits."""
        values, counts = self._filled
        return sum(value * n for value, n in zip(values, counts, strict=True)) / self.count / 1e6

    @property
    def max(self) -> float:
        """The maximum, in seconds, to three significant digits."""
        return float(self.histogram.get_max_value()) / 1e6

    def at(self, percentile: float) -> float:
        """Return a percentile (0 to 100), in seconds."""
        values, _ = self._filled
        bucket = bisect_left(self._cumulated, self.histogram.get_target_count_at_percentile(percentile))
        return float(self.histogram.get_highest_equivalent_value(values[bucket])) / 1e6
