"""Readings of one named for judge(), from a run directory: open files, log lines, and the end of named."""

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from orchestrator.measurements import Measurements
from orchestrator.measurements.kept import Kept
from orchestrator.scenarios.bind_fd_limit.named import Named

FETCHED = r"managed-keys-zone: Unable to fetch DNSKEY set"
"""Log line of a failed fetch of the root's keys. The fetch always fails, because no bed reaches a root server; by then
named has requested its first outgoing sockets."""
OVER = "socket: file descriptor exceeds limit (N/M)"
RNDC_REFUSED = "accept: file descriptor exceeds limit (N/M)"
"""Log line of a refused rndc connection. An accepted connection gets the lowest free descriptor, so the line appears
only if even an idle named is over its limit. Just below the limit, only ``OVER`` appears, and only while many outgoing
sockets are open at once."""
ABORT = "fatal error, and the end"
SIGNATURES = {
    OVER: r"socket: file descriptor exceeds limit \(\d+/\d+\)",
    "managed-keys-zone: ... not enough free resources": FETCHED + r" '\.': not enough free resources",
    "couldn't add command channel: ... not enough free resources": r"command channel \S+: not enough free resources",
    RNDC_REFUSED: r"accept: file descriptor exceeds limit \(\d+/\d+\)",
    "Accepting TCP connection failed: too many open files": r"Accepting TCP connection failed: too many open files",
    ABORT: r"\.c:\d+:.*fatal error",
}
"""Name of a signature in reports -> pattern of its log line."""


class FileCounts(Kept):
    """results/<node>-open.json: counts of a named that serves; ``None``: not measured."""

    open_files: int | None = None
    sockets: int | None = None
    addresses: int | None = None
    """Number of addresses that named listens on."""
    memory_b: int | None = None
    """Resident memory (VmRSS, proc(5))."""
    fetched: bool = False
    """Whether named requested outgoing sockets: it tried to fetch the root's keys, or was refused a socket."""


class _End(Kept):
    status: int | None = None


class _Way(Kept):
    way: str
    said: str
    ended: bool
    s: float


class Stop(Kept):
    """results/<node>-stop.json: the attempts to stop the node, in order."""

    tried: Annotated[list[_Way], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReadings:
    """Measurements of one named."""

    node: str
    setup: Named
    version: str | None
    ready_s: float | None
    """Seconds from named's first log line to the line "running"."""
    counts: FileCounts
    lines: dict[str, list[tuple[float, str]]]
    """Signature -> Unix time and text of each line."""
    stop: Stop | None
    ended: int | None
    """Exit status of a named that ended before it served."""

    @classmethod
    def read(cls, measured: Measurements, node: str, setup: Named) -> Self:
        """Read the measurements of one named from a run directory."""
        marks = {"starting BIND": r"starting BIND (\S+)", "running": r" running$"}
        lines: dict[str, list[tuple[float, str]]] = {name: [] for name in (*SIGNATURES, *marks)}
        patterns = {name: re.compile(pattern) for name, pattern in (SIGNATURES | marks).items()}
        for t, text in measured.rundir.log(node):
            for name, pattern in patterns.items():
                if pattern.search(text):
                    lines[name].append((t, text))
        begun, serves = lines.pop("starting BIND"), lines.pop("running")
        start = patterns["starting BIND"].search(begun[0][1]) if begun else None
        read = measured.rundir.checked_result
        end = read(f"{node}-end", _End.from_dict)
        return cls(
            node=node,
            setup=setup,
            version=start[1] if start else None,
            ready_s=serves[0][0] - begun[0][0] if begun and serves else None,
            counts=read(f"{node}-open", FileCounts.from_dict) or FileCounts(),
            lines=lines,
            stop=read(f"{node}-stop", Stop.from_dict),
            ended=end.status if end else None,
        )

    @property
    def over(self) -> bool | None:
        """Whether named is over its limit even when idle; None if that was not tested."""
        if self.ended is not None:
            return bool(self.lines[ABORT]) or None
        if self.stop is None:
            return None
        if self.lines[OVER] and self.lines[RNDC_REFUSED]:
            return True
        return False if self.counts.fetched else None

    @property
    def stopped_s(self) -> float | None:
        """Seconds from the first attempt to stop named to its end; None if it did not end, or no attempt was made."""
        return sum(way.s for way in self.stop.tried) if self.stop and self.stop.tried[-1].ended else None

    @property
    def refused(self) -> bool | None:
        """Whether all attempts to stop named failed; None if no attempt was made."""
        return self.stopped_s is None if self.stop else None

    @property
    def end(self) -> str:
        """How named ended, in words."""
        if self.stop is None:
            return "not measured" if self.ended is None else f"ended with status {self.ended} before it served"
        ends = {True: "ended after {s:.1f} s", False: "still there after {s:.0f} s"}
        return "; ".join(
            f"{way.way}: {ends[way.ended].format(s=way.s)}{way.said and ' (' + way.said + ')'}"
            for way in self.stop.tried
        )
