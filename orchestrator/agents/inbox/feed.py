"""Feed of an inbox's news: wakes requests that wait for messages, events or log lines, without polling."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MESSAGE = "message"
"""Kind of news: a message came or has changed."""


class Feed:
    """Wakes the tasks that wait for a kind of news. All tasks belong to one event loop."""

    def __init__(self) -> None:
        self._news = defaultdict[str, asyncio.Event](asyncio.Event)
        """One event for each kind of news; the empty kind covers all news."""
        self.closed = False
        """Whether ``close`` was called; every wait then ends."""

    def wake(self, *kinds: str) -> None:
        """Wake each task that waits for one of these kinds of news, or for all news."""
        for kind in ("", *kinds):
            self._news.pop(kind, asyncio.Event()).set()

    def close(self) -> None:
        """End every wait."""
        self.closed = True
        self.wake(*self._news)

    async def until(self, look: Callable[[], T | None], seconds: float, kind: str = "") -> T | None:
        """Return the first result of ``look`` that is not ``None``; ``None`` after ``seconds``, or after ``close``.

        Calls ``look`` at once, and again after each ``wake`` for this kind.
        """
        end = time.monotonic() + seconds
        while True:
            news = self._news[kind]  # read before the call of ``look``, so that later news is not missed
            if (seen := look()) is not None:
                return seen
            rest = end - time.monotonic()
            if rest <= 0 or self.closed:
                return None
            try:
                await asyncio.wait_for(news.wait(), rest)
            except TimeoutError:
                return look()
