"""Durations, counted in an HdrHistogram: 1 us to 1 h, three significant digits, in constant memory.

The library (pure Python) takes 0.9 us to record a value, and each message has three or four values. So the hot path
counts in a dictionary, in 0.2 us a value. Its keys are the lowest values of HdrHistogram's buckets (at most 23,552).
The counts go to the library only when a histogram is encoded or its percentiles are needed.
``tests/bench/agents.py`` measures both times.
"""

from collections import defaultdict

from hdrh.histogram import HdrHistogram

MOST_US = 3_600_000_000
"""One hour; a longer duration counts as one hour."""
_DIGITS = 3
_EXACT_BITS = 11
_EXACT = 1 << _EXACT_BITS
"""Each value below this limit, in us, has its own bucket; three significant digits need 2,000 such buckets."""


class Histogram:
    """Durations of one kind."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)

    def record_ns(self, duration: int) -> None:
        """Count a duration in nanoseconds."""
        us = duration // 1000
        if us >= _EXACT:
            us = min(us, MOST_US)
            coarse = us.bit_length() - _EXACT_BITS
            us = us >> coarse << coarse
        elif us < 1:
            us = 1
        self._counts[us] += 1

    def library(self) -> HdrHistogram:
        """Return the counts as a histogram of the library."""
        full = HdrHistogram(1, MOST_US, _DIGITS)
        for us, count in self._counts.items():
            full.record_value(us, count)
        return full

    def encode(self) -> str:
        """Return the histogram as text: base64 of the HdrHistogram V2 compressed encoding."""
        return str(self.library().encode().decode("ascii"))


def decode(text: str) -> HdrHistogram:
    """Read the output of ``encode`` as a histogram in microseconds; raises ValueError for any other text."""
    try:
        return HdrHistogram.decode(text)
    except Exception as error:  # the library's errors have no base class; errors of zlib and binascii occur, too
        raise ValueError(f"no HdrHistogram: {error}") from error
