"""A sink that breaks sessions off, as a server does that crashes or sheds load.

A session that will be broken off is of another class from its first moment, so that the others pay nothing for it.
"""

import asyncio
import socket
import struct
from abc import abstractmethod
from typing import ClassVar, cast

from orchestrator.agents.session import MAIL_OK, RCPT_OK, Reception, Session

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: close(2) then sends RST (socket(7))."""


class _BreakOff(Exception):
    """No further command of this session is read."""


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
        """End the connection; ``replies`` are those to what came before."""


class ResetAfterMail(Broken):
    """Resets the connection when MAIL has come, and answers nothing more."""

    __slots__ = ()

    def _break_off(self, replies: list[bytes]) -> None:  # noqa: ARG002  lost with the connection
        transport = cast("asyncio.Transport", self._transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def _mail_then_break(self, line: bytes) -> bytes:
        return _unless(MAIL_OK, self._mail(line))

    COMMANDS: ClassVar = {**Session.COMMANDS, b"MAIL": _mail_then_break}


class CloseAfterRcpt(Broken):
    """Answers what came before RCPT, and closes."""

    __slots__ = ()

    def _break_off(self, replies: list[bytes]) -> None:
        transport = cast("asyncio.Transport", self._transport)
        transport.write(b"".join(replies))
        transport.close()

    def _rcpt_then_break(self, line: bytes) -> bytes:
        return _unless(RCPT_OK, self._rcpt(line))

    COMMANDS: ClassVar = {**Session.COMMANDS, b"RCPT": _rcpt_then_break}


FAULTS: dict[str, type[Session]] = {
    "none": Session,
    "reset-after-mail": ResetAfterMail,
    "close-after-rcpt": CloseAfterRcpt,
}


def answer(reception: Reception) -> Session:
    """Take a connection: every k-th with the fault that the settings name."""
    settings = reception.settings
    nth = reception.books.accepted + 1
    return (FAULTS[settings.fault] if nth % settings.fault_every == 0 else Session)(reception)


def _unless(good: bytes, reply: bytes) -> bytes:
    if reply is good:
        raise _BreakOff
    return reply
