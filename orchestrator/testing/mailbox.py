"""An address of one test alone."""

from typing import TYPE_CHECKING, Any, Self

from orchestrator.testing.message import Message

if TYPE_CHECKING:
    from orchestrator.testing.inbox import BedInbox


class Mailbox(str):
    """An address that no other test has: a str, with the methods of the inbox limited to it."""

    __slots__ = ("_inbox",)
    _inbox: "BedInbox"

    def __new__(cls, address: str, inbox: "BedInbox") -> Self:
        """Make the mailbox of an address."""
        made = super().__new__(cls, address)
        made._inbox = inbox
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Return how to copy it or to send it to another process: as a plain str."""
        return str, (str(self),)

    def wait_for(self, **conditions: Any) -> Message:
        """Wait for a message to this address; as ``BedInbox.wait_for``."""
        return self._inbox.wait_for(to=self, **conditions)

    def messages(self, **conditions: Any) -> list[Message]:
        """Return the messages to this address; as ``BedInbox.messages``."""
        return self._inbox.messages(to=self, **conditions)
