"""Drive of each named: did it get its sockets, how many files are open, does it stop?"""

import time
from typing import Any

from orchestrator.errors import EngineFailed, NodeDied, TimedOut
from orchestrator.hosts import Output
from orchestrator.scenarios.bind_fd_limit.signatures import FETCHED, OVER, SIGNATURES
from orchestrator.up.bed import RecordedBed
from orchestrator.up.node import RunningNode

FETCH_S, SETTLE_S, STOP_S = 30.0, 5.0, 8.0
"""How long the fetch of the root's keys may take, its sockets until they are closed, and each way to stop it."""
SETTLING_S = 0.25
"""How long the number of open files has to stay the same."""
ENDING_S = 0.5
"""How soon the engine tells of the end that broke a command off."""
SIGKILL_STATUS = 137

_COUNT = r"""
ls /proc/1/fd | wc -l
cd /proc/net
awk '$2 ~ /:0035$/ {sockets++; all[$2]} END {for (a in all) n++; print sockets + 0, n + 0}' udp udp6 tcp tcp6
awk '/^VmRSS:/ {print $2 * 1024}' /proc/1/status
"""
"""What a named has open, its sockets of port 53 and on how many addresses, and its resident memory in bytes."""
_COUNTED = ("open_files", "sockets", "addresses", "memory_b")
_WAYS = {
    "rndc stop": ("rndc", "stop"),
    "SIGTERM": ("setpriv", "--reuid=bind", "--clear-groups", "sh", "-c", "kill -TERM 1"),  # root lacks CAP_KILL here
}


def ended_at_start(bed: RecordedBed, node: RunningNode) -> bool:
    """Keep how a node ended that could not get all its sockets.

    Raises:
        NodeDied: one ended that had no reason to.
    """
    bed.check()
    if death := _end(node, 0):
        bed.rundir.save_result(f"{node.name}-end", {"status": death.exit_status})
    return death is not None


def count_open(bed: RecordedBed, node: RunningNode) -> None:
    """Wait for its first outgoing sockets, and keep what it has open when that has settled."""
    fetched = node.wait_for_log(rf"{FETCHED}|{SIGNATURES[OVER]}", FETCH_S)
    if counted := _settled(bed, node):
        bed.rundir.save_result(f"{node.name}-open", {**counted, "fetched": fetched is not None})


def stop(bed: RecordedBed, node: RunningNode) -> None:
    """Ask a node to stop, in one way after the other, until it has.

    Raises:
        NodeDied: somebody else ended it.
    """
    bed.check()
    node.expect_end()
    tried: list[dict[str, Any]] = []
    death = None
    for way, command in _WAYS.items():
        with bed.phase(f"{way} of {node.name}"):
            began = time.monotonic()
            said = _ask(bed, node, *command)
            death = _await_end(bed, node, began + STOP_S)
            seconds = round(time.monotonic() - began, 3)
        answer = said.stderr.strip().partition("\n")[0] if said else ""
        tried.append({"way": way, "status": said and said.status, "said": answer, "ended": bool(death), "s": seconds})
        if death:
            break
    bed.rundir.save_result(f"{node.name}-stop", {"tried": tried, "status": death and death.exit_status})


def _ask(bed: RecordedBed, node: RunningNode, *command: str) -> Output | None:
    """Run a command in a node; ``None``: it does not answer, or ends just now, and may.

    Raises:
        NodeDied: it ended that had no reason to, or another one.
        EngineFailed: the engine refused, and the node runs.
    """
    try:
        said = node.exec(*command, timeout=STOP_S)
    except NodeDied:
        raise
    except TimedOut:
        return None
    except EngineFailed:
        if node.end(0) is None:
            raise
        return None
    if said.status != 0:  # of the command, or because it was ended with its container
        node.end(ENDING_S)
        bed.check()
    return said


def _await_end(bed: RecordedBed, node: RunningNode, deadline: float) -> NodeDied | None:
    """Wait for the end of a node until a moment of the monotonic clock, and read its open files once a second."""
    while (left := deadline - time.monotonic()) > 0:
        if death := _end(node, min(left, 1.0)):
            return death
        _count(bed, node)
    return _end(node, 0)


def _end(node: RunningNode, seconds: float) -> NodeDied | None:
    """Wait so long for the end of a node; ``None``: it still runs.

    Raises:
        NodeDied: by SIGKILL, or its container was removed, so it was not BIND that ended it.
    """
    death = node.end(seconds)
    if death and death.exit_status in {SIGKILL_STATUS, None}:
        raise death
    return death


def _settled(bed: RecordedBed, node: RunningNode) -> dict[str, int] | None:
    """Count until nothing changes any more: outgoing sockets are closed with some delay."""
    counted: dict[str, int] | None = None

    def settled() -> bool:
        nonlocal counted
        before, counted = counted, _count(bed, node)
        return counted is None or (before is not None and counted["open_files"] == before["open_files"])

    bed.until(settled, SETTLE_S, SETTLING_S)
    return counted


def _count(bed: RecordedBed, node: RunningNode) -> dict[str, int] | None:
    """Read what a named has open, and keep it; ``None``: it ends just now, and may."""
    said = _ask(bed, node, "sh", "-euc", _COUNT)
    figures = said.stdout.split() if said and said.status == 0 else []
    if len(figures) < len(_COUNTED):  # a process that is on its way out has no memory left
        return None
    counted = dict(zip(_COUNTED, map(int, figures), strict=True))
    bed.keep("open files", node.name, counted["open_files"])
    return counted
