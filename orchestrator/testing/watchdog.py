"""A process that outlives the owner of a bed, and removes the bed if the owner dies.

The owner holds a pipe to the watchdog. If the pipe ends without ``reaper.WORD``, the owner was killed. The watchdog
then removes every object with the owner's label, and nothing else (``reaper``).

The watchdog has its own session and ignores SIGINT, SIGTERM and SIGHUP, so neither Ctrl-C nor the stop of a process
group ends it. Its environment lacks RUNNER_TRACKING_ID: by this variable GitHub's runner finds and kills orphans
(actions/runner#598). If the watchdog dies together with its owner, for example with the job's container on GitLab, the
next start of a bed removes the objects.
"""

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.hosts.ownership import this_process
from orchestrator.testing import reaper

_IGNORING = ("sh", "-c", 'trap "" HUP INT TERM; exec "$@"', "sh")
"""Ignored signals stay ignored in the executed program (signal(7))."""


class Watchdog:
    """The watchdog of one owner, from the owner's side."""

    def __init__(self, owner: str) -> None:
        """Start the watchdog.

        Args:
            owner: OWNER label of the objects.
        """
        self.process = _start(owner, subprocess.PIPE)
        self._held, self._lock = 0, threading.Lock()
        os.register_at_fork(after_in_child=self._close)  # a child that outlives the owner must not hold the pipe
        atexit.register(self.done)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Guard the objects that the block makes and removes; if the block fails, guard them until the owner ends."""
        with self._lock:
            self._held += 1
        yield
        with self._lock:
            self._held -= 1

    def done(self) -> None:
        """End the watch; if a guarded block failed or has not ended, the watchdog removes the remaining objects."""
        pipe = self.process.stdin
        if pipe is None or pipe.closed:  # this process is a forked child of the owner
            return
        if not self._held:
            with suppress(BrokenPipeError):
                pipe.write(reaper.WORD)
        self._close()
        if not self._held:
            self.process.wait()

    def _close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()


def _start(owner: str, stdin: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    environment.pop("RUNNER_TRACKING_ID", None)
    return subprocess.Popen(
        [*_IGNORING, sys.executable, "-S", "-P", reaper.__file__, owner],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment,
        start_new_session=True,
        bufsize=0,
    )


def watch_over(owner: str, lifeline: Path) -> None:
    """Start a watchdog for another process, the owner; the owner holds a FIFO open for writing, and ends the watch.

    Args:
        owner: OWNER label of the objects.
        lifeline: the FIFO; the owner writes ``reaper.WORD`` to it when it has removed its objects.
    """
    fd = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK)  # else open() would wait for a dead owner
    try:
        os.set_blocking(fd, True)
        _for_others.append(_start(owner, fd))
    finally:
        os.close(fd)


_for_others: list[subprocess.Popen[bytes]] = []
"""Watchdogs of other owners: they outlive this process."""
_watchdogs: dict[str, Watchdog] = {}
"""OWNER label -> its watchdog; a forked child has a label of its own."""
_starting = threading.Lock()


@contextmanager
def guarded() -> Iterator[None]:
    """Let a watchdog remove this process's objects if it dies during the block, or ends after the block failed."""
    owner = this_process()
    with _starting:
        if owner not in _watchdogs:
            _watchdogs[owner] = Watchdog(owner)
    with _watchdogs[owner].guard():
        yield
