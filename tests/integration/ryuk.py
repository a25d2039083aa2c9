"""A stand-in for Ryuk, testcontainers' reaper, whose image the tests cannot have: a server that speaks its protocol.

It is copied into an image and runs there alone. A client sends a filter (``label=NAME=VALUE``) and gets ``ACK``. When
the last connection has been closed for RYUK_RECONNECTION_TIMEOUT seconds, it removes all containers and networks of the
filters, and ends. With the word ``silent`` it accepts connections, and never answers or removes anything.
"""

import http.client
import json
import os
import socket
import socketserver
import sys
import threading
from typing import ClassVar
from urllib.parse import parse_qs, quote

SILENT = "silent" in sys.argv
TIMEOUT_S = float(os.environ.get("RYUK_RECONNECTION_TIMEOUT", "10s").removesuffix("s"))


class Engine(http.client.HTTPConnection):
    """A connection to the engine's socket."""

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")


def call(method: str, path: str) -> bytes:
    """Return the engine's answer."""
    engine = Engine("engine")
    engine.request(method, path)
    answer = engine.getresponse().read()
    engine.close()
    return answer


class Client(socketserver.StreamRequestHandler):
    """A process of tests."""

    filters: ClassVar[set[str]] = set()
    connected = 0
    changed = threading.Condition()

    def handle(self) -> None:
        """Take its filters until its connection ends."""
        with self.changed:
            Client.connected += 1
            self.changed.notify_all()
        for line in self.rfile:
            if not SILENT:
                self.filters.update(parse_qs(line.decode().strip()).get("label", []))
                self.wfile.write(b"ACK\n")
        with self.changed:
            Client.connected -= 1
            self.changed.notify_all()


def removed(label: str) -> None:
    """Remove the containers and networks of a label."""
    chosen = quote(json.dumps({"label": [label]}))
    for container in json.loads(call("GET", f"/containers/json?all=1&filters={chosen}")):
        call("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    for network in json.loads(call("GET", f"/networks?filters={chosen}")):
        call("DELETE", f"/networks/{network['Id']}")


def main() -> None:
    """Serve."""
    server = socketserver.ThreadingTCPServer(("", 8080), Client)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("Started!", flush=True)  # noqa: T201 - the library waits for it
    with Client.changed:
        Client.changed.wait_for(lambda: Client.connected, timeout=60)
        while True:
            Client.changed.wait_for(lambda: not Client.connected)
            if not Client.changed.wait_for(lambda: Client.connected, timeout=TIMEOUT_S):
                break
    for label in Client.filters:
        removed(label)


if __name__ == "__main__":
    main()
