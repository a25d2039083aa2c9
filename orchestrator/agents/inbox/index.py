"""Index of a spool's messages: an SQLite database of envelopes, header fields, marks and tags."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from orchestrator.agents.inbox import head
from orchestrator.agents.inbox.folding import BETWEEN, fold, fold_address, not_named
from orchestrator.agents.inbox.stored import Envelope, Stored
from orchestrator.agents.inbox.words import Words

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
"""

_COLUMNS = "t, sender, client, helo, user, tls, size, file, at, subject, message_id, head, recipients"
_INSERT = f"INSERT INTO messages ({_COLUMNS}) VALUES ({', '.join('?' * 13)})"  # noqa: S608
_NEWER = """
WITH messages AS NOT MATERIALIZED (SELECT * FROM main.messages WHERE id > {0}),
     addresses AS NOT MATERIALIZED (SELECT * FROM main.addresses WHERE message > {0}),
     tags AS NOT MATERIALIZED (SELECT * FROM main.tags WHERE message > {0})
"""
"""Start of a query: the rest of the query sees only messages with a larger id, and reads no other rows."""


class Index:
    """The messages of one spool. ``where`` is a condition on the table ``messages`` (``search.where``)."""

    def __init__(self, file: Path, read: Callable[[int], bytes]) -> None:
        self._index = sqlite3.connect(file, isolation_level=None)
        self._index.execute("PRAGMA journal_mode = WAL")
        self._index.execute("PRAGMA synchronous = OFF")
        self._index.execute("PRAGMA foreign_keys = ON")
        self._index.executescript(_SCHEMA)
        self._index.create_function("fold", 1, fold, deterministic=True)
        self.count, self.size = self._index.execute("SELECT count(*), coalesce(sum(size), 0) FROM messages").fetchone()
        """Number of messages, and total of their octets."""
        self.words = Words(self._index, read)
        """Full-text index; a search first indexes the messages that are not yet indexed."""
        self.changed: Callable[[], None] = lambda: None
        """Called after a change of marks or tags."""

    def insert(self, t: float, place: tuple[int, str, int], envelope: Envelope, fields: head.Head) -> int:
        """Add a message, and return its id; ``place``: size of the message, name of its file, offset in the file.

        Raises:
            sqlite3.Error: the write failed; nothing is added.
        """
        row = (
            *(t, envelope.sender, envelope.client, envelope.helo, envelope.user, envelope.tls),
            *(*place, fold(fields.subject), fields.message_id),
            *(json.dumps(fields.to_dict()), json.dumps(envelope.recipients)),
        )
        with self._index:
            self._index.execute("BEGIN")
            id_ = self._index.execute(_INSERT, row).lastrowid or 0
            self._index.executemany(
                "INSERT INTO addresses VALUES (?, ?, ?, ?)", [(id_, *row) for row in _addresses(envelope, fields)]
            )
        self.count += 1
        self.size += place[0]
        return id_

    def find(self, where: str = "1", args: Sequence[object] = (), *, limit: int = 50, start: int = 0) -> list[Stored]:
        """Return messages, the newest first."""
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
        """Rename a tag in all messages; ``new`` is ``None``: remove the tag from all messages."""
        if new is None:
            self._index.execute("DELETE FROM tags WHERE tag = ?", (tag,))
        else:
            self._index.execute("UPDATE OR REPLACE tags SET tag = ? WHERE tag = ?", (new, tag))
        self.changed()

    def tags(self) -> list[str]:
        """Return the tags in use, sorted."""
        return [tag for (tag,) in self._index.execute("SELECT DISTINCT tag FROM tags ORDER BY tag COLLATE NOCASE")]

    def remove(self, where: str, args: Sequence[object]) -> tuple[list[int], list[str]]:
        """Remove the messages that fulfil a condition; return their ids, and the files without remaining messages."""
        self._catch_up(where)
        files = self._index.execute(f"SELECT DISTINCT file FROM messages WHERE {where}", args).fetchall()  # noqa: S608
        gone = self._index.execute(
            f"DELETE FROM messages WHERE {where} RETURNING id, size",  # noqa: S608
            args,
        ).fetchall()
        self.count -= len(gone)
        self.size -= sum(size for _, size in gone)
        ids = [id_ for id_, _ in gone]
        self.words.forget(ids)
        kept = "SELECT 1 FROM messages WHERE file = ? LIMIT 1"
        return ids, [name for (name,) in files if not self._index.execute(kept, (name,)).fetchone()]

    def place(self, id_: int) -> tuple[str, int, int]:
        """Return the file of a message, the offset in the file, and the size of the message.

        Raises:
            KeyError: no such message is kept.
        """
        found = self._index.execute("SELECT file, at, size FROM messages WHERE id = ?", (id_,)).fetchone()
        if found is None:
            raise KeyError(id_)
        name, at, size = found
        return name, at, size

    @property
    def in_use_b(self) -> int:
        """Octets of the database's pages in use."""
        pages, unused, page_b = (
            self._index.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - unused) * page_b)

    def _tags(self, id_: int) -> tuple[str, ...]:
        return tuple(tag for (tag,) in self._index.execute("SELECT tag FROM tags WHERE message = ?", (id_,)))


def _addresses(envelope: Envelope, fields: head.Head) -> Iterator[tuple[str, str, str]]:
    """Yield three texts for each address: field, folded address, folded display name with the address.

    Fields for the envelope are ``sender``, ``rcpt``, and (for recipients that no header field names) ``hidden``.
    """
    hidden = set(not_named(envelope.recipients, (one.address for one in (*fields.to, *fields.cc, *fields.bcc))))
    rows = [("sender", "", envelope.sender)]
    rows += [("hidden" if one in hidden else "rcpt", "", one) for one in dict.fromkeys(envelope.recipients)]
    for field in ("author", "to", "cc", "bcc", "reply_to"):
        rows += [(field, mailbox.name, mailbox.address) for mailbox in getattr(fields, field)]
    for field, name, given in rows:
        address = fold_address(given)
        yield field, address, fold(name) + BETWEEN + fold(address)
