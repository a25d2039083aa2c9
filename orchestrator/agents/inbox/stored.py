"""A message of the spool: its envelope, and its entry in the index."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """SMTP envelope of a message (RFC 5321, 2.3.1), and facts of its session."""

    sender: str
    """Envelope sender without angle brackets; empty: ``<>``."""
    recipients: tuple[str, ...]
    client: str
    """IP address."""
    helo: str
    user: str | None = None
    """User name of AUTH; ``None``: no AUTH."""
    tls: str | None = None
    """TLS version and cipher; ``None``: no TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Index entry of one message of the spool."""

    id: int
    t: float
    """Unix time of the end of the data."""
    size: int
    """Size in octets."""
    seen: bool
    envelope: Envelope
    head: dict[str, Any]
    """Fields of ``head.Head``."""
    tags: tuple[str, ...]
    snippet: str
    """Start of the message's text; empty until the words of the message are indexed (``Words.fill``)."""
    attachments: int
    """Number of attached files in the first ``words.LIMIT`` octets; 0 until the words of the message are indexed."""
