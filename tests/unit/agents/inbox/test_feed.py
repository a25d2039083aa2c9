"""The feed: who waits is woken by news of its kind only."""

import asyncio
from functools import partial

from orchestrator.agents.inbox.feed import MESSAGE, Feed


def test_a_waiter_looks_again_after_news_of_its_kind_only() -> None:
    async def scene() -> tuple[int, int]:
        feed, looks = Feed(), {MESSAGE: 0, "": 0}

        def look(kind: str) -> bool | None:
            looks[kind] += 1
            return True if feed.closed else None

        waiting = asyncio.gather(*(feed.until(partial(look, kind), 10, kind) for kind in looks))
        for kind in ("", "attempt", "attempt", MESSAGE):
            feed.wake(kind) if kind else None
            for _ in range(3):
                await asyncio.sleep(0)
        feed.close()
        assert await waiting == [True, True]
        return looks[MESSAGE], looks[""]

    assert asyncio.run(scene()) == (3, 5)  # at first, after the news, at the end
