"""Progress of a bring-up without a terminal: log records of ``logging``."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_log = logging.getLogger(__name__)


class Logged:
    """Logs each step at its end, with its duration; logs warnings at the level WARNING."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        """Name and duration in seconds of every step that has ended."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Log one step when the block has ended."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = round(time.monotonic() - began, 3)
            self.taken.append({"name": name, "seconds": seconds})
            _log.info("%s: %.1f s", name, seconds)

    def say(self, text: str) -> None:
        """Log the progress of a step."""
        warning = text.startswith("warning:")
        _log.log(logging.WARNING if warning else logging.INFO, "%s", text.removeprefix("warning: "))
