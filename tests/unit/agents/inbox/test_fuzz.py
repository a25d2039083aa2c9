"""Sessions of strangers against the protocol itself: no crash, the same whatever the pieces, no message changed."""

import asyncio
import random
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agents.inbox.session import InboxReception, InboxSession, InboxSettings
from orchestrator.agents.inbox.spool import Spool
from orchestrator.agents.rules import Rules
from orchestrator.agents.session import COMMAND_LIMIT

WORDS = [
    *(b"EHLO x\r\n", b"HELO x\r\n", b"EHLO\r\n", b"DATA\r\n", b"RSET\r\n", b"NOOP\r\n", b"VRFY x\r\n", b"HELP\r\n"),
    *(b"MAIL FROM:<a@d0.test>\r\n", b"MAIL FROM:<>\r\n", b"MAIL FROM:<a@d0.test> SIZE=9 BODY=8BITMIME\r\n"),
    *(b"RCPT TO:<b@d1.test>\r\n", b"RCPT TO:<" + b"x" * 300 + b"@d1.test>\r\n", b"EXPN x\r\n", b"STARTTLS\r\n"),
    *(b"AUTH PLAIN AHgAeQ==\r\n", b"AUTH LOGIN\r\n", b"eA==\r\n", b"*\r\n", b"BDAT 3 LAST\r\nabc"),
    *(b"x" * (COMMAND_LIMIT + 10), b"x" * 5000 + b"\r\n", b"\r", b"\n", b"\r\n", b"\0", b".\r\n", b".", b"\r\n.\r\n"),
    *(b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r.\r\n", b"..\r\n", b"MAIL FROM:<\xff@d0.test>\r\n"),
    *("MAIL FROM:<ü@d0.test> SMTPUTF8\r\n".encode(), b"From: x\r\n\r\nbody\r\n", b"\xff\xfe\x80" * 50),
    b"A" * 70_000 + b"\r\n",
]
SMUGGLED = [
    *(b"\n.\n", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\n.\r", b"\r.\r", b"\r\n..\r\n", b"\n..\r\n"),
    b"\r\n.\0\r\n",
]
"""What some servers take for the end of the data."""


class Wire:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written += data

    def close(self) -> None:
        """Close."""
        self.closed = True

    abort = close

    def get_extra_info(self, name: str) -> Any:
        """Return what a socket's transport would."""
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 25)}.get(name)

    def pause_reading(self) -> None:
        """Nothing is delayed here."""

    resume_reading = pause_reading


class World:
    """An inbox without sockets."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder, most_b=1 << 40, most_messages=1 << 40)
        self.reception = InboxReception(self.spool, InboxSettings(), Rules([]), 1000, None)

    def talk(self, pieces: list[bytes]) -> tuple[bytes, list[bytes]]:
        """Have one session; return its replies, and the messages that it left, which are then deleted."""
        session, wire = InboxSession(self.reception), Wire()
        session.connection_made(cast("asyncio.BaseTransport", wire))
        for piece in pieces:
            if not wire.closed:
                session.data_received(piece)
        session.connection_lost(None)
        kept = [self.spool.raw(stored.id) for stored in reversed(self.spool.find(limit=1000))]
        self.spool.delete()
        return wire.written, kept

    def leftovers(self) -> list[str]:
        """Name files that no message needs."""
        return [path.name for path in self.spool.folder.iterdir() if path.name.startswith("incoming-")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("fuzz"))


def cut(text: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(ends)]


def without_ids(replies: bytes) -> list[bytes]:
    return [b"250 2.0.0 Ok" if line.startswith(b"250 2.0.0 Ok: message") else line for line in replies.split(b"\r\n")]


@given(st.lists(st.sampled_from(WORDS), max_size=30), st.lists(st.integers(0, 1 << 20), max_size=10))
@settings(max_examples=300, deadline=None)
def test_the_pieces_make_no_difference_and_nothing_is_left(world: World, words: list[bytes], places: list[int]) -> None:
    text = b"".join(words)
    replies, kept = world.talk([text])
    again, kept_again = world.talk(cut(text, places))
    assert (without_ids(again), kept_again) == (without_ids(replies), kept)
    assert world.leftovers() == []


def check_messages(world: World, chance: random.Random) -> None:
    """Send messages full of sequences that some servers take for an end; each has to come out as it was."""
    messages, text = [], b"EHLO x\r\n"
    for _ in range(chance.randint(1, 4)):
        choices = [*SMUGGLED, b"MAIL FROM:<evil@d0.test>\r\n", b"x" * chance.randint(0, 2000), b"\r\n", b"."]
        parts = chance.choices(choices, k=chance.randint(0, 20))
        message = b"".join(parts)
        message += b"" if not message or message.endswith(b"\r\n") else b"\r\n"
        messages.append(message)
        stuffed = (b"." if message.startswith(b".") else b"") + message.replace(b"\r\n.", b"\r\n..")
        text += b"MAIL FROM:<a@d0.test>\r\nRCPT TO:<b@d1.test>\r\nDATA\r\n" + stuffed + b".\r\n"
    replies, kept = world.talk(cut(text + b"QUIT\r\n", [chance.randrange(1 << 20) for _ in range(8)]))
    assert kept == messages
    assert replies.endswith(b"221 2.0.0 Bye\r\n")


@pytest.mark.parametrize("seed", range(200))
def test_no_message_is_split_or_changed(world: World, seed: int) -> None:
    check_messages(world, random.Random(seed))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_100000_sessions(world: World) -> None:
    chance = random.Random(0)
    for _ in range(50_000):
        check_messages(world, chance)
        words = chance.choices(WORDS[:-1], k=chance.randint(0, 20))
        world.talk(cut(b"".join(words), [chance.randrange(1 << 20) for _ in range(5)]))
    assert world.leftovers() == []
