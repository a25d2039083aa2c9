"""Errors of expectations about mail.

::

    NotArrived   AssertionError, TimeoutError   fewer messages arrived in time than were expected
    Unexpected   AssertionError                 a message that was not expected arrived, or waits in the queue
    Unsettled    TimeoutError                   mail was still on its way at the time limit
    Missing      AssertionError, LookupError    a message has no such link, code or attachment

Mail text in these errors is safe for a terminal: control characters are visible.
"""

from collections.abc import Iterable

from orchestrator.plaintext import plain

LINES = 12
"""Maximum lines in one part of an error's text."""
WIDTH = 300
"""Maximum characters in a line."""


class NotArrived(AssertionError, TimeoutError):
    """Fewer messages arrived in time than expected; the text has near misses, attempts, log, queue and DNS faults."""


class Unexpected(AssertionError):
    """A message that was not expected arrived, or waits in the relay's queue."""


class Unsettled(TimeoutError):
    """Mail was still queued or on its way at the time limit."""


class Missing(AssertionError, LookupError):
    """A message has no such link, code or attachment."""


def part(title: str, lines: Iterable[str]) -> str:
    """Return a part of an error's text: a title, and below it the last ``LINES`` of these lines."""
    every = [plain(line, keep="") for line in lines]
    left_out = len(every) - LINES
    shown = [line if len(line) <= WIDTH else f"{line[:WIDTH]} ..." for line in every[-LINES:]]
    more = [f"({left_out} before these)"] if left_out > 0 else []
    return "\n".join([f"{title}:", *(f"    {line}" for line in [*more, *shown] or ["none"])])
