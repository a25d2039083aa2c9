"""Spool of an inbox: raw messages in append-only files, and an SQLite index that finds them.

::

    spool/index.sqlite     one row for each message, each recipient of an envelope, each event
    spool/000001           messages of at most 64 KiB, one behind the other
    spool/000002           a larger message, in a file of its own; it is called incoming-x3f8 until it is kept

The index is written before the reply to the end of the data, but not synced: the spool lives as long as its container.
"""

import errno
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.agents.inbox import head
from orchestrator.agents.inbox.content import ROOM_B, SpooledContent
from orchestrator.agents.inbox.folding import BETWEEN, fold, fold_address, not_named
from orchestrator.agents.inbox.words import LIMIT, Words

SEGMENT_B = 8 * 1024 * 1024
"""Size of a shared file, in octets, after which a new file is begun; it stays as long as one of its messages."""
MOST_EVENTS = 200_000
"""Events kept; the oldest go first."""
MOST_EVENTS_B = 64 * 1024 * 1024
"""Octets of the data of all events, likewise."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, t REAL NOT NULL, sender TEXT NOT NULL, client TEXT NOT NULL,
    helo TEXT NOT NULL, user TEXT, tls TEXT, size INTEGER NOT NULL, file TEXT NOT NULL, at INTEGER NOT NULL,
    subject TEXT NOT NULL, message_id TEXT NOT NULL, head TEXT NOT NULL, recipients TEXT NOT NULL,
    seen INTEGER NOT NULL DEFAULT 0, snippet TEXT NOT NULL DEFAULT '', attachments INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_file ON messages (file);
CREATE INDEX IF NOT EXISTS by_subject ON messages (subject);
CREATE INDEX IF NOT EXISTS by_message_id ON messages (message_id);
CREATE TABLE IF NOT EXISTS addresses (
    message INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE, field TEXT NOT NULL,
    address TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_address ON addresses (address, field, message);
CREATE INDEX IF NOT EXISTS by_message ON addresses (message);
CREATE TABLE IF NOT EXISTS tags (
    message INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE, tag TEXT NOT NULL, UNIQUE (message, tag)
);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, t REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL
);
"""

_COLUMNS = "t, sender, client, helo, user, tls, size, file, at, subject, message_id, head, recipients"
_INSERT = f"INSERT INTO messages ({_COLUMNS}) VALUES ({', '.join('?' * 13)})"  # noqa: S608
_CHUNK = 256 * 1024
_NEWER = """
WITH messages AS NOT MATERIALIZED (SELECT * FROM main.messages WHERE id > {0}),
     addresses AS NOT MATERIALIZED (SELECT * FROM main.addresses WHERE message > {0}),
     tags AS NOT MATERIALIZED (SELECT * FROM main.tags WHERE message > {0})
"""
"""Before a query: it sees only messages with a larger id, and reads no row of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """SMTP envelope of a message (RFC 5321, 2.3.1), and facts of its session."""

    sender: str
    """Without angle brackets; empty: ``<>``."""
    recipients: tuple[str, ...]
    client: str
    """IP address."""
    helo: str
    user: str | None = None
    """Of AUTH."""
    tls: str | None = None
    """Version of TLS and cipher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Index entry of one message of the spool."""

    id: int
    t: float
    """Unix time of the end of its data."""
    size: int
    """Octets."""
    seen: bool
    envelope: Envelope
    head: dict[str, Any]
    """``head.Head``."""
    tags: tuple[str, ...]
    snippet: str
    """Start of its text; empty until its words are indexed (``Words.fill``)."""
    attachments: int
    """Attached files in its first ``words.LIMIT`` octets; 0 until its words are indexed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened: a message came, an attempt was answered, messages were deleted, rules changed."""

    id: int
    """Cursor: later events have larger ones."""
    t: float
    kind: str
    data: dict[str, Any]


class Spool:
    """Messages and events of one inbox. Not for several threads."""

    def __init__(
        self, folder: Path, *, most_b: int, most_messages: int, clock: Callable[[], float] = time.time
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._most_b, self._most_messages, self._clock = most_b, most_messages, clock
        for left in folder.glob("incoming-*"):
            left.unlink()  # of sessions that ended with an earlier process
        self._index = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
        self._index.execute("PRAGMA journal_mode = WAL")
        self._index.execute("PRAGMA synchronous = OFF")
        self._index.execute("PRAGMA foreign_keys = ON")
        self._index.executescript(_SCHEMA)
        self._index.create_function("fold", 1, fold, deterministic=True)
        self.count, self.size = self._index.execute("SELECT count(*), coalesce(sum(size), 0) FROM messages").fetchone()
        """Messages, and their octets."""
        self.words = Words(self._index, lambda id_: b"".join(self.chunks(id_, LIMIT)))
        """Search for words; may be filled ahead of a search, which fills the rest."""
        (self._events_b,) = self._index.execute("SELECT coalesce(sum(length(data)), 0) FROM events").fetchone()
        self.changed: Callable[[], None] = lambda: None
        """Called after a change of marks or tags."""
        files = list(folder.glob("[0-9]*"))
        self._number = max((int(path.name) for path in files), default=0)
        self._files_b = sum(path.stat().st_size for path in files)
        self._segment = -1
        self._segment_size = 0

    # ------------------------------------------------------------------------------------------------------- keep

    def begin(self, most: int) -> SpooledContent:
        """Return the content of a new message, of at most ``most`` octets."""
        return SpooledContent(self.folder, most)

    @property
    def full(self) -> str | None:
        """Why no further message can be kept; ``None`` if there is room."""
        if self.count >= self._most_messages:
            return f"{self.count} messages are kept, the limit"
        if self._files_b >= self._most_b:
            return f"the files of messages have {self._files_b} octets, the limit is {self._most_b}"
        if shutil.disk_usage(self.folder).free < ROOM_B:
            return "the disk is full"
        return None

    def keep(self, content: SpooledContent, envelope: Envelope) -> int:
        """Keep a message that has ended, and return its id.

        Raises:
            OSError, sqlite3.Error: there is no room (ENOSPC), or the write failed; nothing of the message is kept.
        """
        if (reason := self.full) is not None:  # other sessions may have filled it since MAIL
            content.discard()
            raise OSError(errno.ENOSPC, reason)
        try:
            name, at, octets = self._lay(content)
            now, fields = self._clock(), head.read(octets)
            with self._index:
                self._index.execute("BEGIN")
                row = (
                    *(now, envelope.sender, envelope.client, envelope.helo, envelope.user, envelope.tls),
                    *(content.size, name, at, fold(fields.subject), fields.message_id),
                    *(json.dumps(fields.to_dict()), json.dumps(envelope.recipients)),
                )
                id_ = self._index.execute(_INSERT, row).lastrowid or 0
                self._index.executemany(
                    "INSERT INTO addresses VALUES (?, ?, ?, ?)",
                    [(id_, *row) for row in _addresses(envelope, fields)],
                )
        except BaseException:
            content.discard()
            raise
        content.kept = True
        self._files_b += content.size if content.path is not None else 0
        self.count += 1
        self.size += content.size
        return id_

    def _lay(self, content: SpooledContent) -> tuple[str, int, bytes]:
        """Put the octets into their file; return its name, their place in it, and the first of them."""
        if content.path is not None:
            with content.path.open("rb") as file:
                first = file.read(head.LIMIT)
            self._number += 1
            content.path = content.path.rename(self.folder / f"{self._number:06}")
            return content.path.name, 0, first
        if self._segment < 0 or self._segment_size >= SEGMENT_B:
            self._close()
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
            self._files_b += done
            rest = rest[done:]
        return self._segment_name, at, octets

    def _close(self) -> None:
        if self._segment >= 0:
            os.close(self._segment)
            self._segment = -1

    # ------------------------------------------------------------------------------------------------------- find

    def find(self, where: str = "1", args: Sequence[object] = (), *, limit: int = 50, start: int = 0) -> list[Stored]:
        """Return messages, the newest first; ``where`` is a condition on the table ``messages`` (``search.where``)."""
        self._catch_up(where)
        rows = self._index.execute(
            "SELECT id, t, size, seen, sender, client, helo, user, tls, head, recipients, snippet, attachments"  # noqa: S608
            f" FROM messages WHERE {where} ORDER BY id DESC LIMIT ? OFFSET ?",
            (*args, limit, start),
        ).fetchall()
        return [
            Stored(
                id=id_,
                t=t,
                size=size,
                seen=bool(seen),
                envelope=Envelope(
                    sender=sender,
                    recipients=tuple(json.loads(recipients)),
                    client=client,
                    helo=helo,
                    user=user,
                    tls=tls,
                ),
                head=json.loads(fields),
                tags=self._tags(id_),
                snippet=snippet,
                attachments=attachments,
            )
            for id_, t, size, seen, sender, client, helo, user, tls, fields, recipients, snippet, attachments in rows
        ]

    def get(self, id_: int) -> Stored:
        """Return one message.

        Raises:
            KeyError: no such message is kept.
        """
        found = self.find("id = ?", (id_,))
        if not found:
            raise KeyError(id_)
        return found[0]

    def total(self, where: str = "1", args: Sequence[object] = (), *, after: int = 0) -> int:
        """Return the number of messages with an id above ``after`` that fulfil a condition."""
        self._catch_up(where)
        only = _NEWER.format(after) if after else ""
        (count,) = self._index.execute(f"{only} SELECT count(*) FROM messages WHERE {where}", args).fetchone()  # noqa: S608
        return int(count)

    @property
    def newest(self) -> int:
        """The id of the newest message; 0 without messages."""
        (newest,) = self._index.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
        return int(newest)

    def ids(self, where: str = "1", args: Sequence[object] = ()) -> list[int]:
        """Return the ids of all messages that fulfil a condition."""
        self._catch_up(where)
        return [id_ for (id_,) in self._index.execute(f"SELECT id FROM messages WHERE {where}", args)]  # noqa: S608

    def _catch_up(self, where: str) -> None:
        for _ in self.words.fill(where):
            pass

    def chunks(self, id_: int, most: int | None = None) -> Iterator[bytes]:
        """Yield the octets of a message, or the first ``most`` of them, 256 KiB at a time at most.

        Raises:
            KeyError: no such message is kept.
        """
        place = self._index.execute("SELECT file, at, size FROM messages WHERE id = ?", (id_,)).fetchone()
        if place is None:
            raise KeyError(id_)
        name, at, size = place
        return self._read(name, at, size if most is None else min(size, most))

    def path(self, id_: int) -> Path:
        """Return the file of a message of more than ``content.IN_MEMORY`` octets, which has nothing else in it.

        Raises:
            KeyError: no such message is kept.
        """
        place = self._index.execute("SELECT file FROM messages WHERE id = ?", (id_,)).fetchone()
        if place is None:
            raise KeyError(id_)
        return self.folder / str(place[0])

    def raw(self, id_: int) -> bytes:
        """Return the octets of a message.

        Raises:
            KeyError: no such message is kept.
        """
        return b"".join(self.chunks(id_))

    # ----------------------------------------------------------------------------------------------------- change

    def mark(self, where: str, args: Sequence[object], *, seen: bool) -> None:
        """Mark the messages that fulfil a condition as seen or not."""
        self._catch_up(where)
        self._index.execute(f"UPDATE messages SET seen = ? WHERE {where}", (seen, *args))  # noqa: S608
        self.changed()

    def tag(self, tags: Iterable[str], where: str, args: Sequence[object]) -> None:
        """Replace the tags of the messages that fulfil a condition."""
        self._catch_up(where)
        with self._index:
            self._index.execute("BEGIN")
            self._index.execute(f"DELETE FROM tags WHERE message IN (SELECT id FROM messages WHERE {where})", args)  # noqa: S608
            for tag in tags:
                put = f"INSERT OR IGNORE INTO tags SELECT id, ? FROM messages WHERE {where}"  # noqa: S608
                self._index.execute(put, (tag, *args))
        self.changed()

    def retag(self, tag: str, new: str | None) -> None:
        """Rename a tag of all messages; ``None``: delete it."""
        if new is None:
            self._index.execute("DELETE FROM tags WHERE tag = ?", (tag,))
        else:
            self._index.execute("UPDATE OR REPLACE tags SET tag = ? WHERE tag = ?", (new, tag))
        self.changed()

    def tags(self) -> list[str]:
        """Return the tags in use, sorted."""
        return [tag for (tag,) in self._index.execute("SELECT DISTINCT tag FROM tags ORDER BY tag COLLATE NOCASE")]

    def delete(self, where: str = "1", args: Sequence[object] = ()) -> list[int]:
        """Delete the messages that fulfil a condition, and the files without remaining messages; return their ids."""
        self._catch_up(where)
        files = self._index.execute(f"SELECT DISTINCT file FROM messages WHERE {where}", args).fetchall()  # noqa: S608
        gone = self._index.execute(
            f"DELETE FROM messages WHERE {where} RETURNING id, size",  # noqa: S608
            args,
        ).fetchall()
        self.count -= len(gone)
        self.size -= sum(size for _, size in gone)
        for (name,) in files:
            if not self._index.execute("SELECT 1 FROM messages WHERE file = ? LIMIT 1", (name,)).fetchone():
                if self._segment >= 0 and name == self._segment_name:
                    self._close()
                self._files_b -= (self.folder / name).stat().st_size
                (self.folder / name).unlink()
        ids = [id_ for id_, _ in gone]
        self.words.forget(ids)
        return ids

    # ----------------------------------------------------------------------------------------------------- events

    def record(self, kind: str, data: dict[str, Any]) -> Event:
        """Record an event."""
        now = self._clock()
        text = json.dumps(data)
        id_ = (
            self._index.execute("INSERT INTO events (t, kind, data) VALUES (?, ?, ?)", (now, kind, text)).lastrowid or 0
        )
        self._events_b += len(text)
        if id_ % 1000 == 0:
            self._forget_events("id <= ?", id_ - MOST_EVENTS)
        if self._events_b > MOST_EVENTS_B:
            self._forget_events("id <= (SELECT min(id) + 99 FROM events) AND id < ?", id_)
        return Event(id=id_, t=now, kind=kind, data=data)

    def _forget_events(self, where: str, id_: int) -> None:
        gone = self._index.execute(f"DELETE FROM events WHERE {where} RETURNING length(data)", (id_,))  # noqa: S608
        self._events_b -= sum(size for (size,) in gone)

    def events(
        self, after: int = 0, kinds: Sequence[str] = (), limit: int = 1000, *, newest: bool = False
    ) -> list[Event]:
        """Return events behind a cursor, the oldest or the newest first; of all kinds by default."""
        only = f"AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        rows = self._index.execute(
            f"SELECT id, t, kind, data FROM events WHERE id > ? {only}"  # noqa: S608
            f" ORDER BY id {'DESC' if newest else 'ASC'} LIMIT ?",
            (after, *kinds, limit),
        ).fetchall()
        return [Event(id=id_, t=t, kind=kind, data=json.loads(data)) for id_, t, kind, data in rows]

    @property
    def cursor(self) -> int:
        """The id of the newest event; 0 without events."""
        (newest,) = self._index.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
        return int(newest)

    def close(self) -> None:
        """Close the files; idempotent."""
        self._close()
        self._index.close()

    def _read(self, name: str, at: int, size: int) -> Iterator[bytes]:
        with (self.folder / name).open("rb") as file:
            file.seek(at)
            while size > 0 and (octets := file.read(min(size, _CHUNK))):
                size -= len(octets)
                yield octets

    def _tags(self, id_: int) -> tuple[str, ...]:
        return tuple(tag for (tag,) in self._index.execute("SELECT tag FROM tags WHERE message = ?", (id_,)))


def _addresses(envelope: Envelope, fields: head.Head) -> Iterator[tuple[str, str, str]]:
    """Yield field, folded address, and folded name and address.

    Fields of the envelope are ``sender``, ``rcpt``, and ``hidden`` for recipients that no header field names.
    """
    hidden = set(not_named(envelope.recipients, (one.address for one in (*fields.to, *fields.cc, *fields.bcc))))
    rows = [("sender", "", envelope.sender)]
    rows += [("hidden" if one in hidden else "rcpt", "", one) for one in dict.fromkeys(envelope.recipients)]
    for field in ("author", "to", "cc", "bcc", "reply_to"):
        rows += [(field, mailbox.name, mailbox.address) for mailbox in getattr(fields, field)]
    for field, name, given in rows:
        address = fold_address(given)
        yield field, address, fold(name) + BETWEEN + fold(address)
