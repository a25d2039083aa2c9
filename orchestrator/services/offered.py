"""Result of a load from a third-party generator: exit status, output, CPU time.

The script runs beside the generator in its node, so that times are its own and not those of the way to the engine.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from orchestrator.agents.contract import check_types

MOST_LINES = 50
"""Different lines that are kept."""
_SCRIPT = """\
exec 2>&1
sleep "$(date +%s.%N | awk -v period="$1" '{ print period - $1 % period }')"
shift
seconds=$1
shift
exec 9>&1
echo "testbed-began $(date +%s.%N)"
told=$(exec timeout --verbose --kill-after=5 "$seconds" sh -c 'exec "$@" >&9 2>&9 9>&-' sh "$@" 2>&1 > /dev/null)
status=$?
case $told in *'sending signal'*) cut=cut ;; *) cut= ;; esac
echo "testbed-ended $(date +%s.%N) $status $cut"
times
"""
"""Descriptor 9 keeps the generator's output apart from timeout(1)'s own: 124 may be the generator's status, too."""
_BEGAN = re.compile(r"testbed-began ([\d.]+)")
_ENDED = re.compile(r"testbed-ended ([\d.]+) (\d+) ?(cut)?")
_TIMES = re.compile(r"(\d+)m([\d.]+)s (\d+)m([\d.]+)s")


def script(command: tuple[str, ...], seconds: float, period: float) -> tuple[str, ...]:
    """Return the command that runs a generator for at most ``seconds`` and reports its exit status and CPU time.

    It begins when the clock shows a multiple of ``period``: see ``services.OffersLoad.period_s``.
    """
    return ("sh", "-uc", _SCRIPT, "sh", f"{period:g}", f"{seconds:g}", *command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that the generator printed, however often."""

    t: float
    """Unix time of the first."""
    text: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """How a load went. Times are Unix time."""

    run: str
    """The sink's ledger of this load."""
    node: str
    command: tuple[str, ...]
    started: float
    ended: float
    status: int
    """Its exit status: 128 and the number of the signal that ended it (139: SIGSEGV)."""
    cut: bool
    """It went on until its time was over."""
    cpu_s: float
    """CPU time of its process, user and system."""
    lines: tuple[Line, ...]
    arrived: int | None = None
    """Messages that the sink had of it when it ended; ``None`` when the sink cannot say."""

    @property
    def seconds(self) -> float:
        """How long it went on."""
        return self.ended - self.started

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``; keys that are not known here are left out.

        Raises:
            TypeError, KeyError: a key is missing, or a value has another type than its field.
        """
        for line in data["lines"]:
            check_types(Line, line)
        check_types(cls, {name: value for name, value in data.items() if name not in {"command", "lines"}})
        lines = tuple(Line(t=line["t"], text=line["text"], count=line["count"]) for line in data["lines"])
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return cls(**{**known, "command": tuple(data["command"]), "lines": lines})


def read(printed: Iterable[str], *, run: str, node: str, command: tuple[str, ...]) -> Offered:
    """Read what the script prints, as it comes; a line that comes for ever is kept once, with its number.

    Raises:
        ValueError: the script did not come to its end.
    """
    began: float | None = None
    ended: re.Match[str] | None = None
    cpu_s = 0.0
    first: dict[str, float] = {}
    counts: dict[str, int] = {}
    for text in printed:
        if began is None and (found := _BEGAN.fullmatch(text)):
            began = float(found[1])
        elif found := _ENDED.fullmatch(text):
            ended = found
        elif ended and (found := _TIMES.fullmatch(text)):
            # The last one counts: the shell's children, after the shell itself (POSIX, times).
            cpu_s = sum(60 * float(found[i]) + float(found[i + 1]) for i in (1, 3))
        elif text in counts or len(counts) < MOST_LINES:
            first.setdefault(text, time.time())
            counts[text] = counts.get(text, 0) + 1
    if began is None or ended is None:
        raise ValueError(f"a generator of whose end nothing is known: {' '.join(command)[:200]}")
    return Offered(
        run=run,
        node=node,
        command=command,
        started=began,
        ended=float(ended[1]),
        status=int(ended[2]),
        cut=ended[3] is not None,
        cpu_s=cpu_s,
        lines=tuple(Line(t=first[text], text=text, count=count) for text, count in counts.items()),
    )
