"""Waiting for news of an inbox, without polling."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Feed:
    """Wakes waiting coroutines when an event is recorded. For one event loop."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self.closed = False
        """Nobody waits any longer."""

    def wake(self) -> None:
        """Have every waiter look again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def close(self) -> None:
        """Let nobody wait any longer."""
        self.closed = True
        self.wake()

    async def until(self, look: Callable[[], T | None], seconds: float) -> T | None:
        """Wait for a result of ``look`` other than ``None``; return ``None`` after ``seconds``, or once closed."""
        end = time.monotonic() + seconds
        while True:
            news = self._news  # taken before the look: nothing that happens after it is missed
            if (seen := look()) is not None:
                return seen
            rest = end - time.monotonic()
            if rest <= 0 or self.closed:
                return None
            try:
                await asyncio.wait_for(news.wait(), rest)
            except TimeoutError:
                return look()
