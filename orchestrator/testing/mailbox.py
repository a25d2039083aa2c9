"""An address for one test only, with the methods of the inbox."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, Unpack

from orchestrator.testing.aio import AsyncInbox
from orchestrator.testing.conditions import Conditions, OtherConditions, limited
from orchestrator.testing.message import Message
from orchestrator.testing.rules import MakesRules, Rule

if TYPE_CHECKING:
    from orchestrator.testing.inbox import BedInbox


class Mailbox(str, MakesRules):
    """An address that no other test has: a str, with the methods of ``BedInbox`` limited to mail for this address.

    A copy of a mailbox is a plain str.
    """

    __slots__ = ("_inbox",)
    _inbox: "BedInbox"

    def __new__(cls, address: str, inbox: "BedInbox") -> Self:
        """Make the mailbox of an address."""
        made = super().__new__(cls, address)
        made._inbox = inbox
        return made

    @property
    def aio(self) -> AsyncInbox:
        """The methods of this mailbox for coroutines."""
        return AsyncInbox(self._inbox, to=self)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Make each copy or pickle of the mailbox a plain str."""
        return str, (str(self),)

    def wait_for(
        self, *, timeout: float = 10.0, after: Message | None = None, **conditions: Unpack[OtherConditions]
    ) -> Message:
        """Return the first message to this address that meets the conditions; as ``BedInbox.wait_for``."""
        return self._inbox.wait_for(timeout=timeout, after=after, **self._limited(conditions))

    def wait_for_all(
        self, *wanted: Conditions, count: int = 1, timeout: float = 10.0, **conditions: Unpack[OtherConditions]
    ) -> list[Message]:
        """Wait for ``count`` messages to this address for each of ``wanted``; as ``BedInbox.wait_for_all``."""
        return self._inbox.wait_for_all(*wanted, count=count, timeout=timeout, **self._limited(conditions))

    def messages(self, **conditions: Unpack[OtherConditions]) -> list[Message]:
        """Return the messages to this address; as ``BedInbox.messages``."""
        return self._inbox.messages(**self._limited(conditions))

    def expect_none(self, *, timeout: float = 10.0, **conditions: Unpack[OtherConditions]) -> None:
        """Check that no message comes to this address; as ``BedInbox.expect_none``."""
        self._inbox.expect_none(timeout=timeout, **self._limited(conditions))

    def _rule(self, then: str, **given: Any) -> Rule:
        return self._inbox.make_rule(then, **self._limited(given))

    def _limited(self, given: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = limited({"to": self}, given)
        return made
