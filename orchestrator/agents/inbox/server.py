"""The inbox program: one process serves SMTP, submission and HTTP, and receives the relays' logs.

::

    python3 -m orchestrator.agents.inbox.server --spool DIR [--settings FILE] [--rules FILE] [--certificate PEM]

Prints JSON lines: ``{"event": "listening", ...}`` once the inbox serves. SIGTERM ends the inbox.
"""

import argparse
import asyncio
import json
import resource
import signal
import socket
import sqlite3
import ssl
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import uvicorn
import uvloop
from pydantic import TypeAdapter, ValidationError

from orchestrator.agents.inbox.api import Served
from orchestrator.agents.inbox.app import LOCAL, create
from orchestrator.agents.inbox.bounce import Bouncer
from orchestrator.agents.inbox.feed import MESSAGE, Feed
from orchestrator.agents.inbox.folding import fold_address
from orchestrator.agents.inbox.relay_log import LOG, PORT, LogReception, RelayLogs
from orchestrator.agents.inbox.session import InboxReception, InboxSession, InboxSettings
from orchestrator.agents.inbox.spool import Spool
from orchestrator.agents.output import complain, say
from orchestrator.agents.rules import Rule, Rules
from orchestrator.agents.session import HANDSHAKE_S
from orchestrator.agents.sink import listen

_BACKLOG = 256
_SOCKETS = 10
"""Maximum number of listening sockets: three SMTP ports, HTTP, and the relays' logs, each over IPv4 and IPv6."""
_MOST_HTTP = 512
"""Maximum number of HTTP connections; further requests get 503."""
_SPARE_FDS = 256
"""File descriptors reserved for files of the spool."""
_GRACE_S = 2
"""Time limit, in seconds, of open HTTP requests when the inbox ends."""
_IDLE_S = 0.5
"""Seconds without mail before the words of new messages are indexed. A search does not wait for this."""
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Addresses to listen on; port 0 takes a free port, ``None`` opens no port."""

    smtp: Sequence[int] = (25, 587)
    smtps: int | None = 465
    http: int = 8025
    log: int = PORT
    """Port for the relays' logs; opened only if there is a relay."""


class _Server(uvicorn.Server):
    """An HTTP server that does not handle signals: the program does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle no signal."""
        yield


class InboxServer:
    """An inbox and its ports, in the running event loop."""

    def __init__(
        self,
        reception: InboxReception,
        *,
        names: Collection[str] = LOCAL,
        relays: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        self.reception = reception
        self.feed = Feed()
        reception.on_event = self.feed.wake
        reception.spool.changed = partial(self.feed.wake, MESSAGE)
        self._logs = RelayLogs(reception.spool.folder / "relay-log.sqlite", relays, partial(self.feed.wake, LOG))
        self._app = create(Served(reception, self.feed, self._logs), names)
        self._servers: list[asyncio.AbstractServer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.ports: dict[str, list[int]] = {"smtp": [], "smtps": [], "http": [], "log": []}
        """Open ports by protocol."""

    async def open(self, hosts: Sequence[str], ports: Ports) -> None:
        """Listen, and serve from now on.

        Raises:
            OSError: a port is taken.
        """
        reception = self.reception
        for port in ports.smtp:
            await self._smtp("smtp", hosts, port, implicit=False)
        if ports.smtps is not None and reception.tls is not None:
            await self._smtp("smtps", hosts, ports.smtps, implicit=True)
        for host in hosts if self._logs.relays else ():
            opened = listen(host, ports.log, _BACKLOG)
            await self._serve(opened, partial(LogReception, self._logs))
            self.ports["log"].append(opened.getsockname()[1])
        config = uvicorn.Config(
            self._app, lifespan="off", log_config=None, access_log=False, server_header=False, date_header=True,
            limit_concurrency=_MOST_HTTP, timeout_graceful_shutdown=_GRACE_S,
        )  # fmt: skip
        self._http = _Server(config)
        sockets = [listen(host, ports.http, _BACKLOG) for host in hosts]
        self.ports["http"] = sorted({opened.getsockname()[1] for opened in sockets})
        self._serving = asyncio.ensure_future(self._http.serve(sockets))
        self._filling = asyncio.ensure_future(self._fill())

    async def _smtp(self, name: str, hosts: Sequence[str], port: int, *, implicit: bool) -> None:
        factory = partial(InboxSession, self.reception, implicit=implicit)
        for host in hosts:
            opened = listen(host, port, _BACKLOG)
            port = opened.getsockname()[1]
            if implicit:
                self._start(self._accept(opened, factory))
            else:
                await self._serve(opened, factory)
        self.ports[name].append(port)

    async def _serve(self, opened: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        server = await asyncio.get_running_loop().create_server(factory, sock=opened, backlog=_BACKLOG)
        self._servers.append(server)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, opened: socket.socket, factory: Callable[[], InboxSession]) -> None:
        """Take connections that begin with a TLS handshake."""
        opened.settimeout(0)
        with opened:
            while True:
                with suppress(OSError):  # the client has left already
                    accepted, _ = await asyncio.get_running_loop().sock_accept(opened)
                    self._start(self._shake_hands(accepted, factory))

    async def _shake_hands(self, accepted: socket.socket, factory: Callable[[], InboxSession]) -> None:
        """Run a session inside TLS. It counts as open during the handshake; in asyncio's server it would not."""
        books, loop = self.reception.books, asyncio.get_running_loop()
        with suppress(OSError):
            if books.open >= self.reception.most:
                accepted.close()
                return
            books.open += 1
            try:
                await loop.connect_accepted_socket(
                    factory, accepted, ssl=self.reception.tls, ssl_handshake_timeout=HANDSHAKE_S
                )
            finally:
                books.open -= 1

    async def _fill(self) -> None:
        """Index the words of messages after a while without new mail."""
        words, newest = self.reception.spool.words, 0
        while not self.feed.closed:
            newest = await self.feed.until(partial(words.behind, newest), _HOUR_S, MESSAGE) or newest
            if await self.feed.until(partial(words.behind, newest), _IDLE_S, MESSAGE):
                continue
            try:
                for _ in words.fill():
                    await asyncio.sleep(0)
                    if words.behind(newest) or self.feed.closed:
                        break
            except sqlite3.Error as error:
                complain(f"words not indexed: {error}")

    async def close(self) -> None:
        """Stop serving, and answer waiting requests; open SMTP sessions end with the process."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        self._logs.close()
        self.feed.close()
        self._http.should_exit = True
        await asyncio.gather(self._serving, self._filling)
        self.reception.spool.close()


async def run(options: argparse.Namespace, settings: InboxSettings, rules: Sequence[Rule]) -> None:
    """Serve until SIGTERM or SIGINT."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    most = files - _SOCKETS * _BACKLOG - _MOST_HTTP - _SPARE_FDS
    spool = Spool(options.spool, most_b=settings.max_stored_mb << 20, most_messages=settings.max_messages)
    tls = None
    if options.certificate and options.certificate.exists():
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate)
    reception = InboxReception(spool, settings, Rules(rules, fold=fold_address), max(most, 64), tls)
    domains = options.domains.read_text(encoding="ascii").split() if options.domains else []
    reception.bouncer = Bouncer(options.relay, domains, reception.record)
    relays = {name: addresses for name, *addresses in options.log_from}
    inbox = InboxServer(reception, names=(*LOCAL, *options.name), relays=relays)
    await inbox.open(options.listen or ["0.0.0.0", "::"], Ports(smtp=options.smtp or (25, 587), http=options.http))
    say({"event": "listening", **inbox.ports})
    await ended.wait()
    await inbox.close()


def main() -> None:
    """Run the inbox."""
    parser = argparse.ArgumentParser(description="a mailbox with an HTTP API")
    parser.add_argument("--listen", action="append", metavar="ADDRESS", help="default: all, IPv4 and IPv6")
    parser.add_argument("--smtp", action="append", type=int, metavar="PORT", help="default: 25 and 587")
    parser.add_argument("--http", type=int, default=8025, metavar="PORT")
    parser.add_argument("--name", action="append", default=[], help="a further Host that HTTP answers to")
    parser.add_argument("--relay", metavar="ADDRESS", help="where notifications go")
    parser.add_argument(
        "--log-from", action="append", default=[], nargs="+", metavar="RELAY ADDRESS", help="who may send its log"
    )
    parser.add_argument("--domains", type=Path, metavar="FILE", help="those of the bed, one a line")
    parser.add_argument("--spool", type=Path, required=True, metavar="DIR")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="PEM with its key, for TLS; may be missing")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="InboxSettings, JSON")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="a list of rules, JSON")
    options = parser.parse_args()
    try:
        settings = InboxSettings.from_dict(json.loads(options.settings.read_bytes()) if options.settings else {})
        rules = TypeAdapter(list[Rule]).validate_json(options.rules.read_bytes() if options.rules else b"[]")
    except (OSError, ValidationError, ValueError, TypeError) as error:
        parser.error(str(error))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(options, settings, rules))


if __name__ == "__main__":
    main()
