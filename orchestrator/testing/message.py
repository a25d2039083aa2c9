"""A message that arrived in the inbox; its content is read on first use."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from orchestrator.agents.inbox import mime
from orchestrator.testing.failure import Missing, part

_URL = re.compile(r"\bhttps?://[^\s<>\"]+", re.IGNORECASE)
_AROUND = ".,;:!?'\")]}>"
"""Punctuation that ends a sentence, and may follow a URL directly."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a message."""

    url: str
    text: str
    """Text of the link in HTML; empty in plain text."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attached file."""

    name: str
    """File name as the message has it, decoded; empty without one."""
    content_type: str
    content: bytes
    """The octets of the file: the transfer encoding is undone."""


class Message:
    """A message as the inbox keeps it. Links and remote images in it are never fetched.

    The content is read from the inbox when an attribute first needs it; the bed must be up then.
    """

    def __init__(self, summary: Mapping[str, Any], read: Callable[[int], bytes]) -> None:
        self._read = read
        self.id: int = summary["id"]
        """Number of the message in its inbox; later messages have larger numbers."""
        self.received_at = datetime.fromtimestamp(summary["t"], UTC)
        """Moment of its arrival, by the clock of the engine's machine."""
        self.sender: str = summary["sender"]
        """Sender of the envelope (RFC 5321); empty: a notification."""
        self.recipients: tuple[str, ...] = tuple(summary["recipients"])
        """Recipients of the envelope, including those in Bcc."""
        self.subject: str = summary["subject"]
        """Subject, decoded (RFC 2047)."""
        self.size: int = summary["size"]
        """Octets of the message."""

    def __repr__(self) -> str:
        return f"<Message {self.id} {self.sender or '<>'} -> {', '.join(self.recipients)}: {self.subject!r}>"

    @cached_property
    def raw(self) -> bytes:
        """The octets after DATA as they came, without dot-stuffing."""
        return self._read(self.id)

    @cached_property
    def headers(self) -> EmailMessage:
        """The message as ``email`` parses it: ``headers["List-Id"]`` is the first field of this name, or ``None``.

        ``get_all`` returns every field of a name; ``walk`` yields the parts.
        """
        return message_from_bytes(self.raw, policy=policy.SMTP)

    @cached_property
    def _body(self) -> mime.Body:
        return mime.read(self.raw)

    @property
    def text(self) -> str:
        """First MiB of the first text/plain part that is not an attachment, with LF line ends; or empty."""
        return self._body.text

    @property
    def html(self) -> str:
        """First MiB of the first text/html part that is not an attachment, with LF line ends; or empty."""
        return self._body.html

    @property
    def attachments(self) -> list[Attachment]:
        """The attached files, and those that the HTML refers to."""
        parts = (*self._body.attachments, *self._body.inline)
        return [Attachment(part.filename, part.content_type, b"".join(part.octets())) for part in parts]

    def attachment(self, name: str) -> Attachment:
        """Return the first attachment of this file name.

        Raises:
            Missing: no attachment has this name; the error lists the attachments.
        """
        for one in self.attachments:
            if one.name == name:
                return one
        raise self._missing(f"attachment {name!r}", "attachments", [one.name for one in self.attachments])

    @property
    def links(self) -> list[Link]:
        """The http and https links: links of the HTML in their order, then links of the plain text."""
        parser = _Anchors()
        parser.feed(self.html)
        parser.close()
        written = [Link(_trimmed(url), "") for url in _URL.findall(self.text)]
        return [*(link for link in parser.links if _URL.match(link.url)), *written]

    def link(self, pattern: str = "", *, text: str = "") -> str:
        """Return the URL of the first link whose URL matches a regular expression, and whose words contain ``text``.

        Raises:
            Missing: no link matches; the error lists the links.
        """
        for one in self.links:
            if re.search(pattern, one.url) and text.lower() in one.text.lower():
                return one.url
        wanted = " and ".join(filter(None, (pattern and repr(pattern), text and f"the words {text!r}")))
        raise self._missing(
            f"link with {wanted}" if wanted else "link",
            "links",
            [f"{one.url} {one.text}".strip() for one in self.links],
        )

    def code(self, digits: int = 6) -> str:
        """Return the first number of exactly this many digits in the text, the HTML without tags, or the subject.

        Raises:
            Missing: there is no such number; the error shows the text.
        """
        number = re.compile(rf"(?<![\w.-]){r'[0-9]' * digits}(?![\w-]|\.[0-9])")
        for text in (self.text, mime.shown(self.html), self.subject):
            if found := number.search(text):
                return found[0]
        raise self._missing(f"code of {digits} digits", "text", (self.text or mime.shown(self.html)).splitlines())

    def save(self, path: str | Path) -> Path:
        """Write the raw octets to a file in the .eml format of mail programs; return its path."""
        Path(path).write_bytes(self.raw)
        return Path(path)

    def _missing(self, wanted: str, title: str, found: list[str]) -> Missing:
        return Missing(f"{self!r} has no {wanted}\n{part(title, found)}")


class _Anchors(HTMLParser):
    """Collects the links of HTML, each with its words."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[Link] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a link."""
        if tag == "a" and (url := dict(attrs).get("href")):
            self.links.append(Link(url.strip(), ""))
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        """End a link."""
        if tag == "a":
            self._open = False

    def handle_data(self, data: str) -> None:
        """Add words to a link."""
        if self._open:
            link = self.links.pop()
            self.links.append(Link(link.url, " ".join(f"{link.text} {data}".split())))


def _trimmed(url: str) -> str:
    """Remove punctuation from the end of a URL; keep a closing bracket if the URL has the opening bracket."""
    while url[-1] in _AROUND and not (url[-1] == ")" and url.count("(") >= url.count(")")):
        url = url[:-1]
    return url
