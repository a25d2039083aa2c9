"""A recording tap before an SMTP server: passes every octet on, and decodes both directions afterwards.

::

    python3 -m tests.integration.clients.tap PORT SERVER_PORT PEM

Prints JSON lines: ``{"tap": "listening"}``, then one for each message that the server accepted. It ends TLS of the
client with the certificate in PEM, begins its own to the server, and shares no code with the inbox.
"""

import hashlib
import json
import re
import select
import socket
import socketserver
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_CHUNK_B = 1 << 16


def tell(facts: dict[str, Any]) -> None:
    """Print a JSON line."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def decode(client: bytes, server: bytes) -> Iterator[dict[str, Any]]:
    """Yield each accepted message of a connection, from the octets of both sides."""
    replies = iter(re.findall(rb"(?:\d{3}-[^\r]*\r\n)*\d{3} [^\r]*\r\n", server))
    next(replies, b"")  # the greeting
    at, mail, rcpt, auth, tls = 0, b"", list[bytes](), "", False
    while (end := client.find(b"\r\n", at)) >= 0:
        line, at = client[at:end], end + 2
        verb, reply = line[:4].upper(), next(replies, b"")
        while reply.startswith(b"334"):  # an exchange of AUTH
            at, reply = client.index(b"\r\n", at) + 2, next(replies, b"")
        if verb == b"STAR" and reply.startswith(b"220"):
            tls = True
        elif verb == b"AUTH" and reply.startswith(b"235"):
            auth = line.split()[1].decode().upper()
        elif verb == b"MAIL" and reply.startswith(b"250"):
            mail, rcpt = line, []
        elif verb == b"RCPT" and reply.startswith(b"250"):
            rcpt.append(line)
        elif reply.startswith(b"354"):
            end = client.find(b"\r\n.\r\n", at - 2)
            lines = client[at : max(at, end + 2)].split(b"\r\n")
            octets = b"\r\n".join(line[1:] if line[:1] == b"." else line for line in lines)
            at, reply = end + 5, next(replies, b"")
            if reply.startswith(b"250"):
                yield {
                    "mail": mail.decode(),
                    "rcpt": [line.decode() for line in rcpt],
                    "reply": reply.decode().strip(),
                    "auth": auth,
                    "tls": tls,
                    "size": len(octets),
                    "sha256": hashlib.sha256(octets).hexdigest(),
                }


class _Connection(socketserver.BaseRequestHandler):
    server: "_Tap"

    def setup(self) -> None:
        self.client, self.to = self.request, socket.create_connection(("127.0.0.1", self.server.to))
        self.octets, self.replies = bytearray(), bytearray()

    def handle(self) -> None:
        with suppress(OSError):  # a side that has gone ends the connection
            while self._pass_on():
                pass
        self.to.close()
        for message in decode(bytes(self.octets), bytes(self.replies)):
            tell(message)

    def _pass_on(self) -> bool:
        """Pass on what one side has sent; false: it has ended the connection."""
        source = select.select([self.client, self.to], [], [])[0][0]
        octets = source.recv(_CHUNK_B)
        while isinstance(source, ssl.SSLSocket) and source.pending():
            octets += source.recv(_CHUNK_B)
        if source is self.to:
            self.replies += octets
            self.client.sendall(octets)
            return bool(octets)
        self.octets += octets
        self.to.sendall(octets)
        if octets.upper() == b"STARTTLS\r\n":
            reply = self.to.recv(_CHUNK_B)
            self.replies += reply
            self.client.sendall(reply)
            if reply.startswith(b"220"):
                self.client = self.server.inner.wrap_socket(self.client, server_side=True)
                self.to = self.server.outer.wrap_socket(self.to)
        return bool(octets)


class _Tap(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True
    request_queue_size = 100

    def __init__(self, port: int, to: int, certificate: str) -> None:
        super().__init__(("0.0.0.0", port), _Connection)
        self.to = to
        self.inner = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.inner.load_cert_chain(certificate)
        self.outer = ssl.create_default_context()
        self.outer.check_hostname, self.outer.verify_mode = False, ssl.CERT_NONE
        self.outer.maximum_version = ssl.TLSVersion.TLSv1_2  # a session ticket of 1.3 is readable, but has no octets


if __name__ == "__main__":
    with _Tap(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]) as tap:
        tell({"tap": "listening"})
        tap.serve_forever()
