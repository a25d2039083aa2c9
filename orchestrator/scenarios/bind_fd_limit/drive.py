"""Steps of drive() for each name server (named): wait for outgoing sockets, count open files, stop the server."""

import time
from typing import Any

from orchestrator.errors import EngineFailed, NodeDied, TimedOut
from orchestrator.hosts import Output
from orchestrator.scenarios.bind_fd_limit.readings import FETCHED, OVER, SIGNATURES
from orchestrator.up.bed import RecordedBed
from orchestrator.up.node import RunningNode

FETCH_S, SETTLE_S, STOP_S = 30.0, 5.0, 8.0
"""Time limits: fetch of the root's keys, closing of the fetch's sockets, and each attempt to stop named."""
SETTLING_S = 0.25
"""Time between two counts of open files; if the counts are equal, the number is stable."""
ENDING_S = 0.5
"""Grace period for an exit event after a failed command."""
SIGKILL_STATUS = 137

_COUNT = r"""
ls /proc/1/fd | wc -l
cd /proc/net
awk '$2 ~ /:0035$/ {sockets++; all[$2]} END {for (a in all) n++; print sockets + 0, n + 0}' udp udp6 tcp tcp6
awk '/^VmRSS:/ {print $2 * 1024}' /proc/1/status
"""
"""Script: prints named's open files, its sockets on port 53, their addresses, and its resident memory in bytes."""
_COUNTED = ("open_files", "sockets", "addresses", "memory_b")
_WAYS = {
    "rndc stop": ("rndc", "stop"),
    "SIGTERM": ("setpriv", "--reuid=bind", "--clear-groups", "sh", "-c", "kill -TERM 1"),  # root lacks CAP_KILL here
}


def ended_at_start(bed: RecordedBed, node: RunningNode) -> bool:
    """Return whether a node ended before it served, and save its exit status; raises NodeDied if another node ended."""
    bed.check()
    if death := _end(node, 0):
        bed.rundir.save_result(f"{node.name}-end", {"status": death.exit_status})
    return death is not None


def count_open(bed: RecordedBed, node: RunningNode) -> None:
    """Wait for named's first outgoing sockets; save the counts of ``_COUNT`` once the open files are stable."""
    fetched = node.wait_for_log(rf"{FETCHED}|{SIGNATURES[OVER]}", FETCH_S)
    if counted := _settled(bed, node):
        bed.rundir.save_result(f"{node.name}-open", {**counted, "fetched": fetched is not None})


def stop(bed: RecordedBed, node: RunningNode) -> None:
    """Stop a node with rndc, then with SIGTERM; save the results. Raises NodeDied if another cause ended it."""
    bed.check()
    node.expect_end()
    tried: list[dict[str, Any]] = []
    death = None
    for way, command in _WAYS.items():
        with bed.phase(f"{way} of {node.name}"):
            began = time.monotonic()
            output = _ask(bed, node, *command)
            death = _await_end(bed, node, began + STOP_S)
            seconds = round(time.monotonic() - began, 3)
        error, status = (output.stderr.strip().partition("\n")[0], output.status) if output else ("", None)
        tried.append({"way": way, "status": status, "said": error, "ended": bool(death), "s": seconds})
        if death:
            break
    bed.rundir.save_result(f"{node.name}-stop", {"tried": tried, "status": death and death.exit_status})


def _ask(bed: RecordedBed, node: RunningNode, *command: str) -> Output | None:
    """Run a command in a node; return None if the command timed out, or if a node that may end has ended."""
    try:
        output = node.exec(*command, timeout=STOP_S)
    except NodeDied:
        raise
    except TimedOut:
        return None
    except EngineFailed:
        if node.end(0) is None:
            raise
        return None
    if output.status != 0:  # the command failed, or its container ended
        node.end(ENDING_S)
        bed.check()
    return output


def _await_end(bed: RecordedBed, node: RunningNode, deadline: float) -> NodeDied | None:
    """Wait until ``deadline`` (monotonic) for the end of a node; meanwhile record its open files once a second."""
    while (left := deadline - time.monotonic()) > 0:
        if death := _end(node, min(left, 1.0)):
            return death
        _count(bed, node)
    return _end(node, 0)


def _end(node: RunningNode, seconds: float) -> NodeDied | None:
    """Wait up to ``seconds`` for the end of a node; return None if the node still runs."""
    death = node.end(seconds)
    if death and death.exit_status in {SIGKILL_STATUS, None}:
        raise death  # named did not end by itself: SIGKILL, or its container was removed
    return death


def _settled(bed: RecordedBed, node: RunningNode) -> dict[str, int] | None:
    """Count open files until their number is stable, because named closes outgoing sockets with a delay."""
    counts: list[dict[str, int] | None] = [None]

    def settled() -> bool:
        counts.append(_count(bed, node))
        before, now = counts[-2:]
        return now is None or (before is not None and now["open_files"] == before["open_files"])

    bed.until(settled, SETTLE_S, SETTLING_S)
    return counts[-1]


def _count(bed: RecordedBed, node: RunningNode) -> dict[str, int] | None:
    """Return the counts of ``_COUNT`` and record the open files; None if a node that may end has ended."""
    output = _ask(bed, node, "sh", "-euc", _COUNT)
    figures = output.stdout.split() if output and output.status == 0 else []
    if len(figures) < len(_COUNTED):  # an exiting process has no VmRSS
        return None
    counted = dict(zip(_COUNTED, map(int, figures), strict=True))
    bed.keep("open files", node.name, counted["open_files"])
    return counted
