"""The inbox of a bed in a test: waits for mail."""

from typing import Any

from orchestrator.errors import TimedOut
from orchestrator.testing.failure import NotArrived
from orchestrator.testing.message import Message
from orchestrator.up.inbox import Inbox


class BedInbox:
    """The inbox of a bed."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._after = 0

    @property
    def url(self) -> str:
        """Address of the web page and the API."""
        return self._inbox.url

    def begin(self) -> None:
        """From now on, look only at mail that arrives after this call."""
        newest = self._inbox.messages(limit=1)["messages"]
        self._after = newest[0]["id"] if newest else 0

    def wait_for(self, *, timeout: float = 10.0, **conditions: Any) -> Message:
        """Wait up to ``timeout`` seconds for a message that arrived after the mark and return the first one.

        Raises:
            NotArrived: none came in time.
        """
        try:
            found = self._inbox.wait(timeout=timeout, after=self._after, **_words(conditions))
        except TimedOut as late:
            raise NotArrived(str(late)) from None
        return self._message(found[-1])

    def messages(self, **conditions: Any) -> list[Message]:
        """Return the messages that match and arrived after the mark, the oldest first."""
        found = self._inbox.messages(limit=1000, after=self._after, **_words(conditions))["messages"]
        return [self._message(one) for one in reversed(found)]

    def _message(self, summary: dict[str, Any]) -> Message:
        return Message(summary, self._inbox.raw)


def _words(conditions: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions under their names in the API of the inbox."""
    return {name.rstrip("_"): value for name, value in conditions.items() if value is not None}
