"""A load from a third-party generator: the generator's command, exit status, output and CPU time.

A script in the generator's node measures the times, so they do not include the engine's delay.
"""

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.agents.contract import LoadOrder, LoadReport, PrintedLine
from orchestrator.bed.model import Strict
from orchestrator.errors import InvalidInput
from orchestrator.services import GeneratesLoad

MOST_LINES = 50
"""Maximum number of distinct output lines that are kept."""
_SCRIPT = """\
exec 2>&1
sleep "$(date +%s.%N | awk -v period="$1" '{ print period - $1 % period }')"
shift
seconds=$1
shift
exec 9>&1
echo "testbed-began $(date +%s.%N)"
output=$(exec timeout --verbose --kill-after=5 "$seconds" sh -c 'exec "$@" >&9 2>&9 9>&-' sh "$@" 2>&1 > /dev/null)
status=$?
case $output in *'sending signal'*) cut=cut ;; *) cut= ;; esac
printf "\\n%s\\n" "testbed-ended $(date +%s.%N) $status $cut"
times
"""
"""The generator writes to descriptor 9, apart from the output of timeout(1). That output shows whether the time limit
was reached: an exit status of 124 may be the generator's own. The generator's last line may lack a newline."""
_BEGAN = re.compile(r"testbed-began ([\d.]+)")
_ENDED = re.compile(r"testbed-ended ([\d.]+) (\d+) ?(cut)?")
_TIMES = re.compile(r"(\d+)m([\d.]+)s (\d+)m([\d.]+)s")


class Settings(Strict):
    """No settings: each load has its own order (``LoadOrder``)."""


class ThirdParty(GeneratesLoad[Settings]):
    """A load generator that does not number messages. Its node waits, and runs one program for each load."""

    settings = Settings

    @abstractmethod
    def program(self, order: LoadOrder) -> tuple[str, ...]:
        """Return the program and its arguments; raises InvalidInput if the program cannot send this load."""

    def command(self, order: LoadOrder) -> tuple[str, ...]:
        """Return the command that runs the program for the order's time, starting at a multiple of ``burst_s``."""
        program = self.program(order)
        if order.seconds is None:
            found = "a number of messages"
            raise InvalidInput(f"a load of {program[0]} with a duration", found, "give seconds instead")
        return ("sh", "-uc", _SCRIPT, "sh", f"{self.burst_s:g}", f"{order.seconds:g}", *program)

    def read(
        self,
        printed: Iterable[str],
        order: LoadOrder,
        tick: Callable[[dict[str, Any]], None],  # noqa: ARG002
    ) -> LoadReport | None:
        """Read the output of the program and the script; a repeated line of output is kept once, with its count."""
        began: float | None = None
        ended: re.Match[str] | None = None
        cpu_s = 0.0
        first: dict[str, float] = {}
        counts: dict[str, int] = {}
        for text in printed:
            if began is None and (match := _BEGAN.fullmatch(text)):
                began = float(match[1])
            elif match := _ENDED.fullmatch(text):
                ended = match
            elif ended and (match := _TIMES.fullmatch(text)):
                # ``times`` (POSIX) prints the shell's times, then the times of its children; the last line counts.
                cpu_s = sum(60 * float(match[i]) + float(match[i + 1]) for i in (1, 3))
            elif text and (text in counts or len(counts) < MOST_LINES):
                first.setdefault(text, time.time())
                counts[text] = counts.get(text, 0) + 1
        if began is None or ended is None:
            return None
        return LoadReport(
            run=order.run,
            started=began,
            ended=float(ended[1]),
            exit_status=int(ended[2]),
            cut_off=ended[3] is not None,
            cpu_s=cpu_s,
            printed=[PrintedLine(t=first[text], text=text, count=count) for text, count in counts.items()],
        )
