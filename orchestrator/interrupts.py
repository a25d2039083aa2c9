"""Ctrl-C and SIGTERM: one exception on the way in, none while cleaning up."""

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


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def raise_on_signals() -> None:
    """From here on SIGINT, SIGTERM and SIGHUP raise ``Interrupted`` in the main thread."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


@contextmanager
def shielded() -> Iterator[None]:
    """Hold signals back while the block runs, so that clean-up is whole; the last one is raised after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = [signal.signal(number, lambda n, _frame: held.append(n)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[-1])
