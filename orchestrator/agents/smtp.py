"""The generator's side of one SMTP connection (RFC 5321): sends the load's messages, and reports each outcome.

With PIPELINING (RFC 2920) MAIL, RCPT and DATA leave in one write, and QUIT goes out with the end of the last message.
"""

import asyncio
import re
import time
from collections.abc import Callable
from enum import IntEnum, auto
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:  # an import cycle at run time
    from orchestrator.agents.load import Load

WAIT = -1
"""Result of ``Load.take``: no message is due for this connection; the load calls ``go`` once a message is due."""
DONE = -2
"""Result of ``Load.take``: this connection gets no further message."""
REPLY_LIMIT = 64 * 1024
"""Maximum octets of an unfinished reply line (RFC 5321, 4.5.3.1.5, allows 512)."""

HOST = "load.nodes.test"
"""Name in EHLO; the bed's DNS has a record of this name, because servers may look it up."""
_EHLO = b"EHLO %b\r\n" % HOST.encode()
_HELO = b"HELO %b\r\n" % HOST.encode()
_DATA = b"DATA\r\n"
_RSET = b"RSET\r\n"
_QUIT = b"QUIT\r\n"
_KINDS = (b"2", b"3", b"4", b"5")
_ENHANCED = re.compile(rb"\d{3}[ -](\d\.\d{1,3}\.\d{1,3})\b")


class SessionState(IntEnum):
    """The reply that a connection waits for."""

    CONNECT = auto()
    GREETING = auto()
    EHLO = auto()
    HELO = auto()
    IDLE = auto()
    """No reply: the connection waits for a message."""
    MAIL = auto()
    RCPT = auto()
    DATA = auto()
    CONTENT = auto()
    DISCARD = auto()
    """Reply to an empty message, sent because the server accepted DATA after refusing the recipient."""
    RSET = auto()
    QUIT = auto()
    CLOSED = auto()


class Connection(asyncio.Protocol):
    """One connection, from connect() to its end."""

    __slots__ = (
        "_cause",
        "_domain",
        "_due",
        "_fruitless",
        "_load",
        "_partial",
        "_pipelining",
        "_quit_sent",
        "_refusal",
        "_sent",
        "_seq",
        "_transport",
        "budget",
        "connected",
        "first",
        "opened",
        "quit_pipelined",
        "since",
        "state",
        "stop",
    )  # fmt: skip

    def __init__(self, load: "Load", *, budget: int, first: int = 0, stop: int = 0) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self.budget = budget
        """Number of further messages that this connection may send."""
        self.first = first
        """Next sequence number, if the load gave this connection a range of messages."""
        self.stop = stop
        """End of the range, exclusive."""
        self.state = SessionState.CONNECT
        self.opened = self.connected = self.since = time.monotonic_ns()
        """``since``: start of the wait for a reply."""
        self.quit_pipelined = False
        self._partial = b""
        self._pipelining = False
        self._quit_sent = False
        self._fruitless = True
        self._cause: str | None = None
        self._refusal: str | None = None
        self._seq = -1
        self._domain = 0
        self._due = self._sent = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the greeting."""
        self._transport = transport  # type: ignore[assignment]
        if self.state is SessionState.CLOSED:  # ``give_up`` was called before the connection was established
            transport.abort()  # type: ignore[attr-defined]
            return
        self.state = SessionState.GREETING
        self.connected = time.monotonic_ns()

    def data_received(self, data: bytes) -> None:
        """Act on every complete reply."""
        now = self.since = time.monotonic_ns()
        if self._partial:
            data = self._partial + data
        lines = data.split(b"\r\n")
        self._partial = lines.pop()
        for line in lines:
            if line[3:4] == b"-":
                if self.state is SessionState.EHLO and line[4:].upper() == b"PIPELINING":
                    self._pipelining = True
                continue
            self._reply(line, now)
            if self.state is SessionState.CLOSED:
                return
        if len(self._partial) > REPLY_LIMIT:
            self.give_up("reply too long")

    def connection_lost(self, exc: Exception | None) -> None:
        """Account for the lost connection and its unanswered message."""
        self.lost(type(exc).__name__ if exc is not None else "connection closed")

    # calls of the load

    def lost(self, cause: str) -> None:
        """Account for a connection that was lost, or was never established."""
        state, self.state = self.state, SessionState.CLOSED
        if state is SessionState.CLOSED:
            return
        self._transport = None
        cause = self._cause or cause
        if self._seq >= 0:
            seq, self._seq = self._seq, -1
            self._load.failed(seq, self._refusal or cause, unresolved=state is SessionState.CONTENT)
        self._load.closed(self, cause if state < SessionState.IDLE else None, fruitless=self._fruitless)

    def give_up(self, cause: str) -> None:
        """Close at once; the load counts the failure under ``cause``."""
        self._cause = cause
        if self._transport is not None:
            self._transport.abort()
        self.lost(cause)

    def go(self, now: int) -> None:
        """Start the next message, wait for one, or quit."""
        if self.budget <= 0:
            self.quit()
            return
        seq = self._load.take(self, now)
        if seq == WAIT:
            self.state = SessionState.IDLE
            return
        if seq == DONE:
            self.quit()
            return
        self.budget -= 1
        self._seq = seq
        self._domain = self._load.domain_of(seq)
        self._due = self._load.due(seq, now)
        self._sent = now
        self._refusal = None
        composer = self._load.composer
        mail = composer.mail
        self._write(
            mail + composer.rcpt(self._seq, self._domain) + _DATA if self._pipelining else mail, SessionState.MAIL, now
        )

    def quit(self) -> None:
        """Send QUIT, and let the server close first: then no port of the generator stays in TIME-WAIT."""
        if self._quit_sent:
            self.state = SessionState.QUIT
            return
        self._quit_sent = True
        self._write(_QUIT, SessionState.QUIT, time.monotonic_ns())
        if not self._load.patience.awaits_goodbye() and self._transport is not None:
            self._transport.close()

    # the conversation

    def _write(self, data: bytes, state: SessionState, now: int) -> None:
        self.state = state
        self.since = now
        if self._transport is not None:
            self._transport.write(data)

    def _reply(self, line: bytes, now: int) -> None:
        """Act on the last line of a reply."""
        if line[:1] not in _KINDS or not line[:3].isdigit():
            self.give_up("malformed reply")
        elif line[:3] == b"421" and self.state is not SessionState.CONTENT:
            self.give_up(cause_of(line))
        else:
            self._ON_REPLY[self.state](self, line, now)

    def _on_greeting(self, line: bytes, now: int) -> None:
        if line[:1] == b"2":
            self._write(_EHLO, SessionState.EHLO, now)
        else:
            self.give_up(cause_of(line))

    def _on_hello(self, line: bytes, now: int) -> None:
        if line[:1] == b"2":
            self._pipelining |= line[4:].upper() == b"PIPELINING"
            self._load.ready(self, now)
            self.go(now)
        elif self.state is SessionState.EHLO:
            self._write(_HELO, SessionState.HELO, now)
        else:
            self.give_up(cause_of(line))

    def _on_content(self, line: bytes, now: int) -> None:
        seq, self._seq = self._seq, -1
        if line[:1] == b"2":
            self._fruitless = False
            self._load.accepted(seq, self._due, self._sent, now)
        else:
            self._load.failed(seq, cause_of(line), unresolved=False)
        if line[:3] == b"421":
            self.give_up(cause_of(line))
        else:
            self.go(now)

    def _on_envelope(self, line: bytes, now: int) -> None:
        """Act on a reply to MAIL, RCPT or DATA; each command of a pipelined group has its own reply."""
        composer = self._load.composer
        if self.state is SessionState.DATA and line[:1] == b"3":
            if self._refusal is not None:
                self._write(b".\r\n", SessionState.DISCARD, now)  # RFC 2920, 3.1: DATA accepted without a recipient
                return
            content = composer.content(self._seq, self._domain, self._due, self._sent)
            if self._pipelining and self.budget <= 0 and self._load.patience.pipelines_quit:
                self._quit_sent = self.quit_pipelined = True
                content += _QUIT
            self._write(content, SessionState.CONTENT, now)
        elif line[:1] != b"2" or self.state is SessionState.DATA:
            self._refusal = self._refusal or cause_of(line)
            if self._pipelining and self.state is not SessionState.DATA:
                self.state = SessionState.RCPT if self.state is SessionState.MAIL else SessionState.DATA
            else:
                self._reset(now)
        elif self._pipelining:
            self.state = SessionState.RCPT if self.state is SessionState.MAIL else SessionState.DATA
        elif self.state is SessionState.MAIL:
            self._write(composer.rcpt(self._seq, self._domain), SessionState.RCPT, now)
        else:
            self._write(_DATA, SessionState.DATA, now)

    def _on_reset(self, line: bytes, now: int) -> None:
        if line[:1] == b"2":
            self.go(now)
        else:
            self.give_up(cause_of(line))

    def _on_quit(self, line: bytes, now: int) -> None:  # noqa: ARG002
        """Wait for the server to close after 221."""
        self._load.patience.goodbye()

    def _on_surprise(self, line: bytes, now: int) -> None:  # noqa: ARG002
        """Close a connection after an unexpected reply."""
        self.give_up(cause_of(line))

    _ON_REPLY: ClassVar[dict[SessionState, Callable[["Connection", bytes, int], None]]] = {
        SessionState.CONNECT: _on_surprise,
        SessionState.GREETING: _on_greeting,
        SessionState.EHLO: _on_hello,
        SessionState.HELO: _on_hello,
        SessionState.IDLE: _on_surprise,
        SessionState.MAIL: _on_envelope,
        SessionState.RCPT: _on_envelope,
        SessionState.DATA: _on_envelope,
        SessionState.CONTENT: _on_content,
        SessionState.DISCARD: lambda self, _, now: self._reset(now),
        SessionState.RSET: _on_reset,
        SessionState.QUIT: _on_quit,
    }

    def _reset(self, now: int) -> None:
        """Fail the message, and keep the connection."""
        seq, self._seq = self._seq, -1
        self._load.failed(seq, self._refusal or "", unresolved=False)
        self._write(_RSET, SessionState.RSET, now)


def cause_of(line: bytes) -> str:
    """Return the cause that a reply counts under: its code and, if present, its enhanced code (RFC 3463)."""
    code = line[:3].decode("ascii", "replace")
    enhanced = _ENHANCED.match(line)
    return code if enhanced is None else f"{code} {enhanced[1].decode('ascii')}"
