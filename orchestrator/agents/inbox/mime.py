"""Parts of a message (RFC 2045, RFC 2046), read leniently: unreadable parts become text, without an error."""

import re
from binascii import a2b_base64, a2b_qp
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.policy import Compat32
from html import unescape
from pathlib import Path
from string import ascii_letters, digits

from orchestrator.agents.inbox.head import decoded
from orchestrator.agents.inbox.skeleton import Skeleton

MOST_PARTS = 1000
"""Maximum number of listed parts of a message."""
MOST_MULTIPARTS = 20
"""Maximum number of multiparts to split: each line is compared with the boundaries of all enclosing multiparts."""
MOST_FIELD, MOST_PARAMETERS = 4096, 64
"""Maximum characters and parameters of a ``Content-`` field. A field beyond these limits is emptied, and so
is the field of each multipart beyond ``MOST_MULTIPARTS``."""
_SPACE = re.compile(r"\s+")
_TAG = re.compile(r"<(/?)([a-z0-9]*+)[^<>]*+>", re.IGNORECASE)
_NOT_BASE64 = bytes(set(range(256)) - set(f"{ascii_letters}{digits}+/".encode()))
MOST_TEXT = 1024 * 1024
"""Maximum octets to show of a part as text."""
SNIPPET = 250
"""Maximum characters of a snippet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part that does not itself contain parts."""

    id: str
    """Place of the part: ``2.1`` is the first part of the second part."""
    content_type: str
    charset: str | None
    filename: str
    """File name; empty if the part has none."""
    content_id: str
    """Without angle brackets."""
    attachment: bool
    """Whether the part has a file name or the disposition ``attachment``, and is not shown with the text."""
    size: int
    """Octets of the part's content, without its transfer encoding."""
    octets: Callable[[], Iterator[bytes]]
    """Yields the content of the part, without its transfer encoding."""

    @property
    def text(self) -> str:
        """The first MiB as text with LF. An unknown charset is read as UTF-8; an invalid octet becomes U+FFFD."""
        content = _start(self.octets())
        try:
            text = content.decode(self.charset or "utf-8", "replace")
        except (LookupError, ValueError):
            text = content.decode("utf-8", "replace")
        return text.replace("\r\n", "\n")

    @property
    def shown(self) -> str:
        """Text of the part; HTML without tags, scripts and styles."""
        return shown(self.text) if self.content_type == "text/html" else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A message without its header section."""

    parts: list[Part]

    @property
    def text(self) -> str:
        """The first plain text that is not attached; empty if there is none."""
        return self._first("text/plain")

    @property
    def html(self) -> str:
        """The first HTML that is not attached; empty if there is none."""
        return self._first("text/html")

    @property
    def attachments(self) -> list[Part]:
        """Attached parts, except the parts that the text refers to."""
        return [part for part in self.parts if part.attachment and not part.content_id]

    @property
    def inline(self) -> list[Part]:
        """Parts that the text refers to by their Content-ID (RFC 2392)."""
        return [part for part in self.parts if part.attachment and part.content_id]

    @property
    def snippet(self) -> str:
        """The start of the text, on one line."""
        text = self.text or shown(self.html[: 100 * SNIPPET])
        return _SPACE.sub(" ", text[: 40 * SNIPPET]).strip()[:SNIPPET]

    @property
    def words(self) -> list[str]:
        """All texts without their markup, and the names of attached files, for searches."""
        return [part.filename if part.attachment else part.shown for part in self.parts]

    def part(self, id_: str) -> Part:
        """Return a part.

        Raises:
            KeyError: no part has this place.
        """
        for part in self.parts:
            if part.id == id_:
                return part
        raise KeyError(id_)

    def _first(self, kind: str) -> str:
        return next((part.text for part in self.parts if part.content_type == kind and not part.attachment), "")


class _Bounded(Compat32):
    """Policy of the parser: empties header fields that ``email`` would parse in quadratic time or slower."""

    multiparts = 0

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """Return name and value of a field."""
        name, value = super().header_source_parse(sourcelines)
        if not name.lower().startswith("content-"):
            return name, value
        readable = len(value) <= MOST_FIELD and value.count(";") <= MOST_PARAMETERS
        if readable and "multipart" in value.lower():
            object.__setattr__(self, "multiparts", self.multiparts + 1)  # a policy is immutable
            readable = self.multiparts <= MOST_MULTIPARTS
        return name, value if readable else ""


def read_file(path: Path) -> Body:
    """Read the parts of a large message from its file; the memory in use does not grow with the message.

    Raises:
        OSError: the file cannot be read.
    """
    skeleton = Skeleton(path)
    return read(skeleton.octets, skeleton)


def read(message: bytes, skeleton: Skeleton | None = None) -> Body:
    """Read the parts of a message; ``message``: the octets of the message, or of its ``skeleton``."""
    try:
        parts = _parts(message_from_bytes(message, policy=_Bounded()), skeleton)
    except (RecursionError, ValueError, TypeError, LookupError, AttributeError, AssertionError):
        parts = [_whole(message, skeleton)]
    return Body(parts=parts)


def shown(html: str) -> str:
    """Return HTML without its tags, scripts and styles; takes linear time."""
    text = " ".join(_shown(html))
    try:
        return unescape(text)
    except ValueError:  # a number with more digits than int() accepts
        return text


def _shown(html: str) -> Iterator[str]:
    at, hidden = 0, ""
    for tag in _TAG.finditer(html):
        name = tag[2].lower()
        if not hidden:
            yield html[at : tag.start()]
            hidden = name if name in {"script", "style"} and not tag[1] else ""
        elif tag[1] and name == hidden:
            hidden = ""
        at = tag.end()
    if not hidden:
        yield html[at:]


def _whole(message: bytes, skeleton: Skeleton | None) -> Part:
    size, octets = _content(message.partition(b"\r\n\r\n")[2], "", skeleton)
    return Part(
        id="1", content_type="text/plain", charset=None, filename="", content_id="", attachment=False,
        size=size, octets=octets,
    )  # fmt: skip


def _parts(message: Message, skeleton: Skeleton | None) -> list[Part]:
    parts: list[Part] = []
    rest: list[tuple[str, Message]] = [("", message)]
    while rest and len(parts) < MOST_PARTS:
        place, entity = rest.pop()
        inner = entity.get_payload()
        if entity.get_content_maintype() == "multipart" and isinstance(inner, list):
            entities = [(f"{place}.{i}" if place else str(i), one) for i, one in enumerate(inner, 1)]
            rest += [(name, one) for name, one in reversed(entities) if isinstance(one, Message)]
        else:
            parts.append(_part(place or "1", entity, skeleton))
    return parts


def _part(place: str, entity: Message, skeleton: Skeleton | None) -> Part:
    filename = decoded(entity.get_filename() or "")
    kind = entity.get_content_type()
    inner, encoding = entity.get_payload(), str(entity.get("Content-Transfer-Encoding", "")).strip().lower()
    if isinstance(inner, list):  # message/rfc822: the payload is another message
        payload, encoding = b"".join(one.as_bytes() for one in inner if isinstance(one, Message)), ""
    else:
        payload = bytes(entity.get_payload(decode=True) or b"")
        if skeleton is not None:
            del entity["Content-Transfer-Encoding"]
            encoded = bytes(entity.get_payload(decode=True) or b"")
            payload, encoding = (encoded, encoding) if skeleton.marked(encoded) else (payload, "")
    size, octets = _content(payload, encoding, skeleton)
    content_id = str(entity.get("Content-ID", "")).strip().strip("<>")
    disposition = entity.get_content_disposition()
    shown = kind in {"text/plain", "text/html"} and not filename
    return Part(
        id=place,
        content_type=kind,
        charset=entity.get_content_charset(),
        filename=filename,
        content_id=decoded(content_id),
        attachment=disposition == "attachment" or not shown,
        size=size,
        octets=octets,
    )


def _content(payload: bytes, encoding: str, skeleton: Skeleton | None) -> tuple[int, Callable[[], Iterator[bytes]]]:
    """Return the size of a part, and a function that yields its octets; ``encoding``: that of a payload with marks."""
    if skeleton is None or not skeleton.marked(payload):
        return len(payload), lambda: iter([payload])
    decode = _DECODERS.get(encoding, iter)

    def octets() -> Iterator[bytes]:
        return decode(skeleton.whole(payload))

    return sum(map(len, octets())), octets


def _start(pieces: Iterator[bytes]) -> bytes:
    start = b""
    while len(start) < MOST_TEXT and (piece := next(pieces, None)) is not None:
        start += piece
    return start[:MOST_TEXT]


def _base64(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        rest += piece.translate(None, _NOT_BASE64)
        whole = len(rest) // 4 * 4
        yield a2b_base64(rest[:whole])
        rest = rest[whole:]
    if len(rest) > 1:  # the padding is missing: it was removed together with octets that are not base64
        yield a2b_base64(rest + b"==")


def _quoted(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        rest += piece
        lines = rest.rfind(b"\n") + 1 or len(rest)
        yield a2b_qp(rest[:lines])
        rest = rest[lines:]
    yield a2b_qp(rest)


_DECODERS = {"base64": _base64, "quoted-printable": _quoted}
