"""Content of one message between DATA and the spool: only the dot-stuffing is removed.

Only CRLF.CRLF ends the content; a dot between bare line feeds or carriage returns is text (RFC 5321, 2.3.8, 4.1.1.4).
"""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from orchestrator.agents.content import DataReader

IN_MEMORY = 64 * 1024
"""Maximum octets of a message in memory; a larger message is written to its own file during reception."""
ROOM_B = 16 * 1024 * 1024
"""Minimum octets of the file system that stay free."""
_CRLF = b"\r\n"


class SpooledContent(DataReader):
    """Octets of one message. Call ``feed`` until it returns octets, then ``Spool.keep`` or ``discard``.

    Once a message has more than ``most`` octets, or the disk is full, the rest is read and discarded (``refused``).
    """

    __slots__ = ("_file", "_folder", "_head", "_most", "kept", "path", "refused")

    def __init__(self, folder: Path, most: int) -> None:
        super().__init__()
        self._folder = folder
        self._most = most
        self._head = bytearray()
        self._file = -1
        self.path: Path | None = None
        """File of a message that is larger than ``IN_MEMORY``."""
        self.kept = False
        """Whether the spool holds the message."""
        self.refused: OSError | None = None
        """Error that prevents keeping the message: EMSGSIZE for a message that is too big, or an error of the disk."""

    def finish(self) -> None:
        """Close the file of a large message."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def octets(self) -> bytes:
        """The octets in memory: the whole message, unless it is in a file (``path``)."""
        return bytes(self._head[len(_CRLF) :])

    @property
    def head(self) -> bytes:
        """The first octets, at most ``IN_MEMORY``."""
        if self.path is None:
            return self.octets
        with self.path.open("rb") as file:
            return file.read(IN_MEMORY)

    def discard(self) -> None:
        """Close and remove the file, and forget the octets; idempotent."""
        self.finish()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None
        self._head.clear()

    def take(self, text: bytes) -> None:
        """Keep a piece; an error of the disk is put into ``refused``."""
        if self.refused is not None:
            return
        if self.size > self._most:
            self.discard()
            self.refused = OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
            return
        if self._file < 0 and len(self._head) + len(text) <= IN_MEMORY + len(_CRLF):
            self._head += text
            return
        try:
            self._write(text)
        except OSError as error:
            self.discard()
            self.refused = error

    def _write(self, text: bytes) -> None:
        if shutil.disk_usage(self._folder).free < ROOM_B:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._file < 0:
            self._file, name = tempfile.mkstemp(dir=self._folder, prefix="incoming-")
            self.path = Path(name)
            text, self._head = bytes(self._head[len(_CRLF) :]) + text if self._head else text[len(_CRLF) :], bytearray()
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(self._file, rest) :]
