"""Events of an inbox: a bounded record in the database of the spool."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MOST_EVENTS = 200_000
"""Maximum number of kept events; the oldest are removed first."""
MOST_EVENTS_B = 64 * 1024 * 1024
"""Maximum octets of the data of all events; in a small spool, an eighth of the spool's limit."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, t REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event: a message came, an attempt was answered, messages were deleted, rules changed."""

    id: int
    """Cursor: a later event has a larger id."""
    t: float
    kind: str
    data: dict[str, Any]


class Events:
    """The newest events, in the database of a spool of at most ``spool_b`` octets."""

    def __init__(self, index: sqlite3.Connection, spool_b: int, clock: Callable[[], float]) -> None:
        self._index, self._spool_b, self._clock = index, spool_b, clock
        index.execute(_SCHEMA)
        (self._size,) = index.execute("SELECT coalesce(sum(length(data)), 0) FROM events").fetchone()
        """Octets of the data."""

    def record(self, kind: str, data: dict[str, Any]) -> Event:
        """Record an event."""
        now = self._clock()
        text = json.dumps(data)
        id_ = (
            self._index.execute("INSERT INTO events (t, kind, data) VALUES (?, ?, ?)", (now, kind, text)).lastrowid or 0
        )
        self._size += len(text)
        if id_ % 1000 == 0:
            self._forget("id <= ?", id_ - MOST_EVENTS)
        if self._size > min(MOST_EVENTS_B, self._spool_b // 8):
            self._forget("id <= (SELECT min(id) + 99 FROM events) AND id < ?", id_)
        return Event(id=id_, t=now, kind=kind, data=data)

    def _forget(self, where: str, id_: int) -> None:
        gone = self._index.execute(f"DELETE FROM events WHERE {where} RETURNING length(data)", (id_,))  # noqa: S608
        self._size -= sum(size for (size,) in gone)

    def since(
        self, after: int = 0, kinds: Sequence[str] = (), limit: int = 1000, *, newest: bool = False
    ) -> list[Event]:
        """Return events after a cursor, the oldest or the newest first; of all kinds by default."""
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
