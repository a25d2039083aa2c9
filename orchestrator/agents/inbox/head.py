"""Header section of a message, read leniently: a broken field is shown unchanged, without an error (RFC 5322)."""

import email.utils
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from email.utils import getaddresses
from typing import Any

LIMIT = 64 * 1024
"""Maximum octets of a header section that are read."""
MOST_DECODED = 16 * 1024
"""Maximum characters of a field to decode; a longer field keeps its encoded words."""
MOST_ADDRESSES = 8 * 1024
"""Maximum characters read of all address fields of a message; ``email.utils`` takes 2 us a character."""
_FIELD_COST = 16
"""Characters that each address field counts in addition to its own, against ``MOST_ADDRESSES``."""
_LENIENT = {"strict": False} if getattr(email.utils, "supports_strict_parsing", False) else {}
_FOLD = re.compile(r"\r?\n[ \t]*|\r")
_FIELD = re.compile(rb"^([!-9;-~]{1,200})[ \t]*:(.*(?:\r?\n[ \t].*)*)", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """A display name and an address; either may be empty."""

    name: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The fields that an inbox searches and lists, decoded (RFC 2047)."""

    subject: str
    message_id: str
    """Without angle brackets."""
    date: str
    author: list[Mailbox]
    to: list[Mailbox]
    cc: list[Mailbox]
    bcc: list[Mailbox]
    reply_to: list[Mailbox]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and strings."""
        return asdict(self)


def fields(message: bytes) -> Iterator[tuple[str, str]]:
    """Yield name and value of each header field in order: unfolded, decoded as UTF-8 or else Latin-1."""
    head = message[:LIMIT]
    ends = [end for end in (head.find(b"\r\n\r\n"), head.find(b"\n\n")) if end >= 0]
    if head[:2] == b"\r\n" or head[:1] == b"\n":
        return
    for found in _FIELD.finditer(head[: min(ends) + 1] if ends else head):
        yield found[1].decode("ascii"), _FOLD.sub(" ", _text(found[2])).strip()


def decoded(value: str) -> str:
    """Decode the encoded words of a field. A broken or long field is not decoded; control characters become spaces."""
    try:
        parts = [
            part if isinstance(part, str) else part.decode(charset or "ascii", "replace")
            for part, charset in (decode_header(value) if len(value) <= MOST_DECODED else [(value, None)])
        ]
    except (HeaderParseError, LookupError, ValueError):
        parts = [value]
    return _CONTROL.sub(" ", "".join(parts)).strip()


def mailboxes(value: str) -> list[Mailbox]:
    """Split a list of addresses, then decode the names. A broken address is kept unchanged."""
    return [Mailbox(name=decoded(name), address=decoded(address)) for name, address in _pairs(value)]


def _pairs(value: str) -> list[tuple[str, str]]:
    try:
        pairs = [pair for pair in getaddresses([value], **_LENIENT) if any(pair)]
    except (ValueError, IndexError, RecursionError):
        pairs = [("", value)]
    if all(not address.startswith("@") for _, address in pairs) and (pairs or "@" not in value):
        return pairs
    pieces = value.split(",")  # ``getaddresses`` dropped a local part of the whole list
    return [pair for piece in pieces for pair in _pairs(piece)] if len(pieces) > 1 else [("", value.strip())]


def read(message: bytes) -> Head:
    """Read the header section of a message; addresses beyond ``MOST_ADDRESSES`` are left out."""
    first: dict[str, str] = {}
    lists: dict[str, list[Mailbox]] = {name: [] for name in ("from", "to", "cc", "bcc", "reply-to")}
    room = MOST_ADDRESSES
    for name, value in fields(message):
        key = name.lower()
        first.setdefault(key, value)
        if key in lists and room > 0:
            lists[key] += mailboxes(value if len(value) <= room else value[:room].rpartition(",")[0])
            room -= len(value) + _FIELD_COST
    return Head(
        subject=decoded(first.get("subject", "")),
        message_id=first.get("message-id", "").strip("<> "),
        date=first.get("date", ""),
        author=lists["from"],
        to=lists["to"],
        cc=lists["cc"],
        bcc=lists["bcc"],
        reply_to=lists["reply-to"],
    )


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")
