"""Reception of the relays' logs over TCP (``images/postfix/send-log``); keeps the lines that contain a queue id.

A relay connects to the inbox and sends ``log ID``, then ``NUMBER TIME TEXT`` for each line since the start of its log.
After a reconnect, the relay sends all lines again. The inbox skips the numbers it has, and counts missing numbers.
"""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydantic import BaseModel, Field

from orchestrator.agents.output import complain

PORT = 8026
"""TCP port on which an inbox receives the logs of relays."""
LOG = "log"
"""Kind of news (``feed``): further lines have come, or a relay has connected or disconnected."""
MOST_TEXT = 64 * 1024 * 1024
"""Maximum characters of the kept lines of all relays together; the oldest lines are removed first."""
_LONGEST = 16 * 1024
"""Maximum octets of a line; no relay sends a longer line."""
_PRUNED = 1000
"""Number of lines removed in one step."""

_HELLO = re.compile(rb"log ([\w.-]{1,64})")
_LINE = re.compile(rb"(\d{1,15}) (\d{1,12}) (.*)", re.DOTALL)
_QUEUE_ID = re.compile(r"(?<=[ =])(?![a-z]+\b)[0-9A-Za-z]{6,20}(?=[:,)]|$)")
"""Pattern of short and long queue ids (postconf(5), enable_long_queue_ids); other words that match do no harm."""
_RECEIVED = re.compile(r"\sid ([0-9A-Za-z]+)\b")

_SCHEMA = """
CREATE TABLE lines (
    n INTEGER PRIMARY KEY, queue_id TEXT NOT NULL, relay TEXT NOT NULL, t INTEGER NOT NULL, text TEXT NOT NULL
);
CREATE INDEX by_queue_id ON lines (queue_id);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a relay's log."""

    t: int
    """Unix time, in seconds."""
    text: str


class MessageLog(BaseModel):
    """Lines of a relay's log about one message."""

    relay: str | None = Field(description="node that the message came from; null: no relay of the bed")
    queue_id: str = Field(description="of the message in the relay")
    lines: list[LogLine]
    problem: str = Field(description="why there are no lines, or some may be missing; empty: no reason is known")


@dataclass(slots=True, eq=False)
class Relay:
    """One relay of the bed, and the state of its log."""

    name: str
    addresses: frozenset[str]
    connections: set[asyncio.Transport] = field(default_factory=set)
    log_id: str = ""
    """Id of the newest log; empty: the relay has sent none."""
    newest: int = 0
    """Number of the newest line of the log ``log_id``."""
    dropped: int = 0
    """Number of lines that did not arrive, or that were removed."""

    @property
    def problem(self) -> str:
        """Why lines of the log may be missing; empty: no reason is known."""
        if not self.log_id:
            return f"Relay {self.name} has sent no log: it is not connected yet, or its settings lack `log_to`."
        dropped = f"{self.dropped} lines of the log of relay {self.name} are not kept." if self.dropped else ""
        away = "" if self.connections else f"Relay {self.name} is not connected: its newest lines are missing."
        return " ".join(filter(None, (dropped, away)))


class RelayLogs:
    """Log lines of all relays that contain a queue id, in a file. The constructor empties the file. Not thread-safe.

    ``relays``: name -> addresses. ``changed`` is called after any news of kind ``LOG``.
    """

    def __init__(
        self,
        file: Path,
        relays: Mapping[str, Iterable[str]],
        changed: Callable[[], None],
        *,
        most_text: int = MOST_TEXT,
    ) -> None:
        self.relays = [Relay(name, frozenset(addresses)) for name, addresses in relays.items()]
        self.changed = changed
        self._most_text = most_text
        self._text = 0
        """Characters of text that are kept."""
        file.unlink(missing_ok=True)
        self._index = sqlite3.connect(file, isolation_level=None)
        self._index.execute("PRAGMA journal_mode = MEMORY")
        self._index.execute("PRAGMA synchronous = OFF")
        self._index.executescript(_SCHEMA)

    def about(self, client: str, fields: Iterable[tuple[str, str]]) -> MessageLog:
        """Return the lines about a message that came from ``client``.

        The queue id is in the message's newest Received field, which the relay has added (RFC 5321, 4.4).
        """
        received = next((value for name, value in fields if name.lower() == "received"), "")
        relay, queued = self.at(client), _RECEIVED.search(received)
        if relay is None or queued is None:
            problem = f"The message came from {client or 'HTTP'}, and not through a relay of the bed."
            return MessageLog(relay=None, queue_id="", lines=[], problem=problem)
        lines = self.lines(relay, queued[1])
        return MessageLog(relay=relay.name, queue_id=queued[1], lines=lines, problem=relay.problem)

    def at(self, address: str) -> Relay | None:
        """Return the relay with this address."""
        return next((relay for relay in self.relays if address in relay.addresses), None)

    def lines(self, relay: Relay, queue_id: str) -> list[LogLine]:
        """Return the lines that contain a queue id, the oldest first."""
        query = "SELECT t, text FROM lines WHERE queue_id = ? AND relay = ? ORDER BY n"
        return [LogLine(t=t, text=text) for t, text in self._index.execute(query, (queue_id, relay.name))]

    def begin(self, relay: Relay, log_id: str) -> None:
        """Expect the lines of this log, from its first line on; the lines of an earlier log are kept."""
        if relay.log_id != log_id:
            relay.log_id, relay.newest = log_id, 0
        self.changed()

    def add(self, relay: Relay, lines: Iterable[tuple[int, int, str]]) -> None:
        """Keep lines of the current log (number, Unix time, text); lines that were received before are skipped."""
        rows = []
        for number, t, text in lines:
            if number <= relay.newest:
                continue
            relay.dropped += number - relay.newest - 1
            relay.newest = number
            rows += [(queue_id, relay.name, t, text) for queue_id in set(_QUEUE_ID.findall(text))]
        if not rows:
            return
        try:
            with self._index:
                self._index.execute("BEGIN")
                self._index.executemany("INSERT INTO lines (queue_id, relay, t, text) VALUES (?, ?, ?, ?)", rows)
            self._text += sum(len(text) for *_, text in rows)
            while self._text > self._most_text:
                self._prune()
        except sqlite3.Error as error:
            relay.dropped += len(rows)
            complain(f"lines of the log of relay {relay.name} not kept: {error}")
        self.changed()

    def _prune(self) -> None:
        """Remove the oldest lines."""
        oldest = "SELECT n FROM lines ORDER BY n LIMIT ?"
        query = f"DELETE FROM lines WHERE n IN ({oldest}) RETURNING relay, length(text)"  # noqa: S608
        gone = self._index.execute(query, (_PRUNED,)).fetchall()
        self._text -= sum(length for _, length in gone)
        for relay in self.relays:
            relay.dropped += sum(name == relay.name for name, _ in gone)

    def close(self) -> None:
        """End the connections of the relays."""
        for relay in self.relays:
            for transport in relay.connections:
                transport.abort()


class LogReception(asyncio.Protocol):
    """One connection of a relay; the connection of any other client is reset."""

    def __init__(self, logs: RelayLogs) -> None:
        self._logs = logs
        self._relay: Relay | None = None
        self._begun = False
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find the relay that connected; reset the connection of any other client."""
        self._transport = cast("asyncio.Transport", transport)
        self._relay = self._logs.at(transport.get_extra_info("peername")[0])
        if self._relay is None:
            self._transport.abort()
        else:
            self._relay.connections.add(self._transport)

    def data_received(self, data: bytes) -> None:
        """Keep the complete lines; close the connection at the first octets that are not a valid line."""
        relay = self._relay
        if relay is None or self._transport.is_closing():
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines and not self._begun:
            hello = _HELLO.fullmatch(lines.pop(0))
            if hello is None:
                self._transport.abort()
                return
            self._begun = True
            self._logs.begin(relay, hello[1].decode("ascii", "replace"))
        found = [_LINE.fullmatch(line) for line in lines]
        self._logs.add(relay, [(int(m[1]), int(m[2]), m[3].decode(errors="replace")) for m in found if m])
        if None in found or len(self._rest) > _LONGEST:
            complain(f"relay {relay.name} sent something that is not a line of a log")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Mark the relay as disconnected."""
        if self._relay is not None:
            self._relay.connections.discard(self._transport)
            self._logs.changed()
