"""A message that arrived in the inbox, its content read when it is first needed."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cached_property
from pathlib import Path
from typing import Any


class Message:
    """A message as the inbox keeps it: ``sender`` and ``recipients`` are the envelope's."""

    def __init__(self, summary: Mapping[str, Any], read: Callable[[int], bytes]) -> None:
        self._read = read
        self.id: int = summary["id"]
        """Number of the message in its inbox; later messages have larger ones."""
        self.received_at = datetime.fromtimestamp(summary["t"], UTC)
        """Moment of its arrival, by the clock of the engine's machine."""
        self.sender: str = summary["sender"]
        """Sender of the envelope (RFC 5321); empty: a notification."""
        self.recipients: tuple[str, ...] = tuple(summary["recipients"])
        """Recipients of the envelope, those in Bcc, too."""
        self.subject: str = summary["subject"]
        """Subject, decoded (RFC 2047)."""

    def __repr__(self) -> str:
        return f"<Message {self.id} {self.sender or '<>'} -> {', '.join(self.recipients)}: {self.subject!r}>"

    @cached_property
    def raw(self) -> bytes:
        """The octets after DATA as they came, without dot-stuffing."""
        return self._read(self.id)

    @cached_property
    def headers(self) -> EmailMessage:
        """The parsed message: ``headers["List-Id"]`` is a field, by its name in any case, or ``None``."""
        return message_from_bytes(self.raw, policy=policy.SMTP)

    def save(self, path: str | Path) -> Path:
        """Write the raw octets to a file, as mail programs read them (.eml), and return its path."""
        Path(path).write_bytes(self.raw)
        return Path(path)
