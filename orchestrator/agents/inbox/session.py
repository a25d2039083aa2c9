"""An inbox's side of one SMTP connection: keeps every message as it came.

Beyond the sink's extensions: AUTH PLAIN and LOGIN (RFC 4954, RFC 4616), SMTPUTF8 (RFC 6531).
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
from orchestrator.agents.inbox.bounce import Bouncer
from orchestrator.agents.inbox.content import SpooledContent
from orchestrator.agents.inbox.feed import MESSAGE
from orchestrator.agents.inbox.spool import Envelope, Event, Spool
from orchestrator.agents.ledger import Books
from orchestrator.agents.output import complain
from orchestrator.agents.ruled import Delayed, RuledReception, RuledSession
from orchestrator.agents.rules import PASSED, Decision, Moment, Rules
from orchestrator.agents.rules import Envelope as Known
from orchestrator.agents.session import COMMAND_LIMIT, OK, PARAMETER, SYNTAX, TOO_BIG

PIECE = 16 * 1024
"""Octets of a message for which a client has ``timeout_s``; octets beyond the largest size do not count."""
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
_NO_WAY_BACK = b"550 5.7.1 A notification would leave the bed\r\n"
_NOT_KEPT = b"451 4.3.0 The message could not be kept\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings(Order):
    """How an inbox behaves; ``SinkSettings`` of the same names mean the same."""

    max_size: int = 50 * 1024 * 1024
    max_messages: int = 200_000
    """Messages kept; the next one is answered with 452."""
    max_stored_mb: int = 4096
    """MiB of the files of messages, likewise; the index is not counted."""
    users: dict[str, str] | None = None
    """Name -> password. ``None``: any name with any password."""
    timeout_s: float = 300.0
    """Seconds for a command, and for each ``PIECE`` of a message (RFC 5321, 4.5.3.2.7: at least 5 minutes)."""
    require_auth: bool = False
    require_tls: bool = False


class InboxReception(RuledReception):
    """What all sessions of an inbox share."""

    __slots__ = ("bouncer", "chaos", "heard", "inbox", "spool")

    def __init__(
        self, spool: Spool, settings: InboxSettings, rules: Rules, most: int, tls: ssl.SSLContext | None
    ) -> None:
        self.inbox = settings
        self.spool = spool
        self.rules = rules
        self.chaos = Rules([])
        """Rules that are looked at before the others, and set apart from them."""
        self.heard: Callable[[Event], None] = lambda _event: None
        """Takes each event."""
        self.bouncer = Bouncer(None, (), self.record)
        super().__init__(Books([], None), SinkSettings(max_size=settings.max_size), most, tls)

    def extensions(self, *, secure: bool) -> list[bytes]:
        """Return the keywords of the extensions that EHLO names."""
        return [b"AUTH PLAIN LOGIN", b"SMTPUTF8", *super().extensions(secure=secure)]

    def decide(self, moment: Moment, envelope: Known) -> Decision:
        """Return what the rules decide."""
        decision = self.chaos.decide(moment, envelope)
        return self.rules.decide(moment, envelope) if decision is PASSED else decision

    def put(self, message: bytes, envelope: Envelope) -> int:
        """Keep a message that did not come by SMTP, and return its id.

        Raises:
            OSError: it is too big, or there is no room.
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
        """Keep a message, tell it, and return its id.

        Raises:
            OSError, sqlite3.Error: the disk did not take it.
        """
        id_ = self.spool.keep(content, envelope)
        to = list(envelope.recipients)
        self.record(MESSAGE, {"id": id_, "sender": envelope.sender, "recipients": to, "size": content.size})
        return id_

    def record(self, kind: str, data: dict[str, Any]) -> None:
        """Record an event and tell it; a disk that takes no more keeps no record."""
        try:
            event = self.spool.record(kind, data)
        except sqlite3.Error as error:
            complain(f"event not recorded: {error}")
        else:
            self.heard(event)

    def knows(self, user: str, password: str) -> bool:
        """Check a name and its password."""
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
        """TLS from the first octet on (RFC 8314)."""
        self._exchange: Callable[[bytes], bytes] | None = None
        """Takes the next line of an AUTH command."""
        self._login = ""
        self._user: str | None = None
        self._utf8 = False
        self._lines = 0
        """Command lines read."""
        self._seen = (-1, 0)
        """Command lines, and pieces of a message, when ``_look`` looked last."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._look(cast("asyncio.Transport", transport))
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
        rest = [p for p in argument.parameters if p not in own]
        return super()._refuse_sender(argument._replace(parameters=rest))

    def _inbox_mail(self, line: bytes) -> bytes:
        if self._inbox.inbox.require_tls and self._secure is None:
            return _TLS_FIRST
        if self._inbox.inbox.require_auth and self._user is None:
            return _AUTH_FIRST
        if not line.isascii() and b"SMTPUTF8" not in line.upper().split():
            return PARAMETER if self._greeted else SYNTAX
        self._utf8 = False
        if self._greeted and (reason := self._inbox.spool.full) is not None:
            reply = _FULL + reason.encode() + b"\r\n"
            self._attempt(Moment.MAIL, reply)
            return reply
        return self._ruled_mail(line)

    def _inbox_rcpt(self, line: bytes) -> bytes:
        return self._ruled_rcpt(line) if self._utf8 or line.isascii() else SYNTAX

    def _auth(self, line: bytes) -> bytes:
        if not self._greeted or self._sender:
            return _NOT_NOW
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

    COMMANDS: ClassVar = {**RuledSession.COMMANDS, b"MAIL": _inbox_mail, b"RCPT": _inbox_rcpt, b"AUTH": _auth}

    # ------------------------------------------------------------------------------------------------------- messages

    def decided(self, moment: Moment, decision: Decision, reply: bytes) -> None:
        """Record what a rule did."""
        if decision.rule >= 0:
            self._attempt(moment, reply, decision)

    def _attempt(self, moment: Moment, reply: bytes, decision: Decision | None = None, **more: object) -> None:
        """Record the reply to an attempt; the empty one: the rule sends none of its own."""
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

    def _look(self, transport: asyncio.Transport) -> None:
        """End a session without progress since the last look; repeat this every ``timeout_s``."""
        content = self._content
        pieces = content.size // PIECE if isinstance(content, SpooledContent) and content.refused is None else 0
        before, self._seen = self._seen, (self._lines, pieces)
        if before == self._seen and self._delay is None:
            if self._full or self._transport is None or self._transport.is_closing():
                transport.abort()  # a close would wait for the client to read
                return
            self._transport.write(_TIMEOUT)
            self._transport.close()
        self._timer = asyncio.get_running_loop().call_later(self._inbox.inbox.timeout_s, self._look, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything; what came of a message is removed."""
        self._timer.cancel()
        if isinstance(self._content, SpooledContent):
            self._content.discard()
        super().connection_lost(exc)

    def _take(self, content: DataReader) -> tuple[bytes, float]:
        """Keep a message, as the rules say; a message that is not kept leaves nothing behind."""
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
        """Keep a message for the recipients ``kept``; each of ``bounced`` is due a notification that much later."""
        message = cast("SpooledContent", content)
        if bounced and self._inbox.bouncer.refuses(self._from):
            self._attempt(Moment.MESSAGE, _NO_WAY_BACK)
            return _NO_WAY_BACK, 0.0
        for address, seconds in bounced:
            self._inbox.bouncer.due(self._from, address, message.head, seconds)
        if not kept:
            return OK, 0.0
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
            return reply, 0.0
        return b"250 2.0.0 Ok: message %d\r\n" % id_, 0.0

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
