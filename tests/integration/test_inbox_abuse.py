"""Abuse of a real inbox, over SMTP and HTTP: it stays small, serves others meanwhile, and keeps the next message."""

import asyncio
import json
import re
import socket
import statistics
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from orchestrator.hosts import Host
from tests.integration.beds import Up, bring_down, bring_up

pytestmark = [pytest.mark.docker, pytest.mark.long]

TIMEOUT_S = 5
MOST_MB = 160
"""Peak of the inbox's memory in this whole file: what its plan says (``services.inbox``)."""
MAX_SIZE = 20_000_000
RESET = struct.pack("ii", 1, 0)
SESSION = b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
REPLIES = re.compile(rb"(\d{3}) .*\r\n")


class Inbox:
    """An inbox of a bed that is up."""

    def __init__(self, bed: Up) -> None:
        self.bed = bed
        self.smtp = ("127.0.0.1", bed.port("inbox", "25/tcp"))
        self.http = ("127.0.0.1", bed.port("inbox", "8025/tcp"))
        self.client = httpx.Client(base_url=f"http://{self.http[0]}:{self.http[1]}", timeout=60)

    def connect(self) -> socket.socket:
        """Connect to the SMTP port, and read the greeting."""
        opened = socket.create_connection(self.smtp, timeout=30)
        assert opened.recv(100).startswith(b"220 ")
        return opened

    def send(self, message: bytes) -> bytes:
        """Send a message over a connection of its own; return the last replies."""
        with self.connect() as smtp:
            smtp.sendall(SESSION)
            until(smtp, b"354 ")
            smtp.sendall(message + b".\r\nQUIT\r\n")
            return until(smtp, b"221 ")

    def keeps(self, message: bytes) -> None:
        """Send a message, and compare the stored octets."""
        found = re.search(rb"message (\d+)", self.send(message))
        assert found
        assert self.client.get(f"/api/messages/{int(found[1])}/raw").content == message

    def seconds(self, messages: int = 50) -> float:
        """Return the median time for one message."""
        times = []
        for n in range(messages):
            began = time.monotonic()
            assert b"250 2.0.0 Ok: message" in self.send(b"Subject: %d\r\n\r\nx\r\n" % n)
            times.append(time.monotonic() - began)
        return statistics.median(times)

    def answers_within(self) -> float:
        """Return the median time of an answer to an HTTP request."""
        times = []
        for _ in range(20):
            began = time.monotonic()
            assert self.client.get("/api/messages", params={"limit": 1}).status_code == 200
            times.append(time.monotonic() - began)
        return statistics.median(times)

    def peak_mb(self) -> float:
        """Return the most memory that the inbox has had (VmHWM, proc(5))."""
        return int(self.bed.shell("inbox", "grep VmHWM /proc/1/status").split()[1]) / 1024

    def files(self) -> int:
        """Return how many file descriptors it has open."""
        return len(self.bed.shell("inbox", "ls /proc/1/fd").split())


def until(opened: socket.socket, text: bytes) -> bytes:
    """Read until a text has come; return everything."""
    got = b""
    while text not in got:
        more = opened.recv(65536)
        assert more, got[-300:]
        got += more
    return got


@pytest.fixture(scope="module")
def bed(real_engine: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    settings = {"timeout_s": TIMEOUT_S, "max_size": MAX_SIZE}
    nodes = {"dns": {"service": "bind"}, "inbox": {"service": "inbox", "settings": settings}}
    file = tmp_path_factory.mktemp("abuse") / "abuse.yaml"
    file.write_text(json.dumps({"name": "abuse", "lab": "bridge", "domains": ["example.com"], "nodes": nodes}))
    made = bring_up(Path(file))
    yield made
    bring_down(real_engine, made)


@pytest.fixture
def inbox(bed: Up) -> Iterator[Inbox]:
    """Return the inbox; after each test it is small, has no half message, and keeps a message untouched."""
    made = Inbox(bed)
    yield made
    made.keeps(b"Subject: ordinary\r\n\r\n\0 \xff \r \n \n.\n\r\nend\r\n")
    assert made.peak_mb() < MOST_MB
    assert bed.shell("inbox", "find /var/spool/inbox -name 'incoming-*'") == ""
    made.client.close()


# ---------------------------------------------------------------------------------------------------------------- SMTP


def test_lines_of_10_mb(inbox: Inbox) -> None:
    line = b"x" * 10_000_000
    with inbox.connect() as smtp:
        for command in (b"", b"EHLO ", b"MAIL FROM:<"):
            smtp.sendall(command + line + b"\r\nNOOP\r\n")
            assert REPLIES.findall(until(smtp, b"250 ")) == [b"500", b"250"]
    inbox.keeps(line + b"\r\n")


async def _slow(inbox: Inbox, text: bytes) -> tuple[float, bytes]:
    """Send an octet a second until the inbox ends the connection; return seconds and replies."""
    reader, writer = await asyncio.open_connection(*inbox.smtp)
    began, sent = time.monotonic(), 0
    reading = asyncio.ensure_future(reader.read())
    while not reading.done():
        writer.write(text[sent : sent + 1] or b"x")
        sent += 1
        await asyncio.wait([reading], timeout=1)
    with suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()
    return time.monotonic() - began, reading.result()


async def _beside(
    crowd: list[Awaitable[tuple[float, bytes]]], work: Callable[[], float]
) -> tuple[list[tuple[float, bytes]], float]:
    """Do some work in a thread while a crowd is busy."""
    doing = asyncio.gather(*crowd)
    done = await asyncio.to_thread(work)
    return await doing, done


def test_slow_clients_are_ended_and_others_are_served_meanwhile(inbox: Inbox) -> None:
    usual = inbox.seconds()
    crowd = [_slow(inbox, b"MAIL FROM:<a@example.com>") for _ in range(100)]
    ended, meanwhile = asyncio.run(_beside([*crowd, *(_slow_content(inbox) for _ in range(100))], inbox.seconds))
    assert all(b"421 4.4.2 Timeout" in replies for _, replies in ended)
    assert all(TIMEOUT_S - 1 < seconds < 2 * TIMEOUT_S + 3 for seconds, _ in ended), sorted(s for s, _ in ended)
    assert meanwhile < 5 * usual + 0.02


async def _slow_content(inbox: Inbox) -> tuple[float, bytes]:
    """Send a message an octet a second."""
    reader, writer = await asyncio.open_connection(*inbox.smtp)
    writer.write(SESSION)
    await reader.readuntil(b"354 ")
    began = time.monotonic()
    reading = asyncio.ensure_future(reader.read())
    while not reading.done():
        writer.write(b"x")
        await asyncio.wait([reading], timeout=1)
    writer.close()
    return time.monotonic() - began, reading.result()


def test_500_idle_connections_slow_nobody_down(inbox: Inbox) -> None:
    usual = inbox.seconds()
    with ExitStack() as stack:
        idle = [stack.enter_context(inbox.connect()) for _ in range(500)]
        meanwhile = inbox.seconds()
        assert f"inbox_connections {len(idle)}\n" in inbox.client.get("/metrics").text
        for one in idle:
            assert until(one, b"\r\n") == b"421 4.4.2 Timeout\r\n"
    assert meanwhile < 2 * usual + 0.01, (usual, meanwhile)


def test_clients_that_never_read_take_little_memory_and_are_ended(inbox: Inbox) -> None:
    before = inbox.peak_mb()
    with ExitStack() as stack:
        crowd = [stack.enter_context(socket.create_connection(inbox.smtp, timeout=0.05)) for _ in range(20)]
        for one in crowd:
            with suppress(TimeoutError):
                one.sendall(b"EHLO x\r\n" * 4_000_000)
        assert inbox.seconds(messages=10) < 1
        grown = inbox.peak_mb() - before
        while "inbox_connections 0\n" not in inbox.client.get("/metrics").text:
            pass
    assert grown < 50, grown


def test_a_message_that_never_ends_is_ended(inbox: Inbox) -> None:
    with inbox.connect() as smtp:
        smtp.sendall(SESSION)
        until(smtp, b"354 ")
        began = time.monotonic()
        sent = _flood(smtp, b"x" * 1_000_000)
    assert sent > MAX_SIZE
    assert time.monotonic() - began < 2 * TIMEOUT_S + 10


def _flood(opened: socket.socket, piece: bytes) -> int:
    """Send a piece again and again until the connection is closed; return the octets that were sent."""
    sent = 0
    with suppress(ConnectionError):
        while True:
            opened.sendall(piece)
            sent += len(piece)
    return sent


# ---------------------------------------------------------------------------------------------------------------- HTTP


@pytest.mark.parametrize(("method", "path"), [("PUT", "/api/rules"), ("POST", "/api/v1/send")])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb_is_refused(inbox: Inbox, method: str, path: str, chunked: bool) -> None:  # noqa: FBT001
    pieces = (b"x" * 1_000_000 for _ in range(100))
    content = pieces if chunked else b"".join(pieces)
    with suppress(httpx.WriteError, httpx.ReadError):  # it may close before it has read everything
        assert inbox.client.request(method, path, content=content).status_code == 413
    assert inbox.answers_within() < 0.1


@pytest.mark.parametrize("headers", [{"Host": "evil.test"}, {"Origin": "http://evil.test"}, {"Origin": "null"}])
def test_a_forged_host_or_origin_is_refused(inbox: Inbox, headers: dict[str, str]) -> None:
    assert inbox.client.put("/api/rules", json=[], headers=headers).status_code == 403


def test_waits_and_streams_of_clients_that_are_gone(inbox: Inbox) -> None:
    files = inbox.files()
    head = f" HTTP/1.1\r\nHost: 127.0.0.1:{inbox.http[1]}\r\n\r\n"
    with ExitStack() as stack:
        crowd = [stack.enter_context(socket.create_connection(inbox.http, timeout=10)) for _ in range(400)]
        for one, path in zip(crowd, ["/api/events", "/api/wait?to=nobody@example.com&timeout=600"] * 200, strict=True):
            one.sendall(f"GET {path}{head}".encode())  # nobody reads the answer
        assert inbox.seconds() < 0.5
        assert inbox.answers_within() < 0.1
        for one in crowd:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    inbox.bed.shell("inbox", 'until [ "$(ls /proc/1/fd | wc -l)" -le "$1" ]; do :; done', str(files + 5))
