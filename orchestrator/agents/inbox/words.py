"""Full-text index of an inbox: words of subjects, addresses and texts, indexed after mail has been accepted.

The index is a contentless FTS5 table (sqlite.org/fts5.html): it holds words and their places, but no texts. Entries of
deleted messages stay until four fifths of the index are such entries. No search finds them: ids are never reused.
"""

import re
import sqlite3
import time
from collections.abc import Callable, Iterator

from orchestrator.agents.inbox import mime
from orchestrator.agents.inbox.folding import BETWEEN, fold

MATCHES = "id IN (SELECT rowid FROM words WHERE words MATCH ? AND rowid >= (SELECT min(id) FROM messages))"
"""A condition on the table ``messages``; its parameter is an FTS5 query."""
LIMIT = 1024 * 1024
"""Number of octets, from the start of a message, whose words are indexed."""
SLICE_S = 0.02
"""Duration of one step of ``Words.fill``, in seconds. A step first finishes its current message."""
_LONG = re.compile(r"[^\W_]{3}[\W_]*$")  # a shorter prefix matches so many words that a search takes a second
_SCHEMA = """
CREATE VIRTUAL TABLE IF NOT EXISTS words
USING fts5 (text, has, content = '', tokenize = "unicode61 remove_diacritics 0")
"""
_NEXT = """
SELECT id, subject, message_id, (SELECT group_concat(text, ?) FROM addresses WHERE message = id AND field != 'sender')
FROM messages WHERE id > ? ORDER BY id LIMIT 64
"""

_DESCRIBE = "UPDATE messages SET snippet = ?, attachments = ? WHERE id = ?"


def _unicode(text: str) -> str:
    """Return a text without lone surrogates."""
    return text.encode(errors="replace").decode()


def matching(text: str) -> str:
    """Return the FTS5 query for a phrase; a last word of three letters or more matches as a prefix."""
    quoted = fold(text).replace('"', '""').replace("\0", " ")
    return f'text : "{quoted}"' + (" *" if _LONG.search(text) else "")


class Words:
    """The index of one spool, in the spool's database."""

    def __init__(self, index: sqlite3.Connection, read: Callable[[int], bytes]) -> None:
        self._index, self._read = index, read
        index.execute(_SCHEMA)
        newest = index.execute("SELECT rowid FROM words ORDER BY rowid DESC LIMIT 1").fetchone()
        self._last = newest[0] if newest else 0
        (entries,) = index.execute("SELECT count(*) FROM words").fetchone()
        (live,) = index.execute("SELECT count(*) FROM messages WHERE id <= ?", (self._last,)).fetchone()
        self._live, self._dead = live, entries - live

    def behind(self, known: int = 0) -> int | None:
        """Return the id of the newest message if this message is not yet indexed and is newer than ``known``."""
        (newest,) = self._index.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
        return int(newest) if newest > max(self._last, known) else None

    def fill(self, where: str = MATCHES) -> Iterator[None]:
        """Index all pending messages if ``where`` uses the word index; yields about every ``SLICE_S``."""
        newest = self.behind() if MATCHES in where else None
        while newest and self._last < newest and (rows := self._index.execute(_NEXT, (BETWEEN, self._last)).fetchall()):
            self._add(rows)
            yield

    def _add(self, rows: list[tuple[int, str, str, str | None]]) -> None:
        end, added = time.monotonic() + SLICE_S, list[int]()
        with self._index:
            self._index.execute("BEGIN")
            for id_, *head in rows:
                body = mime.read(self._read(id_))
                texts = [*filter(None, head), *body.words]
                text, snippet = _unicode(BETWEEN.join(map(fold, texts))), _unicode(body.snippet)
                has = " ".join(kind for kind in ("attachments", "inline") if getattr(body, kind))
                self._index.execute("INSERT INTO words (rowid, text, has) VALUES (?, ?, ?)", (id_, text, has))
                self._index.execute(_DESCRIBE, (snippet, len(body.attachments), id_))
                added.append(id_)
                if time.monotonic() > end:
                    break
        self._last = added[-1]
        self._live += len(added)

    def forget(self, ids: list[int]) -> None:
        """Note the deletion of messages; rebuild the index if four fifths of its entries belong to deleted messages."""
        gone = sum(id_ <= self._last for id_ in ids)
        self._live -= gone
        self._dead += gone
        if self._dead > 4 * self._live:
            self._index.execute("INSERT INTO words (words) VALUES ('delete-all')")
            self._last = self._live = self._dead = 0
