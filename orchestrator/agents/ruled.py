"""Sessions of a sink with rules, and their shared state: the first matching rule refuses, delays or ends a session.

A sink without rules uses the plain ``Session``, and its sessions check no rules.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import ClassVar, cast

from pydantic import TypeAdapter

from orchestrator.agents.content import DataReader
from orchestrator.agents.contract import SinkSettings
from orchestrator.agents.ledger import Books
from orchestrator.agents.rules import ENVELOPE, LATE, Action, Decision, Moment, Rule, Rules, Transaction
from orchestrator.agents.session import BYE, DATA_OK, GREETING, MAIL_OK, OK, RCPT_OK, Reception, Session

_LINGER_NOT = struct.pack("ii", 1, 0)
"""Value of SO_LINGER that makes close(2) send RST: on, with a time-out of 0 (socket(7))."""
_REFUSED = b"503 5.5.1 QUIT only\r\n"
_CLOSES = "421"
"""Reply code after which the server closes the connection (RFC 5321, 4.2.1)."""


class RuledReception(Reception):
    """State shared by all sessions of a sink with rules."""

    __slots__ = ("rules",)
    rules: Rules

    def decide(self, moment: Moment, transaction: Transaction) -> Decision:
        """Return the rules' decision."""
        return self.rules.decide(moment, transaction)


def ruled(books: Books, settings: SinkSettings, most: int, tls: ssl.SSLContext | None, rules: str) -> RuledReception:
    """Return the shared state of a sink's sessions; ``rules``: JSON. Raises ValueError if the rules are invalid."""
    reception = RuledReception(books, settings, most, tls)
    reception.rules = Rules(TypeAdapter(list[Rule]).validate_json(rules))
    return reception


class Delayed(Exception):
    """The reply to a command is delayed."""

    def __init__(self, reply: bytes, seconds: float) -> None:
        self.reply, self.seconds = reply, seconds


class _Ended(Exception):
    """A rule ends the connection: with this reply, without a reply, or by RST."""

    def __init__(self, reply: bytes, *, reset: bool = False) -> None:
        self.reply, self.reset = reply, reset


class RuledSession(Session):
    """One connection under rules."""

    __slots__ = ("_addresses", "_client", "_from", "_name", "_refused", "_turns")

    def __init__(self, reception: RuledReception) -> None:
        super().__init__(reception)
        self._client = ""
        self._name = ""
        self._from = ""
        self._addresses: list[str] = []
        self._refused = False
        """Whether the greeting was a refusal: only QUIT is then accepted."""
        self._turns: list[Callable[[], None]] = []
        """One call for each turn of a ``pace`` rule that the client waits for; the call gives this turn back."""

    # ------------------------------------------------------------------------------------------ questions to the rules

    def decided(self, moment: Moment, decision: Decision, reply: bytes) -> None:
        """Take note of a decision and its reply; this class records neither."""

    def _ask(self, moment: Moment, good: bytes, recipient: str | None = None) -> tuple[Decision, bytes]:
        """Return the rules' decision and the reply; the reply is ``good`` if the rule has none.

        Raises:
            _Ended: the connection ends.
        """
        sender = self._from if moment in ENVELOPE else None
        transaction = Transaction(client=self._client, sender=sender, recipient=recipient)
        decision = cast("RuledReception", self._reception).decide(moment, transaction)
        reply = decision.reply.encode("ascii") + b"\r\n" if decision.reply else good
        self.decided(moment, decision, reply)
        if decision.action is Action.PACE and decision.delay_s > 0:
            self._turns.append(decision.give_back)
        if decision.action is Action.RESET:
            raise _Ended(b"", reset=True)
        if decision.action is Action.DISCONNECT:
            raise _Ended(reply if decision.reply else b"")
        if decision.reply.startswith(_CLOSES):
            raise _Ended(reply)
        return decision, reply

    def _ruled(self, moment: Moment, good: bytes, recipient: str | None = None) -> bytes:
        """Return the reply of the deciding rule; ``good`` if this rule has none.

        Raises:
            _Ended: the connection ends.
            Delayed: the client gets ``good`` after a delay.
        """
        decision, reply = self._ask(moment, good, recipient)
        if decision.action in LATE:
            raise Delayed(good, decision.delay_s)
        return reply

    def _ask_each(self, moment: Moment, good: bytes) -> tuple[list[Decision], bytes, float]:
        """Return a decision for each recipient, one reply (the first refusal or ``good``), and the longest delay in s.

        Raises:
            _Ended: the connection ends.
        """
        decisions, seconds = [], 0.0
        for address in self._addresses:
            decision, reply = self._ask(moment, good, address)
            if reply is not good:
                self._give_back()
                return [], reply, 0.0
            if decision.action in LATE:
                seconds = max(seconds, decision.delay_s)
            decisions.append(decision)
        return decisions, good, seconds

    def _answer_now(self, reply: bytes) -> None:
        self._turns.clear()
        super()._answer_now(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Discard an unfinished message; give unused turns back to the ``pace`` rules."""
        self._give_back()
        super().connection_lost(exc)

    def _give_back(self) -> None:
        while self._turns:
            self._turns.pop()()

    # --------------------------------------------------------------------------------------------- commands, one by one

    def _greet(self, transport: asyncio.Transport) -> None:
        self._client = str(transport.get_extra_info("peername")[0])
        replies: list[bytes] = []
        try:
            reply = self._ruled(Moment.CONNECT, b"")
        except Delayed as late:
            self._answer_later(GREETING, late.seconds, replies)
        except _Ended as end:
            self._end(end, replies)
        else:
            self._refused = bool(reply)
            transport.write(reply or GREETING)

    def _read_commands(self, data: bytes, replies: list[bytes]) -> bytes | None:
        data, self._line = self._line + data, b""
        at = 0
        while (end := data.find(b"\r\n", at) + 2) >= 2:
            line, at = data[at:end], end
            try:
                rest = self._read_line(line, replies)
            except Delayed as late:
                self._answer_later(late.reply, late.seconds, replies)
                return data[at:]
            except _Ended as ended:
                self._end(ended, replies)
                return None
            if replies and replies[-1] is DATA_OK:
                return (rest or b"") + data[at:]
            if self._transport is None or self._starts_tls or (replies and replies[-1] is BYE):
                return None
        return super()._read_commands(data[at:], replies)

    def _read_line(self, line: bytes, replies: list[bytes]) -> bytes | None:
        """Reply to one line; ``line`` includes its CRLF."""
        if self._refused and not self._overlong and line[:4].upper() != b"QUIT":
            replies.append(_REFUSED)  # RFC 5321, 3.1
            return None
        return super()._read_commands(line, replies)

    def _read_content(self, data: bytes, replies: list[bytes]) -> bytes | None:
        try:
            return super()._read_content(data, replies)
        except _Ended as ended:
            self._end(ended, replies)
            return None

    def _end(self, ended: _Ended, replies: list[bytes]) -> None:
        transport = cast("asyncio.Transport", self._transport)
        self._reception.books.broken += 1
        self._transport = self._content = None
        if ended.reset:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            transport.abort()
            return
        transport.write(b"".join([*replies, ended.reply]))
        transport.close()
        replies.clear()

    def _hello(self, line: bytes, reply: bytes) -> bytes:
        answer = super()._hello(line, reply)
        if answer is reply:
            self._name = line[5:].strip().decode("ascii", "replace")
            answer = self._ruled(Moment.EHLO, reply)
            self._greeted = answer is reply
        return answer

    def _forget(self) -> None:
        self._from, self._addresses = "", []
        super()._forget()

    def _ruled_mail(self, line: bytes) -> bytes:
        reply = self._mail(line)
        if reply is MAIL_OK:
            self._from = self._address(line, b"MAIL FROM:")
            reply = self._ruled(Moment.MAIL, MAIL_OK)
            if reply is not MAIL_OK:
                self._forget()
        return reply

    def _ruled_rcpt(self, line: bytes) -> bytes:
        reply = self._rcpt(line)
        if reply is not RCPT_OK:
            return reply
        self._addresses.append(self._address(line, b"RCPT TO:"))
        reply = self._ruled(Moment.RCPT, RCPT_OK, self._addresses[-1])
        if reply is not RCPT_OK:
            self._recipients.pop()
            self._addresses.pop()
        return reply

    def _ruled_data(self, line: bytes) -> bytes:
        reply = self._data(line)
        if reply is not DATA_OK:
            return reply
        _, reply, seconds = self._ask_each(Moment.DATA, DATA_OK)
        if reply is not DATA_OK:
            self._content = None
        elif seconds:
            raise Delayed(reply, seconds)
        return reply

    def _address(self, line: bytes, command: bytes) -> str:
        """Return the address in an accepted command; empty for ``<>``."""
        argument = self._path(line[len(command) :])
        if argument is None or not argument.domain:
            return argument.local.decode() if argument else ""
        return f"{argument.local.decode()}@{argument.domain.decode()}"

    COMMANDS: ClassVar = {**Session.COMMANDS, b"MAIL": _ruled_mail, b"RCPT": _ruled_rcpt, b"DATA": _ruled_data}

    # -------------------------------------------------------------------------------------------------- a whole message

    def _take(self, content: DataReader) -> tuple[bytes, float]:
        """Apply the rules for each recipient. A message dropped for all recipients is accepted, but not kept."""
        if content.size > self._reception.settings.max_size:
            return super()._take(content)
        decisions, reply, seconds = self._ask_each(Moment.MESSAGE, OK)
        if reply is not OK:
            return reply, seconds
        kept, bounced = [], []
        for address, decision in zip(self._addresses, decisions, strict=True):
            if decision.action is Action.BOUNCE:
                bounced.append((address, decision.delay_s))
            elif decision.action is not Action.DROP:
                kept.append(address)
        reply, usual = self.keep(content, kept, bounced) if kept or bounced else (OK, 0.0)
        return reply, max(seconds, usual)

    def keep(self, content: DataReader, kept: list[str], bounced: list[tuple[str, float]]) -> tuple[bytes, float]:
        """Keep a message for the recipients ``kept``; each of ``bounced`` gets a notification after the given delay."""
        del kept, bounced
        return super()._take(content)
