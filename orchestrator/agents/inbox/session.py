"""An inbox's side of one SMTP connection: keeps every message unchanged.

Extensions in addition to the sink's: AUTH with PLAIN and LOGIN (RFC 4954, RFC 4616), SMTPUTF8 (RFC 6531).
"""

import asyncio
import errno
import hmac
import sqlite3
import ssl
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from orchestrator.agents import path
from orchestrator.agents.content import DataReader
from orchestrator.agents.contract import Order, SinkSettings
from orchestrator.agents.inbox.bounce import Bouncer, header_section
from orchestrator.agents.inbox.content import SpooledContent
from orchestrator.agents.inbox.feed import MESSAGE
from orchestrator.agents.inbox.spool import Spool
from orchestrator.agents.inbox.stored import Envelope
from orchestrator.agents.ledger import Books
from orchestrator.agents.output import complain
from orchestrator.agents.ruled import Delayed, RuledReception, RuledSession
from orchestrator.agents.rules import PASSED, Decision, Moment, Rules, Transaction
from orchestrator.agents.session import COMMAND_LIMIT, OK, SYNTAX, TOO_BIG, TOO_MANY

PIECE = 16 * 1024
"""A client must send this many octets of a message in ``timeout_s``; octets beyond the maximum size do not count."""
_TIMEOUT = b"421 4.4.2 Timeout\r\n"
_CHALLENGE = b"334 \r\n"
_WELCOME = b"235 2.7.0 Authentication successful\r\n"
_WRONG = b"535 5.7.8 Authentication credentials invalid\r\n"
_ABORTED = b"501 5.7.0 Authentication cancelled\r\n"
_MECHANISM = b"504 5.5.4 Mechanism unknown\r\n"
_AUTHENTICATED = b"503 5.5.1 Authenticated already\r\n"
_AUTH_FIRST = b"530 5.7.0 Authentication required\r\n"
_TLS_FIRST = b"530 5.7.0 Must issue a STARTTLS command first\r\n"
_NOT_NOW = b"503 5.5.1 Not now\r\n"
_FULL = b"452 4.3.1 "
_ASCII_SENDER = b"550 5.6.7 An address that is not ASCII needs SMTPUTF8\r\n"
_ASCII_RECIPIENT = b"553 5.6.7 An address that is not ASCII needs SMTPUTF8\r\n"
"""Refusal of a non-ASCII recipient if MAIL had no SMTPUTF8 (RFC 6531, 3.5)."""
_NO_WAY_BACK = b"550 5.7.1 A notification would leave the bed\r\n"
_NOT_KEPT = b"451 4.3.0 The message could not be kept\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings(Order):
    """Behaviour of an inbox; ``SinkSettings`` explains fields of the same names."""

    max_size: int = 50 * 1024 * 1024
    max_messages: int = 200_000
    """Maximum number of kept messages; further messages get the reply 452."""
    max_stored_mb: int = 4096
    """Maximum MiB of the message files and the used part of the index; beyond it, messages get the reply 452."""
    users: dict[str, str] | None = None
    """Name -> password. ``None``: any name and any password are accepted."""
    timeout_s: float = 300.0
    """Time limit, in seconds, of a command and of each ``PIECE`` (RFC 5321, 4.5.3.2.7, requires at least 5 minutes)."""
    require_auth: bool = False
    require_tls: bool = False


class InboxReception(RuledReception):
    """State shared by all sessions of an inbox."""

    __slots__ = ("bouncer", "chaos", "inbox", "on_event", "spool")

    def __init__(
        self, spool: Spool, settings: InboxSettings, rules: Rules, most: int, tls: ssl.SSLContext | None
    ) -> None:
        self.inbox = settings
        self.spool = spool
        self.rules = rules
        self.chaos = Rules([], ids=rules.ids)
        """Rules of Mailpit's chaos API; they are tried before the other rules."""
        self.on_event: Callable[[str], None] = lambda _kind: None
        """Called with the kind of each event after it is recorded."""
        self.bouncer = Bouncer(None, (), self.record)
        super().__init__(Books([], None), SinkSettings(max_size=settings.max_size), most, tls)

    def extensions(self, *, secure: bool) -> list[bytes]:
        """Return the keywords of the extensions for the reply to EHLO."""
        auth = [b"AUTH PLAIN LOGIN"] if secure or not self.inbox.require_tls else []
        return [*auth, b"SMTPUTF8", *super().extensions(secure=secure)]

    def decide(self, moment: Moment, transaction: Transaction) -> Decision:
        """Return the rules' decision."""
        decision = self.chaos.decide(moment, transaction)
        return self.rules.decide(moment, transaction) if decision is PASSED else decision

    def put(self, message: bytes, envelope: Envelope) -> int:
        """Keep a message that did not come over SMTP, and return the id of the message.

        Raises:
            OSError: the message is too big, or the disk is full.
        """
        content = self.spool.begin(self.inbox.max_size)
        dots = b"." if message.startswith(b".") else b""
        content.feed(dots + message.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        try:
            if content.refused is not None:
                raise content.refused
            return self.keep(content, envelope)
        finally:
            if not content.kept:
                content.discard()

    def keep(self, content: SpooledContent, envelope: Envelope) -> int:
        """Keep a message, record its event, and return its id.

        Raises:
            OSError, sqlite3.Error: the message could not be written.
        """
        id_ = self.spool.keep(content, envelope)
        to = list(envelope.recipients)
        self.record(MESSAGE, {"id": id_, "sender": envelope.sender, "recipients": to, "size": content.size})
        return id_

    def record(self, kind: str, data: dict[str, Any]) -> None:
        """Record an event and call ``on_event``; on a full disk, nothing is recorded."""
        try:
            self.spool.events.record(kind, data)
        except sqlite3.Error as error:
            complain(f"event not recorded: {error}")
        else:
            self.on_event(kind)

    def knows(self, user: str, password: str) -> bool:
        """Return whether the user name and the password are valid."""
        if self.inbox.users is None:
            return True
        known = self.inbox.users.get(user)
        return known is not None and hmac.compare_digest(known.encode(), password.encode())


class InboxSession(RuledSession):
    """One connection to an inbox."""

    __slots__ = ("_exchange", "_implicit", "_inbox", "_lines", "_login", "_seen", "_timer", "_user", "_utf8")

    def __init__(self, reception: InboxReception, *, implicit: bool = False) -> None:
        super().__init__(reception)
        self._inbox = reception
        self._implicit = implicit
        """Whether the connection uses TLS from its first octet on (RFC 8314)."""
        self._exchange: Callable[[bytes], bytes] | None = None
        """Replies to the client's next line in an AUTH exchange; ``None``: no exchange is under way."""
        self._login = ""
        self._user: str | None = None
        self._utf8 = False
        self._lines = 0
        """Number of command lines read so far."""
        self._seen = (-1, 0)
        """Number of command lines, and of pieces of a message, at the last call of ``_end_if_idle``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._end_if_idle(cast("asyncio.Transport", transport))
        if self._implicit:
            self._secure = asyncio.get_running_loop().create_future()
            self._secure.set_result(None)
        super().connection_made(transport)

    # ------------------------------------------------------------------------------------------------------- commands

    def _read_line(self, line: bytes, replies: list[bytes]) -> bytes | None:
        self._lines += 1
        exchange, self._exchange = self._exchange, None
        if exchange is None or self._overlong or len(line) > COMMAND_LIMIT + 2:
            return super()._read_line(line, replies)
        replies.append(_ABORTED if line == b"*\r\n" else exchange(line[:-2]))
        return None

    def _start_tls(self, replies: list[bytes]) -> None:
        self._user = None
        super()._start_tls(replies)

    def _path(self, text: bytes) -> path.Argument | None:
        return path.read(text, utf8=True)

    def _refuse_sender(self, argument: path.Argument) -> bytes | None:
        own = [p for p in argument.parameters if p.partition(b"=")[0] in {b"SMTPUTF8", b"AUTH"}]
        if any(p.startswith(b"SMTPUTF8=") or p == b"AUTH" for p in own):
            return SYNTAX
        self._utf8 = b"SMTPUTF8" in own
        if not self._utf8 and not (argument.local + argument.domain).isascii():
            return _ASCII_SENDER
        rest = [p for p in argument.parameters if p not in own]
        return super()._refuse_sender(argument._replace(parameters=rest))

    def _mail(self, line: bytes) -> bytes:
        if not self._greeted or self._sender:
            return super()._mail(line)
        self._utf8 = False
        limit = self._limit()
        reply = limit or super()._mail(line)
        if limit or reply is TOO_BIG:
            argument = self._argument(line, b"MAIL FROM:")
            if isinstance(argument, bytes):
                return argument
            self._attempt(Moment.MAIL, reply, sender=self._address(line, b"MAIL FROM:"))
        return reply

    def _limit(self) -> bytes | None:
        """Return the refusal of MAIL if a limit of the inbox is reached, or ``None``."""
        if self._inbox.inbox.require_tls and self._secure is None:
            return _TLS_FIRST
        if self._inbox.inbox.require_auth and self._user is None:
            return _AUTH_FIRST
        reason = self._inbox.spool.full
        return None if reason is None else _FULL + reason.encode() + b"\r\n"

    def _rcpt(self, line: bytes) -> bytes:
        if self._sender and not self._utf8 and not line.isascii():
            return _ASCII_RECIPIENT
        reply = super()._rcpt(line)
        if reply is TOO_MANY:
            self._attempt(Moment.RCPT, reply, recipients=[*self._addresses, self._address(line, b"RCPT TO:")])
        return reply

    def _auth(self, line: bytes) -> bytes:
        if not self._greeted or self._sender:
            return _NOT_NOW
        if self._inbox.inbox.require_tls and self._secure is None:
            self._attempt(Moment.AUTH, _TLS_FIRST)
            return _TLS_FIRST
        if self._user is not None:
            return _AUTHENTICATED
        try:
            reply = self._ruled(Moment.AUTH, OK)
        except Delayed as late:
            raise Delayed(self._log_in(line), late.seconds) from None
        return self._log_in(line) if reply is OK else reply

    def _log_in(self, line: bytes) -> bytes:
        mechanism, _, initial = line[5:].strip().partition(b" ")
        steps = {b"PLAIN": self._plain, b"LOGIN": self._login_name}
        step = steps.get(mechanism.upper())
        if step is None:
            return _MECHANISM if mechanism else SYNTAX
        if initial:
            return step(b"" if initial == b"=" else initial)
        self._exchange = step
        return _CHALLENGE if step == self._plain else _ask("Username:")

    def _plain(self, line: bytes) -> bytes:
        words = _decoded(line)
        if words is None or words.count("\0") != 2:
            return SYNTAX
        _, user, password = words.split("\0")
        return self._authenticate(user, password)

    def _login_name(self, line: bytes) -> bytes:
        name = _decoded(line)
        if name is None:
            return SYNTAX
        self._login, self._exchange = name, self._login_password
        return _ask("Password:")

    def _login_password(self, line: bytes) -> bytes:
        password = _decoded(line)
        return SYNTAX if password is None else self._authenticate(self._login, password)

    def _authenticate(self, user: str, password: str) -> bytes:
        if not self._inbox.knows(user, password):
            self._attempt(Moment.AUTH, _WRONG)
            return _WRONG
        self._user = user
        return _WELCOME

    COMMANDS: ClassVar = {**RuledSession.COMMANDS, b"AUTH": _auth}

    # ------------------------------------------------------------------------------------------------------- messages

    def decided(self, moment: Moment, decision: Decision, reply: bytes) -> None:
        """Record a rule's decision."""
        if decision.rule:
            self._attempt(moment, reply, decision)

    def _attempt(self, moment: Moment, reply: bytes, decision: Decision | None = None, **more: object) -> None:
        """Record the reply to an attempt; an empty reply: the rule sends none."""
        self._inbox.record(
            "attempt",
            {
                "on": moment,
                "client": self._client,
                "helo": self._name,
                "sender": self._from if self._sender else None,
                "recipients": list(self._addresses),
                "reply": reply.decode().rstrip("\r\n"),
                "rule": decision.rule if decision else None,
                "then": decision.action if decision else None,
                **more,
            },
        )

    def _begin(self) -> DataReader:
        return self._inbox.spool.begin(self._inbox.inbox.max_size)

    def _end_if_idle(self, transport: asyncio.Transport) -> None:
        """End a session without progress since the last call; repeat this every ``timeout_s``."""
        content = self._content
        pieces = content.size // PIECE if isinstance(content, SpooledContent) and content.refused is None else 0
        before, self._seen = self._seen, (self._lines, pieces)
        if before == self._seen and self._delay is None:
            if self._full or self._transport is None or self._transport.is_closing():
                transport.abort()  # close() would wait for the client to read
                return
            self._transport.write(_TIMEOUT)
            self._transport.close()
        self._timer = asyncio.get_running_loop().call_later(self._inbox.inbox.timeout_s, self._end_if_idle, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the session's state, and the received part of an unfinished message."""
        self._timer.cancel()
        if isinstance(self._content, SpooledContent):
            self._content.discard()
        super().connection_lost(exc)

    def _take(self, content: DataReader) -> tuple[bytes, float]:
        """Keep a message if the rules allow this; otherwise discard its octets and its file."""
        message, reply = cast("SpooledContent", content), b""
        try:
            if message.refused is not None:
                too_big = message.refused.errno == errno.EMSGSIZE
                reply = TOO_BIG if too_big else _FULL + str(message.refused.strerror).encode() + b"\r\n"
                self._attempt(Moment.MESSAGE, reply)
                return reply, 0.0
            return super()._take(content)
        finally:
            if not message.kept:
                message.discard()

    def keep(self, content: DataReader, kept: list[str], bounced: list[tuple[str, float]]) -> tuple[bytes, float]:
        """Keep a message for the recipients ``kept``; each of ``bounced`` gets a notification after the given delay."""
        message = cast("SpooledContent", content)
        if bounced and self._inbox.bouncer.refuses(self._from):
            self._attempt(Moment.MESSAGE, _NO_WAY_BACK)
            return _NO_WAY_BACK, 0.0
        head = header_section(message.head) if bounced else b""
        reply = self._store(message, kept) if kept else OK
        if reply is not _NOT_KEPT:
            for address, seconds in bounced:
                self._inbox.bouncer.due(self._from, address, head, seconds)
        return reply, 0.0

    def _store(self, message: SpooledContent, kept: list[str]) -> bytes:
        envelope = Envelope(
            sender=self._from,
            recipients=tuple(kept),
            client=self._client,
            helo=self._name,
            user=self._user,
            tls=self._tls,
        )
        try:
            id_ = self._inbox.keep(message, envelope)
        except (OSError, sqlite3.Error) as error:
            reply = _NOT_KEPT
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                reply = _FULL + str(error.strerror).encode() + b"\r\n"
            self._attempt(Moment.MESSAGE, reply, error=str(error))
            return reply
        return b"250 2.0.0 Ok: message %d\r\n" % id_

    @property
    def _tls(self) -> str | None:
        cipher = self._transport.get_extra_info("cipher") if self._transport else None
        return f"{cipher[1]} {cipher[0]}" if cipher else None


def _decoded(line: bytes) -> str | None:
    try:
        return b64decode(line, validate=True).decode()
    except (NotBase64, UnicodeDecodeError):
        return None


def _ask(text: str) -> bytes:
    return b"334 " + b64encode(text.encode()) + b"\r\n"
