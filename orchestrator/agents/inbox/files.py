"""Files of a spool: small messages share files; each large message has its own file."""

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.agents.inbox import head
from orchestrator.agents.inbox.content import SpooledContent

SEGMENT_B = 8 * 1024 * 1024
"""Size in octets at which a shared file is full. A file is removed when its last message is removed."""
_CHUNK = 256 * 1024


class Files:
    """The numbered files of a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        for left in folder.glob("incoming-*"):
            left.unlink()  # an unfinished message of an earlier process
        files = list(folder.glob("[0-9]*"))
        self._number = max((int(path.name) for path in files), default=0)
        self.size = sum(path.stat().st_size for path in files)
        """Octets of all files."""
        self._segment = -1
        self._segment_size = 0

    def lay(self, content: SpooledContent) -> tuple[str, int, bytes]:
        """Put the content into a file; return the name of the file, the offset, and the first octets of the content."""
        if content.path is not None:
            with content.path.open("rb") as file:
                first = file.read(head.LIMIT)
            self._number += 1
            content.path = content.path.rename(self.folder / f"{self._number:06}")
            return content.path.name, 0, first
        if self._segment < 0 or self._segment_size >= SEGMENT_B:
            self.close()
            self._number += 1
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            self._segment = os.open(self.folder / f"{self._number:06}", flags, 0o600)
            self._segment_size = 0
            self._segment_name = f"{self._number:06}"
        octets, at = content.octets, self._segment_size
        rest = memoryview(octets)
        while rest:
            done = os.write(self._segment, rest)
            self._segment_size += done
            self.size += done
            rest = rest[done:]
        return self._segment_name, at, octets

    def close(self) -> None:
        """Close the shared file in use; idempotent."""
        if self._segment >= 0:
            os.close(self._segment)
            self._segment = -1

    def remove(self, name: str) -> None:
        """Remove a file."""
        if self._segment >= 0 and name == self._segment_name:
            self.close()
        self.size -= (self.folder / name).stat().st_size
        (self.folder / name).unlink()

    def read(self, name: str, at: int, size: int) -> Iterator[bytes]:
        """Yield ``size`` octets of a file from offset ``at``, in pieces of at most 256 KiB."""
        with (self.folder / name).open("rb") as file:
            file.seek(at)
            while size > 0 and (octets := file.read(min(size, _CHUNK))):
                size -= len(octets)
                yield octets
