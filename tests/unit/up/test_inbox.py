"""The inbox of a bed over HTTP: its address, and refusals of every kind."""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from orchestrator.bed import builtin
from orchestrator.errors import EngineFailed, InvalidInput, NodeDied, Problem, TimedOut
from orchestrator.hosts import ContainerSpec
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import make_plan
from orchestrator.up.collect.recorder import Recorder
from orchestrator.up.inbox import Inbox
from orchestrator.up.node import RunningNode
from tests.unit.hosts.fake import FakeHost

LATE = {"detail": {"needed": 2, "found": 1, "kept": 3, "last_attempts": ["450 later"]}}


def inbox(port: int, published_at: str = "127.0.0.1", machine: str = "localhost") -> Inbox:
    plan = next(node for node in make_plan(builtin.bed("mail"), cpus=2).nodes if node.name == "inbox")
    container = FakeHost().create(ContainerSpec(name="inbox", image="", command=(), labels={}))
    node = RunningNode(plan=plan, container=container, ports={"8025/tcp": port}, published_at=published_at)
    return Inbox(node=node, machine=machine)


@contextmanager
def answering(status: int, body: Any) -> Iterator[Inbox]:
    """Give an inbox that answers every request so: with text, or with JSON."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
            self.end_headers()
            self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        try:
            yield inbox(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def test_it_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with answering(200, {"total": 0, "messages": []}) as there:
        assert there.messages()["total"] == 0


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (403, "no page of another site", EngineFailed, "no page of another site"),
        (500, "Internal Server Error", EngineFailed, "500 Internal"),
        (503, "too many connections", EngineFailed, "503 too many"),
        (422, {"detail": "before:never is no date"}, InvalidInput, "conditions that the inbox can read"),
        (404, {"detail": "message 999 is not kept"}, InvalidInput, "a message or a rule of the inbox"),
        (409, LATE, TimedOut, "1 of 3 messages match; last refused attempts: 450 later"),
    ],
)
def test_a_refusal_says_what_it_is_about(status: int, body: Any, error: type[Problem], words: str) -> None:
    with answering(status, body) as there, pytest.raises(error, match=words):
        there.wait(count=2)


@pytest.mark.parametrize(
    ("published_at", "machine", "url"),
    [
        ("127.0.0.1", "engine.test", "http://127.0.0.1:80"),
        ("0.0.0.0", "localhost", "http://127.0.0.1:80"),
        ("0.0.0.0", "192.0.2.7", "http://192.0.2.7:80"),
        ("::", "2001:db8::7", "http://[2001:db8::7]:80"),
        ("192.0.2.7", "engine.test", "http://192.0.2.7:80"),
    ],
)
def test_an_unspecified_address_is_that_of_the_engines_machine(published_at: str, machine: str, url: str) -> None:
    assert inbox(80, published_at, machine).url == url


def test_a_machine_that_only_ssh_knows_has_no_url() -> None:
    with pytest.raises(EngineFailed, match="machine alias"):
        _ = inbox(80, "0.0.0.0", "alias.invalid").url


@pytest.mark.parametrize("how", ["wait", "wait_async"])
def test_a_request_is_broken_off_when_a_node_ends(tmp_path: Path, how: str) -> None:
    host = FakeHost()
    containers = {
        name: host.create(ContainerSpec(name=name, image="", command=(), labels={})) for name in ("inbox", "relay")
    }
    with socket.create_server(("127.0.0.1", 0)) as silent, Recorder(RunDir.create(tmp_path, "x")) as recorder:
        for name, container in containers.items():
            container.start()
            recorder.record(name, container)
        there = inbox(silent.getsockname()[1])
        there = replace(there, node=replace(there.node, recorder=recorder))

        def wait() -> object:
            waits: dict[str, Callable[[], object]] = {
                "wait": lambda: there.wait(timeout=60),
                "wait_async": lambda: asyncio.run(there.wait_async(timeout=60)),
            }
            return waits[how]()

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait)
            peer, _ = silent.accept()
            with peer:
                peer.recv(1)
                host.end(containers["relay"].id, 1)
                with pytest.raises(NodeDied, match="node relay running"):
                    waiting.result(30)
            with pytest.raises(NodeDied, match="node relay running"):
                wait()
        host.end(containers["inbox"].id, 0)


class TwoAnswers(BaseHTTPRequestHandler):
    """Counts connections, and closes each instead of a third answer."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        """Count it."""
        super().setup()
        type(self).connections += 1
        self.answers = 0

    def do_GET(self) -> None:
        """Answer, or not."""
        self.answers += 1
        if self.answers == 3:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def do_POST(self) -> None:
        """Answer likewise."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_thread_keeps_its_connection_and_opens_another_if_the_inbox_closed_it() -> None:
    TwoAnswers.connections = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), TwoAnswers) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        try:
            asked = inbox(server.server_address[1])
            assert [asked.rules() for _ in range(2)] == [[], []]
            assert TwoAnswers.connections == 1
            assert asked.rules() == []
            assert TwoAnswers.connections == 2
            asked.add_rule({"then": "reject"})
            assert TwoAnswers.connections == 3, "a request that is not safe to repeat has a connection of its own"
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(asked.rules).result(10) == []
            assert TwoAnswers.connections == 4
            if (child := os.fork()) == 0:
                os._exit(asked.rules() != [] or TwoAnswers.connections != 4)
            assert os.waitpid(child, 0)[1] == 0
            assert TwoAnswers.connections == 5
        finally:
            server.shutdown()
            thread.join()
