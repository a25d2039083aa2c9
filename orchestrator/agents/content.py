"""Reader of one message's content after DATA: checks each piece of the content, and keeps no piece.

Only CRLF.CRLF ends the content. A dot between bare line feeds or carriage returns is text, so that a message cannot
hide a second message (RFC 5321, 2.3.8 and 4.1.1.4). The reader holds at most 32 KiB of header and 4 octets.
"""

from abc import ABC, abstractmethod
from zlib import crc32

from orchestrator.agents.wire import END, Stamp, read_stamp

HEAD_LIMIT = 32 * 1024
"""Maximum octets of the header section that are searched for the stamp."""
_PREFIXES = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")
_CRLF = b"\r\n"


class DataReader(ABC):
    """Reads the content after DATA to its end, and removes the dot-stuffing (RFC 5321, 4.5.2).

    ``feed`` returns ``None`` until the content is complete. ``take`` gets each piece; the first piece begins with a
    CRLF that is not part of the content.
    """

    __slots__ = ("_tail", "size")

    def __init__(self) -> None:
        self.size = -len(_CRLF)
        """Octets of content taken so far."""
        self._tail = _CRLF  # the content starts at the start of a line

    def feed(self, data: bytes) -> bytes | None:
        """Read the next piece; return the octets after the end of the data, or ``None`` before the end."""
        text = self._tail + data
        end = text.find(END)
        if end < 0:
            # If the text ends like the start of END, this start waits for the next piece: no CRLF-dot is cut in two.
            self._tail = next((prefix for prefix in _PREFIXES if text.endswith(prefix)), b"")
            self._take(text[: len(text) - len(self._tail)])
            return None
        self._take(text[: end + 2])
        self.finish()
        return text[end + len(END) :]

    def _take(self, text: bytes) -> None:
        text = text.replace(b"\r\n.", _CRLF)
        self.size += len(text)
        self.take(text)

    @abstractmethod
    def take(self, text: bytes) -> None:
        """Take a piece of the content."""

    @abstractmethod
    def finish(self) -> None:
        """End the content; ``feed`` calls this once the content is complete."""


class Content(DataReader):
    """One message's content, checked and not kept."""

    __slots__ = ("_crc", "_head", "_length", "stamp")

    def __init__(self) -> None:
        super().__init__()
        self.stamp: Stamp | None = None
        self._head: bytes | None = b""
        self._length = 0
        self._crc = 0

    def finish(self) -> None:
        """End the content. If the message has no body, its stamp is read only now."""
        if self._head is not None:
            self._read_head(self._head)

    @property
    def whole(self) -> bool:
        """Whether the body has the length and CRC that the stamp gives."""
        return self.stamp is not None and self.stamp.crc == self._crc and self.stamp.length == self._length

    def take(self, text: bytes) -> None:
        """Check a piece."""
        if self._head is not None:
            text = self._head + text
            end = text.find(b"\r\n\r\n", max(0, len(self._head) - 3))
            if end < 0 and len(text) < HEAD_LIMIT:
                self._head = text
                return
            self._read_head(text[: end + 2] if end >= 0 else text)
            text = text[end + 4 :] if end >= 0 else b""
        self._crc = crc32(text, self._crc)
        self._length += len(text)

    def _read_head(self, head: bytes) -> None:
        self.stamp = read_stamp(head)
        self._head = None
