"""Ctrl-C and SIGTERM: raised as one exception, held back during clean-up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A person or a supervisor asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


_shields = 0
"""Number of ``shielded`` blocks that the main thread is in."""
_held: list[int] = []
"""Signals that arrived while a ``shielded`` block ran."""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if _shields:
        _held.append(number)
        return
    _held.clear()
    raise Interrupted(number)


def raise_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise ``Interrupted`` in the main thread from now on."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


@contextmanager
def shielded() -> Iterator[None]:
    """Hold back the signals of ``raise_on_signals`` while the block runs, so that clean-up completes.

    At the end of the outermost block, even if it failed, ``Interrupted`` is raised once, for the last signal. The block
    has no effect outside the main thread, because Python runs signal handlers only in the main thread.

    The handler stays installed, because a signal that arrives while handlers are exchanged would be lost. Blocking
    signals with ``pthread_sigmask`` does not work in a process with threads: the kernel delivers the signal to another
    thread, and Python still runs the handler in the main thread (signal(7); module signal, "Signals and threads").
    """
    global _shields  # noqa: PLW0603 - process-wide, like signal handlers
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _shields += 1
    try:
        yield
    finally:
        _shields -= 1
        if _held and not _shields:
            _interrupt(_held[-1], None)
