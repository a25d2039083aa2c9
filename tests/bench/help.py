"""How long does ``testbed --help`` take, in starts of a bare interpreter?

::

    .venv/bin/python -m tests.bench.help

11 pairs, one after the other, so that both commands meet the same machine. Holds if the median of ``testbed --help`` is
at most 10 medians of ``python -c pass``.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

PAIRS, LIMIT = 11, 10.0
BARE = (sys.executable, "-c", "pass")
HELP = (str(Path(sys.executable).with_name("testbed")), "--help")


def seconds(command: tuple[str, ...]) -> float:
    """Return the wall time of a command."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> int:
    """Print both medians and their ratio; return 1 if it is over the limit."""
    for command in (BARE, HELP):  # into the page cache
        seconds(command)
    pairs = [(seconds(BARE), seconds(HELP)) for _ in range(PAIRS)]
    bare, shown = (median(times) for times in zip(*pairs, strict=True))
    print(f"testbed --help {shown * 1e3:.0f} ms, bare {bare * 1e3:.0f} ms: {shown / bare:.1f} times, limit {LIMIT:g}")
    return int(shown / bare > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
