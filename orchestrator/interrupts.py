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
"""How many shields the main thread is in."""
_held: list[int] = []
"""Signals that came meanwhile."""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if _shields:
        _held.append(number)
        return
    _held.clear()
    raise Interrupted(number)


def raise_on_signals() -> None:
    """From here on SIGINT, SIGTERM and SIGHUP raise ``Interrupted`` in the main thread."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


@contextmanager
def shielded() -> Iterator[None]:
    """Hold back the signals of ``raise_on_signals`` while the block runs, so that clean-up is whole.

    After the outermost block the last one is raised, once for all of them, even if the block has failed. Of no effect
    in another thread than the main one, which is where signals raise.

    The handler decides, and nothing is exchanged: a signal between two calls of ``signal.signal`` would be lost, and
    ``pthread_sigmask`` holds nothing back in a process with threads: the kernel gives the signal to a thread that does
    not block it, and Python runs the handler in the main one all the same (signal(7); signal, "Signals and threads").
    """
    global _shields  # noqa: PLW0603 - as the handlers of signals, it is the process's
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
