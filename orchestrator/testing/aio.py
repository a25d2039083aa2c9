"""The inbox of a bed for coroutines; cancelling a task closes its request to the inbox."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from orchestrator.errors import TimedOut
from orchestrator.testing.conditions import Conditions, limited, merged
from orchestrator.testing.message import Message

if TYPE_CHECKING:
    from orchestrator.testing.inbox import BedInbox


class AsyncInbox:
    """``BedInbox`` for coroutines: the same conditions, results and errors. ``limits``: conditions of every call."""

    def __init__(self, inbox: "BedInbox", **limits: Unpack[Conditions]) -> None:
        self._inbox, self._limits = inbox, limits

    async def wait_for(
        self,
        *,
        timeout: float = 10.0,  # noqa: ASYNC109 - the same parameter as in BedInbox
        after: Message | None = None,
        **conditions: Unpack[Conditions],
    ) -> Message:
        """Return the first message that meets all conditions, as soon as it arrives; raises NotArrived."""
        every = self._limited(conditions)
        return (await self._wait(self._inbox.request(1, timeout, every, after), every))[0]

    async def wait_for_all(
        self,
        *wanted: Conditions,
        count: int = 1,
        timeout: float = 10.0,  # noqa: ASYNC109 - the same parameter as in BedInbox
        **conditions: Unpack[Conditions],
    ) -> list[Message]:
        """Wait for ``count`` messages for each of ``wanted`` at the same time; raises NotArrived."""
        every = merged(wanted, self._limited(conditions))
        requests = [self._inbox.request(count, timeout, one) for one in every]  # raises before any task
        tasks = [asyncio.ensure_future(self._wait(*pair)) for pair in zip(requests, every, strict=True)]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [message for some in found for message in some[:count]]

    async def expect_none(self, *, timeout: float = 10.0, **conditions: Unpack[Conditions]) -> None:  # noqa: ASYNC109
        """Check in a thread that no message meets the conditions; raises Unexpected."""
        await asyncio.to_thread(self._inbox.expect_none, timeout=timeout, **self._limited(conditions))

    def _limited(self, conditions: Mapping[str, Any]) -> Conditions:
        made: Conditions = limited(self._limits, conditions)
        return made

    async def _wait(self, request: dict[str, Any], conditions: Mapping[str, Any]) -> list[Message]:
        try:
            return self._inbox.received(await self._inbox.api.wait_async(**request))
        except TimedOut:
            raise await asyncio.to_thread(self._inbox.not_arrived, request, conditions) from None
