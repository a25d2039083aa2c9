"""Spool of an inbox: raw messages in append-only files, and an SQLite index of the messages.

::

    spool/index.sqlite     one row for each message, each recipient of an envelope, each event
    spool/000001           messages of at most 64 KiB, one behind the other
    spool/000002           a larger message; until the message is kept, the name of its file is like incoming-x3f8

The index is written before the reply to the end of the data, but not synced: the spool lives as long as its container.
"""

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.agents.inbox import head
from orchestrator.agents.inbox.content import ROOM_B, SpooledContent
from orchestrator.agents.inbox.events import Events
from orchestrator.agents.inbox.files import Files
from orchestrator.agents.inbox.index import Index
from orchestrator.agents.inbox.stored import Envelope
from orchestrator.agents.inbox.words import LIMIT


class Spool(Index):
    """Messages and events of one inbox. Not thread-safe."""

    def __init__(
        self, folder: Path, *, most_b: int, most_messages: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._files = Files(folder)
        self.folder = folder
        self._most_b, self._most_messages, self._clock = most_b, most_messages, clock
        super().__init__(folder / "index.sqlite", lambda id_: b"".join(self.chunks(id_, LIMIT)))
        self.events = Events(self._index, most_b, clock)

    def begin(self, most: int) -> SpooledContent:
        """Begin a new message of at most ``most`` octets, and return its empty content."""
        return SpooledContent(self.folder, most)

    @property
    def stored_b(self) -> int:
        """Octets of the message files and of the used pages of the index."""
        return self._files.size + self.in_use_b

    @property
    def full(self) -> str | None:
        """Reason why no further message can be kept; ``None`` if there is room."""
        if self.count >= self._most_messages:
            return f"{self.count} messages are kept, the limit"
        if (stored := self.stored_b) >= self._most_b:
            return f"messages and index have {stored} octets, the limit is {self._most_b}"
        if shutil.disk_usage(self.folder).free < ROOM_B:
            return "the disk is full"
        return None

    def keep(self, content: SpooledContent, envelope: Envelope) -> int:
        """Keep a complete message, and return its id.

        Raises:
            OSError, sqlite3.Error: there is no room (ENOSPC), or the write failed; nothing of the message is kept.
        """
        if (reason := self.full) is not None:  # other sessions may have filled the spool since MAIL
            content.discard()
            raise OSError(errno.ENOSPC, reason)
        try:
            name, at, octets = self._files.lay(content)
            id_ = self.insert(self._clock(), (content.size, name, at), envelope, head.read(octets))
        except BaseException:
            content.discard()
            raise
        content.kept = True
        self._files.size += content.size if content.path is not None else 0
        return id_

    def chunks(self, id_: int, most: int | None = None) -> Iterator[bytes]:
        """Yield the octets of a message, or only the first ``most`` octets, in pieces of at most 256 KiB.

        Raises:
            KeyError: no such message is kept.
        """
        name, at, size = self.place(id_)
        return self._files.read(name, at, size if most is None else min(size, most))

    def path(self, id_: int) -> Path:
        """Return the file of a message of more than ``content.IN_MEMORY`` octets; the file holds no other message.

        Raises:
            KeyError: no such message is kept.
        """
        return self.folder / self.place(id_)[0]

    def raw(self, id_: int) -> bytes:
        """Return the octets of a message.

        Raises:
            KeyError: no such message is kept.
        """
        return b"".join(self.chunks(id_))

    def delete(self, where: str = "1", args: Sequence[object] = ()) -> list[int]:
        """Delete the messages that fulfil a condition, and the files without remaining messages; return their ids."""
        ids, files = self.remove(where, args)
        for name in files:
            self._files.remove(name)
        return ids

    def close(self) -> None:
        """Close the files; idempotent."""
        self._files.close()
        self._index.close()
