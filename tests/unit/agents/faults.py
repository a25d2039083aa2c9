"""Servers that do it wrong, each a named coroutine, and a relay that meddles with its mail."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiosmtplib

from orchestrator.agents.wire import END

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Fault = Callable[[Reader, Writer], Awaitable[None]]

PIPELINING = b"250-bad.test\r\n250 PIPELINING\r\n"


@asynccontextmanager
async def serving(fault: Fault, bound: socket.socket | None = None) -> AsyncIterator[int]:
    """Run a server on ``bound``, or on a free port of 127.0.0.1; yields the port."""

    async def session(reader: Reader, writer: Writer) -> None:
        try:
            await fault(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    address: dict[str, Any] = {"host": "127.0.0.1", "port": 0} if bound is None else {"sock": bound}
    server = await asyncio.start_server(session, **address)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def converse(
    reader: Reader,
    writer: Writer,
    replies: Mapping[bytes, bytes],
    *,
    until: bytes = b"QUIT",
    greeting: bytes = b"220 x",
    drops_rest: bool = False,
) -> None:
    """Answer each command with its reply, up to and with ``until`` (whose own reply may be missing).

    ``drops_rest``: what came in one piece with the end of the data is thrown away.
    """
    answers = {
        b"EHLO": PIPELINING,
        b"MAIL": b"250 2.1.0 ok\r\n",
        b"RCPT": b"250 2.1.5 ok\r\n",
        b"DATA": b"354 go\r\n",
        b"RSET": b"250 2.0.0 ok\r\n",
        b"QUIT": b"221 2.0.0 bye\r\n",
        b".": b"250 2.0.0 ok\r\n",
        **replies,
    }
    writer.write(greeting + b"\r\n")
    while line := await reader.readline():
        verb = line[:4].strip().upper()
        writer.write(answers.get(verb, b"500 what?\r\n"))
        if verb == b"DATA" and answers[b"DATA"].startswith(b"354"):
            content = b"\r\n"
            while END not in content if drops_rest else not content.endswith(END):
                content += await (reader.read(1 << 16) if drops_rest else reader.readuntil(b"\r\n"))
            writer.write(answers[b"."] if len(content) > len(END) else b"554 5.5.1 no recipients\r\n")
            verb = b"."
        if verb == until:
            return


def reset(writer: Writer) -> None:
    """Close with RST instead of FIN (socket(7), SO_LINGER)."""
    taken: socket.socket = writer.get_extra_info("socket")
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def resets_after_mail(reader: Reader, writer: Writer) -> None:
    """Do what postal loops on."""
    await converse(reader, writer, {}, until=b"MAIL")
    reset(writer)


async def closes_after_rcpt(reader: Reader, writer: Writer) -> None:
    """Do what postal dies of."""
    await converse(reader, writer, {}, until=b"RCPT")


async def closes_at_once(reader: Reader, writer: Writer) -> None:
    """No greeting."""


async def greets_with_421(reader: Reader, writer: Writer) -> None:
    """Too busy."""
    await converse(reader, writer, {}, greeting=b"421 4.3.2 busy", until=b"QUIT")


async def never_greets(reader: Reader, writer: Writer) -> None:  # noqa: ARG001
    """Accept the connection, and that is all."""
    await reader.read()


async def defers_senders(reader: Reader, writer: Writer) -> None:
    """4xx to MAIL."""
    await converse(reader, writer, {b"MAIL": b"451 4.3.0 later\r\n", b"RCPT": b"503 no\r\n", b"DATA": b"503 no\r\n"})


async def refuses_recipients(reader: Reader, writer: Writer) -> None:
    """5xx to RCPT."""
    await converse(reader, writer, {b"RCPT": b"550 5.1.1 nobody\r\n", b"DATA": b"554 5.5.1 none\r\n"})


async def refuses_recipients_but_takes_data(reader: Reader, writer: Writer) -> None:
    """Answer 354 all the same, as a pipelining server may (RFC 2920, 3.1)."""
    await converse(reader, writer, {b"RCPT": b"550 5.1.1 nobody\r\n"})


async def rejects_content(reader: Reader, writer: Writer) -> None:
    """5xx to the data."""
    await converse(reader, writer, {b".": b"554-5.7.1 no,\r\n554 5.7.1 really\r\n"})


async def is_silent_after_the_data(reader: Reader, writer: Writer) -> None:
    """Keep back the reply that counts."""
    await converse(reader, writer, {b".": b""}, until=b".")
    await reader.read()


async def closes_after_the_data(reader: Reader, writer: Writer) -> None:
    """Close instead of the reply that counts."""
    await converse(reader, writer, {b".": b""}, until=b".")


async def drops_a_pipelined_quit(reader: Reader, writer: Writer) -> None:
    """Do what Courier does."""
    await converse(reader, writer, {}, drops_rest=True)


async def answers_no_quit(reader: Reader, writer: Writer) -> None:
    """Keep the connection after QUIT."""
    await converse(reader, writer, {b"QUIT": b""}, until=b"")


async def says_421_to_rcpt(reader: Reader, writer: Writer) -> None:
    """Shut down."""
    await converse(reader, writer, {b"RCPT": b"421 4.3.2 going\r\n"}, until=b"RCPT")


async def talks_nonsense(reader: Reader, writer: Writer) -> None:
    """No SMTP."""
    await converse(reader, writer, {b"MAIL": b"HTTP/1.1 400 Bad Request\r\n"})


async def talks_for_ever(reader: Reader, writer: Writer) -> None:  # noqa: ARG001
    """Send a reply without an end."""
    for _ in range(64):
        writer.write(b"220" + b"x" * 4096)
        await writer.drain()


async def knows_no_ehlo(reader: Reader, writer: Writer) -> None:
    """As in 1982."""
    await converse(reader, writer, {b"EHLO": b"500 what?\r\n", b"HELO": b"250 hello\r\n"})


async def does_no_pipelining(reader: Reader, writer: Writer) -> None:
    """One command at a time."""
    await converse(reader, writer, {b"EHLO": b"250-bad.test\r\n250 SIZE 1000\r\n"})


@dataclass
class MeddlingRelay:
    """Takes messages, and loses, doubles or changes some on the way to the next server."""

    port: int
    """Of the next server."""
    lost: set[int] = field(default_factory=set)
    doubled: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    seen: int = 0

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        """Take one connection's messages."""
        writer.write(b"220 relay\r\n")
        replies = {b"EHLO": PIPELINING, b"QUIT": b"221 bye\r\n"}
        recipient = ""
        while line := await reader.readline():
            verb = line[:4]
            if verb == b"RCPT":
                recipient = line[9:-3].decode()
            if verb != b"DATA":
                writer.write(replies.get(verb, b"250 ok\r\n"))
                if verb == b"QUIT":
                    return
                continue
            writer.write(b"354 go\r\n")
            content = b"\r\n"
            while not content.endswith(END):
                content += await reader.readuntil(b"\r\n")
            letter = b"Received: by relay.test\r\n" + content[2:-3].replace(b"\r\n.", b"\r\n")
            await self.forward(self.seen, recipient, letter)
            self.seen += 1
            writer.write(b"250 2.0.0 queued\r\n")

    async def forward(self, number: int, recipient: str, letter: bytes) -> None:
        """Send a message on, meddling with it as ordered."""
        if number in self.lost:
            return
        if number in self.changed:
            letter = letter.replace(b"fox", b"cat")
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=self.port, start_tls=False) as client:
            for _ in range(2 if number in self.doubled else 1):
                await client.sendmail("relay@d0.test", recipient, letter)
