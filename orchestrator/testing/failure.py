"""Errors of an expectation about mail.

::

    NotArrived   AssertionError, TimeoutError   fewer messages arrived in time than were expected
    Unexpected   AssertionError                 a message arrived, or waits in the queue, that was not to come
    Unsettled    TimeoutError                   mail was still on its way when the time was over
    Missing      AssertionError, LookupError    a message has no such link, code or attachment

Texts of mail in them are made safe for a terminal: control characters are visible.
"""

from collections.abc import Iterable

from orchestrator.plaintext import plain

LINES = 12
"""Lines of a part of an error's text."""
WIDTH = 300
"""Characters of a line."""


class NotArrived(AssertionError, TimeoutError):
    """Fewer messages arrived in time than expected: near misses, attempts, log, queue and DNS faults explain it."""


class Unexpected(AssertionError):
    """A message arrived, or waits in the relay's queue, that was not to come."""


class Unsettled(TimeoutError):
    """Mail was still queued or on its way when the time was over."""


class Missing(AssertionError, LookupError):
    """A message has no such link, code or attachment."""


def part(title: str, lines: Iterable[str]) -> str:
    """Return a part of an error's text: a title, and below it the last ``LINES`` of these lines."""
    every = [plain(line, keep="") for line in lines]
    left_out = len(every) - LINES
    shown = [line if len(line) <= WIDTH else f"{line[:WIDTH]} ..." for line in every[-LINES:]]
    more = [f"({left_out} before these)"] if left_out > 0 else []
    return "\n".join([f"{title}:", *(f"    {line}" for line in [*more, *shown] or ["none"])])
