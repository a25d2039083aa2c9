"""Sessions of strangers against the protocol itself, with a model that says which replies and messages are right."""

import asyncio
import random
import re
import ssl
from base64 import b64decode
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agents.content import Content, DataReader
from orchestrator.agents.contract import SinkSettings
from orchestrator.agents.inbox.session import InboxReception, InboxSession, InboxSettings
from orchestrator.agents.inbox.spool import Spool
from orchestrator.agents.ledger import Books
from orchestrator.agents.ruled import RuledSession, ruled
from orchestrator.agents.rules import Rules
from orchestrator.agents.session import COMMAND_LIMIT, Reception, Session

TRANSACTION = b"MAIL FROM:<a@d0.test>\r\nRCPT TO:<b@d1.test>\r\nDATA\r\n"
LINES: dict[bytes, str] = {
    **dict.fromkeys((b"EHLO x", b"HELO x"), "hello"),
    **dict.fromkeys((b"NOOP", b"VRFY x", b"HELP"), "2"),
    **dict.fromkeys((b"MAIL FROM:<a@d0.test>", b"MAIL FROM:<>", b"MAIL FROM:<a@d0.test> SIZE=9 BODY=8BITMIME"), "mail"),
    **dict.fromkeys((b"EHLO", b"EXPN x", b"STARTTLS x", b"MAIL FROM:<\xff@d0.test>", b"DATA x", b""), "5"),
    "MAIL FROM:<ü@d0.test> SMTPUTF8".encode(): "mail_utf8",
    b"RCPT TO:<b@d1.test>": "rcpt",
    b"RCPT TO:<" + b"x" * 300 + b"@d1.test>": "5",
    b"RSET": "rset",
    b"DATA": "data",
    b"QUIT": "quit",
    b"STARTTLS": "tls",
    b"AUTH PLAIN AHgAeQ==": "plain",
    b"AUTH LOGIN": "login",
}
"""What a command line does, or the first digit of its reply; any other line is answered with 5xx."""
JUNK = [
    *(b"eA==\r\n", b"*\r\n", b"BDAT 3 LAST\r\nabc", b"x" * (COMMAND_LIMIT + 10), b"x" * 5000 + b"\r\n", b"\r", b"\n"),
    *(b"\r\n", b"\0", b".\r\n", b".", b"\r\n.\r\n", b"From: x\r\n\r\nbody\r\n", b"\xff\xfe\x80" * 50),
    *(b"..\r\n", b"A" * 70_000 + b"\r\n", b"EHLO x\n", b"MAIL FROM:<a@d0.test>\r", b"DATA\n", b"NOOP\r\n" * 200),
]
SMUGGLED = [bytes(s) for n in range(1, 6) for s in product(b"\r\n.", repeat=n)]
"""Every text of up to five CR, LF and dots: what some servers take for the end of the data is among them."""
WORDS = [*(line + b"\r\n" for line in LINES if line != b"QUIT"), TRANSACTION, *JUNK, b"\n.\n", b"\n.\r\n", b"\r\n.\n"]
HIGH_WATER = 256


class Model:
    """A server as the RFCs describe it, given all octets of a client at once."""

    def __init__(self, text: bytes, *, inbox: bool, tls: bool) -> None:
        self.inbox, self.tls = inbox, tls
        self.replies = "2"
        """First digit of each reply."""
        self.kept: list[bytes] = []
        self._greeted = self._open = self._user = False
        self._recipients = 0
        self._exchange = ""
        """What the next line of AUTH LOGIN is."""
        self._text: bytes | None = text
        while self._text and (end := self._text.find(b"\r\n")) >= 0:
            line, self._text = self._text[:end], self._text[end + 2 :]
            self.replies += self._answer(line)

    def _answer(self, line: bytes) -> str:
        short, exchange, self._exchange = len(line) <= COMMAND_LIMIT, self._exchange, ""
        if exchange and short:
            return self._login(line, exchange)
        does = LINES.get(line, "5") if short else "5"
        act: Callable[[], str] | None = getattr(self, f"_{does}", None)
        return act() if act else does

    def _hello(self) -> str:
        self._greeted = True
        return self._rset()

    def _rset(self) -> str:
        self._open, self._recipients = False, 0
        return "2"

    def _mail(self, *, known: bool = True) -> str:
        good = known and self._greeted and not self._open
        self._open = self._open or good
        return "2" if good else "5"

    def _mail_utf8(self) -> str:
        return self._mail(known=self.inbox)

    def _rcpt(self) -> str:
        self._recipients += self._open
        return "2" if self._open else "5"

    def _data(self) -> str:
        if not self._recipients:
            return "5"
        content, end, self._text = (b"\r\n" + (self._text or b"")).partition(b"\r\n.\r\n")
        if not end:
            return "3"
        self.kept.append((content + b"\r\n").replace(b"\r\n.", b"\r\n")[2:])
        return "3" + self._rset()

    def _quit(self) -> str:
        self._text = None
        return "2"

    def _tls(self) -> str:
        return self._quit() if self.tls else "5"

    @property
    def _may_log_in(self) -> bool:
        return self.inbox and self._greeted and not self._open and not self._user

    def _plain(self) -> str:
        if not self._may_log_in:
            return "5"
        self._user = True
        return "2"

    def _login(self, line: bytes = b"", step: str = "") -> str:
        if step:
            good = re.fullmatch(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==)?", line) and b64decode(line).isascii()
        else:
            good = self._may_log_in
        self._user = self._user or (step == "password" and bool(good))
        self._exchange = {"": "name", "name": "password"}.get(step, "") if good else ""
        return ("3" if self._exchange else "2") if good else "5"


class Wire:
    """A transport to a client that reads nothing until it is told to."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.unread = 0
        self.session: Session | None = None

    def write(self, data: bytes) -> None:
        """Keep it."""
        before, self.unread = self.unread, self.unread + len(data)
        self.written += data
        if before <= HIGH_WATER < self.unread and self.session:
            self.session.pause_writing()

    async def read(self) -> None:
        """Read all that is written."""
        session = cast("Session", self.session)
        while (self.unread > HIGH_WATER or isinstance(session._delay, asyncio.Handle)) and not self.closed:
            if self.unread > HIGH_WATER:
                self.unread = 0
                session.resume_writing()
            await asyncio.sleep(0)
        self.unread = 0

    def close(self) -> None:
        """Close."""
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        """Say whether it is closed."""
        return self.closed

    def get_extra_info(self, name: str) -> Any:
        """Return what a socket's transport would."""
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 25)}.get(name)

    def pause_reading(self) -> None:
        """Do nothing: data may come that were on their way."""

    resume_reading = pause_reading


class Recorded(Content):
    """Content that a test can look at."""

    __slots__ = ("text",)

    def __init__(self) -> None:
        super().__init__()
        self.text = b""

    def take(self, text: bytes) -> None:
        """Record a piece."""
        self.text += text
        super().take(text)


class World:
    """A server without sockets."""

    inbox = False

    def __init__(self, make: Callable[[], Session], *, tls: bool = False) -> None:
        self.make, self.tls = make, tls
        self.runner = asyncio.Runner()

    def talk(self, pieces: list[bytes], chance: random.Random | None = None) -> tuple[bytes, list[bytes]]:
        """Have one session; return its replies, and the messages that it left, which are then forgotten.

        The client reads after each piece; with ``chance`` only now and then.
        """
        return self.runner.run(self._talk(pieces, chance))

    async def _talk(self, pieces: list[bytes], chance: random.Random | None) -> tuple[bytes, list[bytes]]:
        session, wire = self.make(), Wire()
        wire.session = session
        session.connection_made(cast("asyncio.BaseTransport", wire))
        for piece in pieces:
            if not wire.closed:
                session.data_received(piece)
            if chance is None or chance.random() < 0.2:
                await wire.read()
        await wire.read()
        session.connection_lost(None)
        return wire.written, self.kept()

    def kept(self) -> list[bytes]:
        """Return the messages of the last session, and forget them."""
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        """Name files that no message needs."""
        return []

    def check(self, text: bytes, pieces: list[bytes], chance: random.Random | None = None) -> None:
        """Have a session, and compare it with the model."""
        replies, kept = self.talk(pieces, chance)
        codes = "".join(line[:1].decode() for line in replies.splitlines() if line[3:4] == b" ")
        right = Model(text, inbox=self.inbox, tls=self.tls)
        assert (codes, kept) == (right.replies, right.kept), text[:3000]


class InboxWorld(World):
    """An inbox without sockets."""

    inbox = True

    def __init__(self, folder: Path, tls: ssl.SSLContext | None) -> None:
        self.spool = Spool(folder, most_b=1 << 40, most_messages=1 << 40)
        reception = InboxReception(self.spool, InboxSettings(), Rules([]), 1000, tls)
        super().__init__(lambda: InboxSession(reception), tls=tls is not None)

    def kept(self) -> list[bytes]:
        """Return the messages of the last session, and delete them."""
        kept = [self.spool.raw(stored.id) for stored in reversed(self.spool.find(limit=1000))]
        self.spool.delete()
        return kept

    def leftovers(self) -> list[str]:
        """Name files that no message needs."""
        return [path.name for path in self.spool.folder.iterdir() if path.name.startswith("incoming-")]


class SinkWorld(World):
    """A sink without sockets, with rules or without."""

    def __init__(self, kind: type[Session], reception: Reception) -> None:
        taken: list[bytes] = []
        self._taken = taken

        class Recording(kind):  # type: ignore[valid-type, misc]
            """Records each message."""

            def _begin(self) -> DataReader:
                return Recorded()

            def _take(self, content: DataReader) -> tuple[bytes, float]:
                taken.append(cast("Recorded", content).text[2:])
                return cast("tuple[bytes, float]", super()._take(content))

        super().__init__(lambda: Recording(reception))

    def kept(self) -> list[bytes]:
        """Return the messages of the last session, and forget them."""
        kept = self._taken.copy()
        self._taken.clear()
        return kept


RULES = '[{"to": "nobody@d9.test", "then": "reject"}]'


@pytest.fixture(scope="module", params=["inbox", "inbox with TLS", "sink", "sink with rules"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    sink = Books([], None), SinkSettings(), 1000, None
    match request.param:
        case "sink":
            made: World = SinkWorld(Session, Reception(*sink))
        case "sink with rules":
            made = SinkWorld(RuledSession, ruled(*sink, RULES))
        case kind:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if "TLS" in kind else None
            made = InboxWorld(tmp_path_factory.mktemp("fuzz"), context)
    yield made
    made.runner.close()


def test_a_long_pipeline_lets_others_have_their_turn_soon() -> None:
    async def scene() -> int:
        session, wire = Session(Reception(Books([], None), SinkSettings(), 10)), Wire()
        session.connection_made(cast("asyncio.BaseTransport", wire))
        session.data_received(b"NOOP\r\n" * 10_000)
        answered = wire.written.count(b"250 ")
        session.connection_lost(None)
        return answered

    assert 0 < asyncio.run(scene()) < 100


def cut(text: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(ends)]


def octets(text: bytes) -> list[bytes]:
    return [bytes([octet]) for octet in text]


def without_ids(replies: bytes) -> bytes:
    return re.sub(rb"Ok: message \d+", b"Ok", replies)


@given(st.lists(st.sampled_from(WORDS), max_size=30), st.lists(st.integers(0, 1 << 20), max_size=10))
@settings(max_examples=300, deadline=None)
def test_the_pieces_make_no_difference_and_nothing_is_left(world: World, words: list[bytes], places: list[int]) -> None:
    text = b"".join(words)
    world.check(text, [text])
    world.check(text, cut(text, places))
    assert world.leftovers() == []


def wire(smuggled: bytes) -> bytes:
    """Return a session with a text in its message that may look like the end, and commands behind it."""
    return b"EHLO x\r\n" + TRANSACTION + b"a" + smuggled + TRANSACTION + b"evil\r\n.\r\nQUIT\r\n"


def test_every_sequence_of_cr_lf_and_dots_ends_the_data_where_rfc_5321_says(world: World) -> None:
    for smuggled in SMUGGLED:
        text = wire(smuggled)
        for pieces in ([text], octets(text)):
            world.check(text, pieces)


@pytest.mark.long
def test_every_sequence_in_every_chunking(world: World) -> None:
    for smuggled in SMUGGLED:
        text = wire(smuggled)
        first = text.index(b"a" + smuggled)
        places = range(first + 1, first + len(smuggled) + 2)
        for chosen in (some for n in range(len(places) + 1) for some in combinations(places, n)):
            world.check(text, cut(text, list(chosen)))


def messages(chance: random.Random) -> tuple[bytes, list[bytes]]:
    """Return a session of messages full of sequences that some servers take for an end, and the messages."""
    sent, text = [], b"EHLO x\r\n"
    for _ in range(chance.randint(1, 4)):
        choices = [*chance.choices(SMUGGLED, k=9), TRANSACTION, b"x" * chance.randint(0, 2000), b"\0", b"\xff\xe9"]
        message = b"".join(chance.choices(choices, k=chance.randint(0, 20)))
        message += b"" if not message or message.endswith(b"\r\n") else b"\r\n"
        sent.append(message)
        stuffed = (b"." if message.startswith(b".") else b"") + message.replace(b"\r\n.", b"\r\n..")
        text += TRANSACTION + stuffed + b".\r\n"
    return text + b"QUIT\r\n", sent


def one(world: World, chance: random.Random) -> None:
    """Have one session of a kind that chance picks."""
    kind = chance.random()
    if kind < 0.4:
        text, sent = messages(chance)
        assert Model(text, inbox=world.inbox, tls=world.tls).kept == sent
    else:
        text = b"".join(chance.choices(WORDS, k=chance.randint(0, 20)))
        if kind > 0.9995:
            text += chance.choice([b"", b"EHLO x\r\n" + TRANSACTION]) + b"y" * 10_000_000 + b"\r\n.\r\nNOOP\r\n"
    pieces = (
        octets(text) if kind < 0.1 and len(text) < 3000 else cut(text, [chance.randrange(1 << 24) for _ in range(8)])
    )
    world.check(text, pieces, chance)


def test_no_message_is_split_or_changed(world: World) -> None:
    for seed in range(200):
        one(world, random.Random(seed))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_50000_sessions(world: World) -> None:
    """Half commands, NUL, bare CR and LF, pipelines, lines of 10 MB, an octet at a time, clients that do not read."""
    chance = random.Random(0)
    for _ in range(50_000):
        one(world, chance)
    assert world.leftovers() == []
