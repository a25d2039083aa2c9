"""The sink: accepts all mail on all addresses of its container, and accounts for every message.

::

    python3 -m orchestrator.agents.sink [--domains FILE --prefix 198.18.16.0/20]

Prints JSON lines: ``{"event": "listening", ...}`` once the sink serves, ``{"tick": SinkTick}`` once a second for each
run with new mail, ``{"complete": RUN}`` once a run has the count of ``control expect``. SIGTERM ends the sink.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import uvloop

from orchestrator.agents.contract import TICK_S, SinkSettings
from orchestrator.agents.control import SOCKET
from orchestrator.agents.ledger import Books
from orchestrator.agents.output import say
from orchestrator.agents.session import Reception, Session

BACKLOG = 4096
"""Backlog of listen(2): thousands of relay processes may connect at once. net.core.somaxconn limits the backlog."""
_SPARE_FDS = 64
_CONTROL_LIMIT = 64 * 1024
"""Octets of one request over the control socket."""


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """Open a listening socket; ``port`` 0 takes a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.bind((host, port))
    opened.listen(backlog)
    opened.setblocking(False)  # noqa: FBT003  the library's signature
    return opened


def listen_locally(path: Path) -> socket.socket:
    """Open the control socket, for this user only; first removes a socket left by a killed sink."""
    path.unlink(missing_ok=True)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.bind(str(path))
    path.chmod(0o600)
    opened.listen()
    opened.setblocking(False)  # noqa: FBT003
    return opened


class Control(asyncio.Protocol):
    """One request over the control socket: a JSON array of words in, one JSON object out."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a complete request, and close."""
        self._request += data
        if b"\n" not in data and len(self._request) <= _CONTROL_LIMIT:
            return
        try:
            answer: dict[str, object] = {"ok": obey(self._books, json.loads(self._request))}
        except ValueError as error:
            answer = {"error": str(error)}
        self._transport.write(json.dumps(answer).encode() + b"\n")  # type: ignore[attr-defined]
        self._transport.close()


def obey(books: Books, words: list[str]) -> dict[str, Any]:
    """Carry out a request; raises ValueError if the request is unknown or fails."""
    match words:
        case ["begin", str(run)]:
            return books.begin(run).tick().to_dict()
        case ["count", str(run)]:
            return books.ledger(run).tick().to_dict()
        case ["report", str(run)]:
            return books.ledger(run).report().to_dict()
        case ["expect", str(run), str(count)]:
            number = int(count)
            ledger = books.begin(run)
            ledger.expect(number, partial(say, {"complete": run}))
            return ledger.tick().to_dict()
    raise ValueError(f"no such request: {words!r}")


def tick(books: Books) -> None:
    """Print a SinkTick for each run whose counters have changed; repeat this every second."""
    for ledger in books:
        if (news := ledger.news()) is not None:
            say({"tick": news.to_dict()})
    asyncio.get_running_loop().call_later(TICK_S, tick, books)


async def run(
    reception: Reception, session: Callable[[], Session], hosts: list[str], port: int, control: Path, backlog: int
) -> None:
    """Open every socket, print the ``listening`` event, and serve until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    servers: list[asyncio.AbstractServer] = []
    for host in hosts:
        opened = listen(host, port, backlog)
        port = opened.getsockname()[1]
        servers.append(await loop.create_server(session, sock=opened, backlog=backlog))
    servers.append(await loop.create_unix_server(partial(Control, reception.books), sock=listen_locally(control)))
    say({"event": "listening", "port": port, "addresses": hosts})
    tick(reception.books)
    await ended.wait()
    os._exit(0)  # ends at once, without closing thousands of connections one by one


def main() -> None:
    """Run the sink."""
    parser = argparse.ArgumentParser(description="an SMTP sink that accounts for every message")
    parser.add_argument("--listen", action="append", metavar="ADDRESS", help="default: all, IPv4 and IPv6")
    parser.add_argument("--port", type=int, default=25, help="0 takes a free one")
    parser.add_argument("--control", type=Path, default=Path(SOCKET), metavar="PATH", help="the control socket")
    parser.add_argument("--domains", type=Path, metavar="FILE", help="one a line, in the order of their addresses")
    parser.add_argument("--prefix", type=IPv4Network, help="its i-th address and that one's IPv6 twin are domain i's")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="SinkSettings")
    parser.add_argument("--rules", metavar="JSON", help="a list of rules (agents.rules)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="PEM with its key, for STARTTLS")
    options = parser.parse_args()
    try:
        settings = SinkSettings.from_dict(json.loads(options.settings))
    except (ValueError, TypeError) as error:
        parser.error(f"--settings: {error}")
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    backlog = min(BACKLOG, files // 8)
    # Without free file descriptors, the event loop would close its listening sockets for good. So the sink refuses
    # further connections earlier: enough descriptors for a full backlog stay free.
    most = files - 2 * backlog - _SPARE_FDS
    domains = options.domains.read_text(encoding="ascii").split() if options.domains else []
    tls = None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate)
    books = Books(domains, options.prefix)
    reception: Reception
    session: Callable[[], Session]
    if options.rules is None:
        reception = Reception(books, settings, most, tls)
        session = partial(Session, reception)
    else:
        from orchestrator.agents.ruled import RuledSession, ruled  # noqa: PLC0415 - a sink without rules need not load it

        reception = ruled(books, settings, most, tls, options.rules)
        session = partial(RuledSession, reception)
    hosts = options.listen or ["0.0.0.0", "::"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(reception, session, hosts, options.port, options.control, backlog))


if __name__ == "__main__":
    main()
