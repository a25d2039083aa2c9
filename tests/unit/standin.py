"""A stand-in for engines that are not here: answers of the Docker Engine API, word for word, on a Unix socket."""

import json
import socketserver
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import docker as sdk

from orchestrator.hosts.docker import DockerHost
from orchestrator.hosts.docker.client import Clients

IN_TURN = ("GET /exec", "GET /containers/relay/logs")

Answers = Mapping[str, Any]
"""``METHOD /path`` (without version and query) -> what is answered with 200: JSON, bytes as they are, or a list of
answers to give one after another (of ``IN_TURN``), the last one again and again. ``None`` and all else is 404."""


def parts(*lines: Mapping[str, Any]) -> bytes:
    """Return progress as the engine streams it."""
    return b"".join(json.dumps(line).encode() + b"\r\n" for line in lines)


def frame(stream: int, text: str) -> bytes:
    """Return a piece of a container's output."""
    return struct.pack(">BxxxL", stream, len(text.encode())) + text.encode()


@contextmanager
def engine(answers: Answers) -> Iterator[tuple[DockerHost, list[str]]]:
    """Give an engine that answers so, and the list of what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            question = f"{self.command} {self.path.partition('?')[0].removeprefix('/v1.41')}"
            asked.append(question)
            found = answers.get(question)
            if isinstance(found, Sequence) and not isinstance(found, bytes) and question.startswith(IN_TURN):
                found = found[min(asked.count(question), len(found)) - 1]
            body = found if isinstance(found, bytes) else json.dumps(found or {"message": "no such thing"}).encode()
            self.send_response(200 if question in answers and found is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Connection", "close")
            if question in {"POST /images/create", "POST /build"}:  # progress comes in chunks (RFC 9112, 7.1)
                self.send_header("Transfer-Encoding", "chunked")
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            elif not question.endswith("/start"):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def address_string(self) -> str:
            """Name the client, which has no address."""
            return "test"

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        block_on_close = False

    with TemporaryDirectory() as folder:
        path = Path(folder) / "engine"
        with Server(str(path), Handler) as server:
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
            thread.start()
            options: dict[str, Any] = {"base_url": f"unix://{path}"}
            try:
                with sdk.APIClient(**options, version="1.41") as client:
                    yield DockerHost(Clients(client, options)), asked
            finally:
                server.shutdown()
                thread.join()
