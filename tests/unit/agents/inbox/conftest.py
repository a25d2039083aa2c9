"""An inbox on free ports of 127.0.0.1, in a thread of the test's process."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvloop

from orchestrator.agents.inbox.folding import fold_address
from orchestrator.agents.inbox.server import InboxServer, Ports
from orchestrator.agents.inbox.session import InboxReception, InboxSettings
from orchestrator.agents.inbox.spool import Spool
from orchestrator.agents.rules import Rule, Rules
from orchestrator.bed.certificates import Authority

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A server's context, and a client's that trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder, authority = tmp_path_factory.mktemp("tls"), Authority("test")
    credentials = authority.issue(["localhost"], [IPv4Address("127.0.0.1")])
    file = folder / "server.pem"
    file.write_bytes(credentials.key + credentials.certificate)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(file)
    return Tls(server=server, client=ssl.create_default_context(cadata=authority.certificate.decode()))


class Inbox:
    """An inbox that serves."""

    def __init__(self, make: Callable[[], InboxReception]) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._serving = self.call(lambda: InboxServer(make()))
        self._wait(self._serving.open(["127.0.0.1"], Ports(smtp=(0,), smtps=0, http=0)))
        self.feed, self.reception = self._serving.feed, self._serving.reception
        self.spool = self.reception.spool
        ((self.port,), (self.smtps,), (self.http,)) = self._serving.ports.values()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.http}", timeout=10)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the inbox's thread."""
        result: Future[T] = Future()
        self._loop.call_soon_threadsafe(lambda: result.set_result(function()))
        return result.result(5)

    def rules(self, *texts: dict[str, object]) -> None:
        """Put rules in force."""
        rules = [Rule.model_validate(text) for text in texts]
        self.call(lambda: self.reception.rules.replace(rules))

    def raw(self) -> list[bytes]:
        """Return every message that is kept, the oldest first."""
        return self.call(lambda: [self.spool.raw(stored.id) for stored in reversed(self.spool.find(limit=10_000))])

    def attempts(self) -> list[dict[str, Any]]:
        """Return the record of each attempt."""
        return self.call(lambda: [event.data for event in self.spool.events.since(kinds=["attempt"])])

    def stop(self) -> None:
        """End it."""
        self.client.close()
        self._wait(self._serving.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


@pytest.fixture
def make_inbox(tmp_path: Path, tls: Tls) -> Iterator[Callable[..., Inbox]]:
    """Return a function that starts an inbox with some settings."""
    started: list[Inbox] = []

    def start(**settings: Any) -> Inbox:
        def make() -> InboxReception:
            most = settings.get("max_messages", 100_000)
            spool = Spool(tmp_path / str(len(started)), most_b=1 << 40, most_messages=most)
            return InboxReception(spool, InboxSettings(**settings), Rules([], fold=fold_address), 1000, tls.server)

        started.append(Inbox(make))
        return started[-1]

    yield start
    for inbox in started:
        inbox.stop()


@pytest.fixture
def inbox(make_inbox: Callable[..., Inbox]) -> Inbox:
    """Return an inbox with the default settings."""
    return make_inbox()
