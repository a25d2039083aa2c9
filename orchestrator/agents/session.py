"""The sink's side of one SMTP connection (RFC 5321): accepts, checks and accounts for every message.

Source routes are ignored (appendix C), VRFY verifies nothing (3.5.3), EXPN is not implemented (3.5.2).

Extensions: PIPELINING (RFC 2920; one write sends the replies to a group of commands), SIZE (RFC 1870), 8BITMIME
(RFC 6152), ENHANCEDSTATUSCODES (RFC 2034); STARTTLS (RFC 3207) only with a certificate.
"""

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import Any, ClassVar, cast

from orchestrator.agents.content import Content, DataReader
from orchestrator.agents.contract import SinkSettings
from orchestrator.agents.ledger import Books
from orchestrator.agents.path import MAX_PATH, Argument, PathTooLong, read

HOST = b"sink.test"
COMMAND_LIMIT = 1024
"""Maximum octets of a command line: RFC 5321, 4.5.3.1.4, has 512; extensions need more for their parameters."""
MOST_RECIPIENTS = 100
"""Maximum recipients of one message; RFC 5321, 4.5.3.1.8, requires at least 100."""

_USUAL_PATH = rb"<[A-Za-z0-9_+=-]{1,64}@([A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*)>"
_USUAL_MAIL = re.compile(rb"MAIL FROM:" + _USUAL_PATH + rb"(?: SIZE=(\d{1,20}))?")
_USUAL_RCPT = re.compile(rb"RCPT TO:" + _USUAL_PATH)
"""Patterns of the forms that nearly every client sends; ``path`` parses any form, but takes eight times as long."""
_USUAL_LENGTH = len(b"RCPT TO:") + MAX_PATH
_HELLO = re.compile(rb"[A-Za-z]{4} +[!-~\x80-\xff][ -~\x80-\xff]*")
"""EHLO or HELO with any name; the name holds no bare CR or LF, because neither ends a line (RFC 5321, 2.3.8)."""
_VERB_ENDS = (b"", b" ")
_BODY = (b"BODY=7BIT", b"BODY=8BITMIME")
_SIZE = re.compile(rb"SIZE(?:=(\d{1,20}))?")
_AT_ONCE = 512
"""Octets of a pipeline that a session reads before other connections get their turn."""
_EARLY_S = 0.001
"""Seconds added to every delay, because the event loop rounds timers down to whole milliseconds."""
HANDSHAKE_S = 30.0

_CRLF = b"\r\n"
OK = b"250 2.0.0 Ok\r\n"
GREETING = b"220 " + HOST + b" ESMTP\r\n"
MAIL_OK = b"250 2.1.0 Ok\r\n"
RCPT_OK = b"250 2.1.5 Ok\r\n"
DATA_OK = b"354 End data with <CR><LF>.<CR><LF>\r\n"
BYE = b"221 2.0.0 Bye\r\n"
_BUSY = b"421 4.3.2 Too many connections\r\n"
_VRFY = b"252 2.5.2 Cannot verify, but will take mail\r\n"
_HELP = b"214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP: see RFC 5321\r\n"
_NO_LISTS = b"502 5.5.1 EXPN is not implemented\r\n"
TOO_BIG = b"552 5.3.4 Message too big\r\n"
TOO_MANY = b"452 4.5.3 Too many recipients\r\n"
_TOO_LONG = b"500 5.5.6 Line too long\r\n"
UNKNOWN = b"500 5.5.2 Command unknown\r\n"
SYNTAX = b"501 5.5.4 Syntax error in parameters\r\n"
_LONG_PATH = b"501 5.5.4 Path too long\r\n"
PARAMETER = b"555 5.5.4 Parameter unknown\r\n"
NO_HELLO = b"503 5.5.1 EHLO first\r\n"
_NESTED = b"503 5.5.1 A transaction is open\r\n"
NO_MAIL = b"503 5.5.1 MAIL first\r\n"
_NO_RCPT = b"503 5.5.1 RCPT first\r\n"
_NESTED_TLS = b"503 5.5.1 TLS is active\r\n"
TLS_READY = b"220 2.0.0 Ready to start TLS\r\n"


class Reception:
    """Shared state of all sessions of a sink."""

    __slots__ = ("books", "capabilities", "most", "settings", "tls")

    def __init__(self, books: Books, settings: SinkSettings, most: int, tls: ssl.SSLContext | None = None) -> None:
        self.books = books
        self.most = most
        """Maximum number of concurrent connections; further connections get the reply 421."""
        self.tls = tls
        """TLS context with the certificate; ``None``: no STARTTLS."""
        self.settings = settings
        self.capabilities = {secure: _reply_to_ehlo(self.extensions(secure=secure)) for secure in (False, True)}
        """Reply to EHLO before and after STARTTLS."""

    def extensions(self, *, secure: bool) -> list[bytes]:
        """Return the keywords of the extensions for the reply to EHLO."""
        starttls = [] if self.tls is None or secure else [b"STARTTLS"]
        size = b"SIZE %d" % self.settings.max_size
        return [b"PIPELINING", size, b"8BITMIME", *starttls, b"ENHANCEDSTATUSCODES"]


def _reply_to_ehlo(extensions: list[bytes]) -> bytes:
    lines = [HOST, *extensions]
    return b"".join(b"250-%b\r\n" % line for line in lines[:-1]) + b"250 %b\r\n" % lines[-1]


class Session(asyncio.Protocol):
    """One connection. Its memory holds an unfinished command line, at most 100 recipients, and a ``Content``."""

    __slots__ = (
        "_content", "_counted", "_delay", "_dialled", "_full", "_greeted", "_held", "_line", "_overlong", "_reception",
        "_recipients", "_secure", "_sender", "_transport",
    )  # fmt: skip

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._transport: asyncio.Transport | None = None
        self._counted = False
        """Whether ``Books.open`` counts this connection."""
        self._dialled: int | None = None
        self._line = b""
        self._overlong = False
        self._greeted = False
        self._sender = False
        self._recipients: list[int] = []
        self._content: DataReader | None = None
        self._delay: asyncio.Handle | asyncio.Future[None] | None = None
        """Reason why the client's data waits: a delayed reply, a TLS handshake, or the turn of other connections."""
        self._full = False
        """Whether the client has stopped reading the replies; its data waits until the client reads again."""
        self._held = b""
        self._secure: asyncio.Future[None] | None = None
        """The TLS handshake, once STARTTLS was answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        books = self._reception.books
        books.accepted += 1
        books.open += 1
        self._counted = True
        self._transport = cast("asyncio.Transport", transport)
        if books.open > self._reception.most:
            self._transport.write(_BUSY)
            self._transport.close()
            return
        self._dialled = books.dialled(transport.get_extra_info("sockname")[0])
        self._greet(self._transport)

    def _greet(self, transport: asyncio.Transport) -> None:
        transport.write(GREETING)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Discard an unfinished message, which does not count as arrived. Idempotent."""
        self._reception.books.open -= self._counted
        self._counted = False
        if self._delay is not None:
            self._delay.cancel()
        self._transport = self._content = None

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read the replies."""
        self._full = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the client again."""
        self._full = False
        if self._delay is None:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        """Read commands and content, and answer them in one write."""
        if self._delay is not None or self._full:
            self._held += data  # pause only after data has come: a paused transport does not notice a closed connection
            if self._transport is not None:
                self._transport.pause_reading()
            return
        replies: list[bytes] = []
        rest: bytes | None = data
        while rest and self._delay is None and not self._full and self._transport is not None:
            if self._content is not None:
                rest = self._read_content(rest, replies)
            elif len(rest) <= _AT_ONCE:
                rest = self._read_commands(rest, replies)
            else:
                rest = self._read_pipeline(rest, replies)
        if rest:
            self._held = rest
        if self._transport is None:
            return
        if replies:
            self._transport.write(b"".join(replies))
            if replies[-1] is BYE:
                self._transport.close()

    def _read_pipeline(self, data: bytes, replies: list[bytes]) -> bytes | None:
        """Answer the first commands of a long pipeline; return the remaining octets, which wait for their turn."""
        rest = self._read_commands(data[:_AT_ONCE], replies)
        if self._transport is None or self._starts_tls or (replies and replies[-1] is BYE):
            return None
        if self._delay is None:
            self._transport.write(b"".join(replies))
            replies.clear()
            self._transport.pause_reading()
            self._delay = asyncio.get_running_loop().call_soon(self._go_on)
        return (rest or b"") + data[_AT_ONCE:]

    def _read_commands(self, data: bytes, replies: list[bytes]) -> bytes | None:
        """Answer complete command lines; return the octets after a DATA line, or ``None`` without one."""
        data = self._line + data
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            line = data[at:end]
            at = end + 2
            if self._overlong or len(line) > COMMAND_LIMIT:
                self._overlong = False
                replies.append(_TOO_LONG)
                continue
            answer = self.COMMANDS.get(line[:4].upper())
            reply = answer(self, line) if answer is not None and line[4:5] in _VERB_ENDS else self._other(line)
            replies.append(reply)
            if reply is DATA_OK:
                self._line = b""
                return data[at:]
            if reply is TLS_READY:
                self._line = b""  # RFC 3207, 4.2: data received before the handshake is discarded
                self._start_tls(replies)
                return None
            if reply is BYE:
                break
        self._line = data[at:]
        if len(self._line) > COMMAND_LIMIT:
            self._overlong = True
            self._line = self._line[-1:]  # possibly the first half of CRLF
        return None

    def _read_content(self, data: bytes, replies: list[bytes]) -> bytes | None:
        """Read the next piece of a message; return the octets after its end, or ``None`` before it."""
        content = cast("DataReader", self._content)
        rest = content.feed(data)
        if rest is None:
            return None
        self._content = None
        reply, seconds = self._take(content)
        self._forget()
        if seconds > 0:
            self._answer_later(reply, seconds, replies)
        else:
            replies.append(reply)
        return rest

    def _take(self, content: DataReader) -> tuple[bytes, float]:
        """Account for a message; return the reply, and its delay in seconds."""
        reception = self._reception
        seconds = reception.settings.data_delay_ms / 1000
        if content.size > reception.settings.max_size:
            return TOO_BIG, seconds
        reception.books.enter(cast("Content", content), self._recipients, self._dialled)
        return OK, seconds

    def _answer_later(self, reply: bytes, seconds: float, replies: list[bytes]) -> None:
        """Delay a reply, and hold back the data that the client sent meanwhile; other connections are not delayed."""
        transport = cast("asyncio.Transport", self._transport)
        transport.write(b"".join(replies))
        replies.clear()
        self._delay = asyncio.get_running_loop().call_later(seconds + _EARLY_S, self._answer_now, reply)

    def _answer_now(self, reply: bytes) -> None:
        cast("asyncio.Transport", self._transport).write(reply)
        self._go_on()

    def _go_on(self) -> None:
        """Read the data received during the wait, then resume reading from the connection."""
        self._delay = None
        if self._transport is None or self._full:
            return
        held, self._held = self._held, b""
        if held:
            self.data_received(held)
        if self._transport is not None and self._delay is None and not self._full:
            self._transport.resume_reading()

    def _ehlo(self, line: bytes) -> bytes:
        return self._hello(line, self._reception.capabilities[self._secure is not None])

    def _helo(self, line: bytes) -> bytes:
        return self._hello(line, b"250 " + HOST + _CRLF)

    def _hello(self, line: bytes, reply: bytes) -> bytes:
        if _HELLO.fullmatch(line) is None:
            return SYNTAX
        self._greeted = True
        self._forget()
        return reply

    def _mail(self, line: bytes) -> bytes:
        if not self._greeted:
            return NO_HELLO
        if self._sender:
            return _NESTED
        usual = _USUAL_MAIL.fullmatch(line)
        if usual is not None and len(line) <= _USUAL_LENGTH:
            refusal = TOO_BIG if usual[2] and int(usual[2]) > self._reception.settings.max_size else None
        else:
            argument = self._argument(line, b"MAIL FROM:")
            refusal = argument if isinstance(argument, bytes) else self._refuse_sender(argument)
        if refusal is not None:
            return refusal
        self._sender = True
        return MAIL_OK

    def _refuse_sender(self, argument: Argument) -> bytes | None:
        """Return the reply that refuses an argument of MAIL, or ``None``."""
        if argument.local and not argument.domain:
            return SYNTAX
        for parameter in argument.parameters:
            if parameter.partition(b"=")[0] == b"SIZE":
                size = _SIZE.fullmatch(parameter)
                if size is None:
                    return SYNTAX
                if int(size[1] or 0) > self._reception.settings.max_size:
                    return TOO_BIG
            elif parameter not in _BODY:
                return PARAMETER
        return None

    def _rcpt(self, line: bytes) -> bytes:
        if not self._sender:
            return NO_MAIL
        usual = _USUAL_RCPT.fullmatch(line)
        if usual is not None and len(line) <= _USUAL_LENGTH:
            domain = usual[1].lower()
        else:
            argument = self._argument(line, b"RCPT TO:")
            if isinstance(argument, bytes):
                return argument
            if not argument.local:
                return SYNTAX
            if argument.parameters:
                return PARAMETER
            domain = argument.domain
        if len(self._recipients) >= MOST_RECIPIENTS:
            return TOO_MANY
        self._recipients.append(self._reception.books.index_of(domain))
        return RCPT_OK

    def _data(self, line: bytes) -> bytes:
        if line[4:].strip(b" "):
            return SYNTAX
        if not self._sender:
            return NO_MAIL
        if not self._recipients:
            return _NO_RCPT
        self._content = self._begin()
        return DATA_OK

    def _begin(self) -> DataReader:
        """Return the reader of a new message."""
        return Content()

    def _forget(self) -> None:
        """Forget the transaction."""
        self._sender = False
        self._recipients = []

    def _rset(self, line: bytes) -> bytes:  # noqa: ARG002
        self._forget()
        return OK

    def _vrfy(self, line: bytes) -> bytes:
        return _VRFY if line[5:].strip() else SYNTAX

    def _quit(self, line: bytes) -> bytes:
        return SYNTAX if line[4:].strip(b" ") else BYE

    def _other(self, line: bytes) -> bytes:
        """Answer a command whose name is not four letters long."""
        if line[:8].upper() != b"STARTTLS" or self._reception.tls is None:
            return UNKNOWN
        if self._secure is not None:
            return _NESTED_TLS
        return SYNTAX if line[8:].strip(b" ") else TLS_READY

    @property
    def _starts_tls(self) -> bool:
        return self._secure is not None and self._delay is self._secure

    def _start_tls(self, replies: list[bytes]) -> None:
        transport = cast("asyncio.Transport", self._transport)
        transport.write(b"".join(replies))
        replies.clear()
        self._greeted = False
        self._forget()
        transport.pause_reading()  # data received before the handshake is not read as commands (RFC 3207, 4.2)
        self._secure = self._delay = asyncio.ensure_future(self._shake_hands(transport))

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        """Do the TLS handshake; a failure ends the connection. The client's data waits until replies go out in TLS."""
        context = cast("ssl.SSLContext", self._reception.tls)
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_S
            )
        except (OSError, ssl.SSLError):
            transport.abort()
            self.connection_lost(None)  # after a reset, the event loop does not call this method
            return
        if secured is not None and self._transport is not None:
            self._transport = secured
            self._go_on()

    def _argument(self, line: bytes, command: bytes) -> Argument | bytes:
        """Read the argument of ``MAIL FROM:`` or ``RCPT TO:``, or return the reply that refuses it."""
        if line[: len(command)].upper() != command:
            return SYNTAX
        try:
            return self._path(line[len(command) :]) or SYNTAX
        except PathTooLong:
            return _LONG_PATH

    def _path(self, text: bytes) -> Argument | None:
        return read(text)

    COMMANDS: ClassVar[dict[bytes, Callable[[Any, bytes], bytes]]] = {
        b"EHLO": _ehlo,
        b"HELO": _helo,
        b"MAIL": _mail,
        b"RCPT": _rcpt,
        b"DATA": _data,
        b"RSET": _rset,
        b"NOOP": lambda _, __: OK,
        b"VRFY": _vrfy,
        b"EXPN": lambda _, __: _NO_LISTS,
        b"HELP": lambda _, __: _HELP,
        b"QUIT": _quit,
    }
