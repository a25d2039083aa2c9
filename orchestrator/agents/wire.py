"""The test message on the wire: recipients, content, and the stamp that the generator writes and the sink reads.

::

    X-Testbed: run=<8 hex> seq=<n> due=<ns> sent=<ns> len=<octets> crc=<8 hex>
    From: <load@d0.test>
    ...

    body

``due`` and ``sent`` are CLOCK_MONOTONIC in nanoseconds: all containers of a bed share one kernel. ``len`` is the
length of the body and ``crc`` its CRC-32, without dot-stuffing and with the CRLF of the last line. A relay adds fields
on top (RFC 5321, 4.4), and must not change the body.
"""

import re
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from itertools import cycle
from typing import NamedTuple
from zlib import crc32

END = b"\r\n.\r\n"
"""The end of the data (RFC 5321, 4.1.1.4). Its first CRLF belongs to the last line of the message."""
MAX_SEQ = 1 << 27
"""Exclusive upper bound of sequence numbers: limits a bitmap to 16 MiB, even if a number is garbled."""
MIN_BODY = 2
"""Minimum octets of a body: one CRLF."""
MAX_BODY = 50 * 1024 * 1024

_STAMP = re.compile(
    rb"\r\nX-Testbed: run=([0-9a-f]{8}) seq=(\d{1,9}) due=(\d{1,19}) sent=(\d{1,19})"
    rb" len=(\d{1,9}) crc=([0-9a-f]{8})\r\n"
)
_PLAIN = (
    b"The quick brown fox jumps over the lazy dog, and the relay takes it along.",
    b"0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789",
    b"A line as people write it: neither long nor short, with a full stop at its end.",
    b"Mail is text (RFC 5322): lines of at most 78 characters, each closed with CRLF.",
    b"Sphinx of black quartz, judge my vow; pack my box with five dozen liquor jugs.",
)
_LINES = (
    *(*_PLAIN, b"."),
    *(*_PLAIN, b".a line that begins with a dot goes out with two, and arrives with one again"),
    *(*_PLAIN, b"", b".."),
)
"""Lines of a body; some need dot-stuffing (RFC 5321, 4.5.2)."""


MAX_ADDRESS = 254
"""Maximum octets of an address; a path may have 256, with its angle brackets (RFC 5321, 4.5.3.1.3)."""


class Stamp(NamedTuple):
    """The generator's stamp in a message."""

    run: bytes
    seq: int
    due: int
    """Due time: CLOCK_MONOTONIC, ns."""
    sent: int
    """Time at which MAIL was written: CLOCK_MONOTONIC, ns."""
    length: int
    """Length of the body, in octets."""
    crc: int
    """CRC-32 of the body."""


def read_stamp(head: bytes) -> Stamp | None:
    """Return the stamp in a header section; ``head`` must begin and end with CRLF."""
    match = _STAMP.search(head)
    if match is None:
        return None
    run, seq, due, sent, length, crc = match.groups()
    return Stamp(run, int(seq), int(due), int(sent), int(length), int(crc, 16))


def make_body(size: int) -> bytes:
    """Make a text of exactly ``size`` octets (at least 2), in lines that end with CRLF."""
    lines: list[bytes] = []
    length = 0
    for line in cycle(_LINES):
        if length >= size:
            break
        lines.append(line)
        length += len(line) + 2
    text = b"\r\n".join(lines)[: size - 2]
    return (text[:-1] + b"x" if text.endswith(b"\r") else text) + b"\r\n"


def stuffed(body: bytes) -> bytes:
    """Double the dot at the start of each line (RFC 5321, 4.5.2)."""
    return (b"\r\n" + body).replace(b"\r\n.", b"\r\n..")[2:]


def recipients_of(domains: Sequence[str], recipients: Iterable[str]) -> list[list[bytes]]:
    """Return the addresses of each domain; a recipient that is only a local part has an address in every domain.

    Raises ValueError if a domain has no recipient, or an address is outside these domains.
    """
    everywhere: list[str] = []
    own: dict[str, list[bytes]] = {domain: [] for domain in domains}
    for recipient in recipients:
        local, at, domain = recipient.partition("@")
        if not at:
            everywhere.append(local)
        elif domain in own:
            own[domain].append(recipient.encode())
        else:
            raise ValueError(f"a recipient in one of the domains; found {recipient[:80]!r}")
    result = [[*own[domain], *(f"{local}@{domain}".encode() for local in everywhere)] for domain in domains]
    if long := next((address for addresses in result for address in addresses if len(address) > MAX_ADDRESS), None):
        raise ValueError(f"addresses of at most {MAX_ADDRESS} octets (RFC 5321, 4.5.3.1.3); found {len(long)}")
    if bare := next((domain for domain, addresses in zip(domains, result, strict=True) if not addresses), None):
        raise ValueError(f"a recipient in every domain; found none in {bare[:80]!r}")
    return result


class Composer:
    """Makes the messages of one load. There is one body for each size; all messages of this size share the body."""

    __slots__ = ("_bodies", "_date", "_fields", "_recipients", "_second", "_sizes", "mail")

    def __init__(
        self, run: str, sender: str, domains: list[str], sizes: list[int], recipients: Iterable[str] = ("user",)
    ) -> None:
        self._recipients = recipients_of(domains, recipients)
        self._sizes = sizes
        bodies = {size: make_body(size) for size in set(sizes)}
        # For each size: length and CRC, and the body. The last CRLF of the body is the first CRLF of END, so the body
        # is stored without this CRLF.
        self._bodies = {
            size: (b"%d crc=%08x" % (size, crc32(body)), stuffed(body)[:-2] + END) for size, body in bodies.items()
        }
        address = sender.encode()
        self.mail = b"MAIL FROM:<%b>\r\n" % address
        self._fields = (
            b"X-Testbed: run=%b seq=%%d due=%%d sent=%%d len=%%b\r\nFrom: <%b>\r\nTo: <%%b>\r\n"
            b"Subject: testbed %%d\r\nDate: %%b\r\nMessage-ID: <%%d.%b@load.test>\r\n\r\n%%b"
        ) % (run.encode(), address, run.encode())
        self._second = -1
        self._date = b""

    def recipient(self, seq: int, domain: int) -> bytes:
        """Return the recipient of message ``seq`` to the domain with this index; the domain's addresses take turns."""
        addresses = self._recipients[domain]
        return addresses[seq // len(self._recipients) % len(addresses)]

    def rcpt(self, seq: int, domain: int) -> bytes:
        """Return the command RCPT of message ``seq`` to the domain with this index."""
        return b"RCPT TO:<%b>\r\n" % self.recipient(seq, domain)

    def content(self, seq: int, domain: int, due: int, sent: int) -> bytes:
        """Return the octets after DATA: header, body with its dots doubled, and the end of the data."""
        second = sent // 1_000_000_000
        if second != self._second:
            self._second = second
            self._date = formatdate().encode()
        length_crc, body = self._bodies[self._sizes[seq % len(self._sizes)]]
        to = self.recipient(seq, domain)
        return self._fields % (seq, due, sent, length_crc, to, seq, self._date, seq, body)

    def letter(self, seq: int, domain: int, due: int, sent: int) -> bytes:
        """Return the message for an SMTP library: without doubled dots, and without the end of the data."""
        content = self.content(seq, domain, due, sent)
        return (b"\r\n" + content[: 2 - len(END)]).replace(b"\r\n.", b"\r\n")[2:]
