"""Sessions that the sink breaks off, as a server that crashes or sheds load would.

A session with a fault has a class of its own from its start, so that usual sessions do not check for faults.
"""

import asyncio
import socket
import struct
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, cast

from orchestrator.agents.session import MAIL_OK, RCPT_OK, Reception, Session

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, with a time of 0: close(2) then sends RST (socket(7))."""


class _BreakOff(Exception):
    """Stops the reading of a session's commands."""


class Broken(Session):
    """A session that ends in the middle of a transaction."""

    __slots__ = ()

    def _read_commands(self, data: bytes, replies: list[bytes]) -> bytes | None:
        try:
            return super()._read_commands(data, replies)
        except _BreakOff:
            self._reception.books.broken += 1
            self._break_off(replies)
            self._transport = None
            return None

    @abstractmethod
    def _break_off(self, replies: list[bytes]) -> None:
        """End the connection; ``replies`` are those to the commands before the fault."""


def _broken_off(verb: bytes, good: bytes) -> Callable[[Any, bytes], bytes]:
    """Return a handler of the command that breaks the session off where the usual one returns ``good``."""
    usual = Session.COMMANDS[verb]

    def answer_or_break(session: Session, line: bytes) -> bytes:
        if (reply := usual(session, line)) is good:
            raise _BreakOff
        return reply

    return answer_or_break


class ResetAfterMail(Broken):
    """Resets the connection after MAIL, without a further reply."""

    __slots__ = ()
    COMMANDS: ClassVar = {**Session.COMMANDS, b"MAIL": _broken_off(b"MAIL", MAIL_OK)}

    def _break_off(self, replies: list[bytes]) -> None:  # noqa: ARG002  lost with the connection
        transport = cast("asyncio.Transport", self._transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()


class CloseAfterRcpt(Broken):
    """Answers the commands before RCPT, and closes."""

    __slots__ = ()
    COMMANDS: ClassVar = {**Session.COMMANDS, b"RCPT": _broken_off(b"RCPT", RCPT_OK)}

    def _break_off(self, replies: list[bytes]) -> None:
        transport = cast("asyncio.Transport", self._transport)
        transport.write(b"".join(replies))
        transport.close()


FAULTS: dict[str, type[Session]] = {
    "none": Session,
    "reset-after-mail": ResetAfterMail,
    "close-after-rcpt": CloseAfterRcpt,
}


def answer(reception: Reception) -> Session:
    """Return the session of a new connection: every ``fault_every``-th one has the fault of the settings."""
    settings = reception.settings
    nth = reception.books.accepted + 1
    return (FAULTS[settings.fault] if nth % settings.fault_every == 0 else Session)(reception)
