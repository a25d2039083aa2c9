"""Waiting for news of an inbox, without polling."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MESSAGE = "message"
"""News of a message that came or has changed."""


class Feed:
    """Wakes those who wait whenever something of their kind has happened. For one event loop."""

    def __init__(self) -> None:
        self._news = defaultdict[str, asyncio.Event](asyncio.Event)
        """By kind; of the empty kind are all news."""
        self.closed = False
        """Whether ``close`` was called; no wait goes on after that."""

    def wake(self, *kinds: str) -> None:
        """Wake each wait for one of these kinds of news, and each for all news."""
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
            news = self._news[kind]  # taken before the look: nothing that happens after it is missed
            if (seen := look()) is not None:
                return seen
            rest = end - time.monotonic()
            if rest <= 0 or self.closed:
                return None
            try:
                await asyncio.wait_for(news.wait(), rest)
            except TimeoutError:
                return look()
