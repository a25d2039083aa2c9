"""The stamped message, and reading it through without keeping it."""

from collections.abc import Callable
from email import message_from_bytes
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agents.content import HEAD_LIMIT, Content
from orchestrator.agents.wire import END, Composer, make_body, read_stamp, stuffed

PIECES = st.lists(st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"x", b"", b"..", b"\r\n.\r\n"]), max_size=40)


def read(data: bytes, cuts: list[int]) -> tuple[Content, bytes | None]:
    """Feed ``data`` in pieces cut at these places."""
    content = Content()
    rest: bytes | None = None
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in pairwise(places):
        if rest is None:
            rest = content.feed(data[start:stop])
        else:
            rest += data[start:stop]
    return content, rest


def by_lines(data: bytes) -> tuple[bytes, bytes] | None:
    """Read the data line by line, as RFC 5321 puts it (4.1.1.4, 4.5.2): the text and what follows it."""
    text = b""
    while b"\r\n" in data:
        line, data = data.split(b"\r\n", 1)
        if line == b".":
            return text, data
        text += line.removeprefix(b".") + b"\r\n"
    return None


@given(st.integers(2, 5000))
def test_a_body_has_its_size_and_is_made_of_lines(size: int) -> None:
    body = make_body(size)
    assert len(body) == size
    assert body.endswith(b"\r\n")
    lines = body.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line or len(line) > 998 for line in lines)


def test_a_body_has_lines_that_need_transparency() -> None:
    lines = make_body(2048).split(b"\r\n")
    assert b"." in lines
    assert b".." in lines
    assert stuffed(b".\r\na.\r\n..\r\n") == b"..\r\na.\r\n...\r\n"


@given(st.integers(2, 3000), st.integers(0, (1 << 27) - 1), st.lists(st.integers(0, 5000), max_size=12))
def test_a_message_arrives_whole_however_it_is_cut(size: int, seq: int, cuts: list[int]) -> None:
    composer = Composer("0badcafe", "load@d0.test", ["d0.test", "d1.test"], [size])
    data = composer.content(seq, 1, 17, 1_700_000_000_123)
    content, rest = read(data + b"QUIT\r\n", cuts)
    assert rest == b"QUIT\r\n"
    assert content.whole
    assert content.stamp is not None
    assert content.stamp[:4] == (b"0badcafe", seq, 17, 1_700_000_000_123)
    assert content.size == len(composer.letter(seq, 1, 17, 1_700_000_000_123))


def test_a_message_is_well_formed_mail() -> None:
    composer = Composer("0badcafe", "load@d0.test", ["d0.test", "d1.test"], [100])
    mail = message_from_bytes(composer.letter(5, 1, 0, 0))
    assert not mail.defects
    assert [mail[name] for name in ("From", "To", "Subject", "Message-ID")] == [
        "<load@d0.test>",
        "<user@d1.test>",
        "testbed 5",
        "<5.0badcafe@load.test>",
    ]
    assert mail["Date"]


@given(PIECES, st.lists(st.integers(0, 200), max_size=8))
def test_only_a_line_with_one_dot_ends_the_data(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    content, rest = read(data, cuts)
    expected = by_lines(data)
    if expected is None:
        assert rest is None
        return
    text, after = expected
    assert rest == after
    assert content.size == len(text)


@given(PIECES)
def test_any_body_keeps_its_checksum(pieces: list[bytes]) -> None:
    body = b"".join(pieces) + b"\r\n"
    head = b"X-Testbed: run=0badcafe seq=1 due=1 sent=1 len=%d crc=%08x\r\n\r\n" % (len(body), crc32(body))
    content, rest = read(stuffed(head + body)[:-2] + END, [])
    assert rest == b""
    assert content.whole


@pytest.mark.parametrize(
    "smuggled", [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r\n\0.\r\n", b"\r\r\n.\r\r\n"]
)
def test_nothing_else_ends_the_data(smuggled: bytes) -> None:
    attack = b"Subject: x\r\n\r\nbody" + smuggled + b"MAIL FROM:<evil@d0.test>\r\nRCPT TO:<user@d1.test>\r\nDATA\r\n"
    assert Content().feed(attack) is None


def test_a_relay_may_put_its_fields_on_top() -> None:
    composer = Composer("0badcafe", "load@d0.test", ["d0.test"], [700])
    received = b"Received: from load.test ([198.18.0.5])\r\n\tby relay.test with ESMTP id 1; now\r\n"
    content, _ = read(received * 5 + composer.content(9, 0, 1, 2), [3, 400, 431])
    assert content.whole


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data.replace(b"fox", b"fax"),
        lambda data: data.replace(END, b"\r\n" + END),
        lambda data: data.replace(b"\r\n..\r\n", b"\r\n.\r\r\n"),
        lambda data: data.replace(b"people write it", b""),
    ],
    ids=["changed", "longer", "unstuffed wrongly", "shorter"],
)
def test_a_changed_body_is_noticed(harm: Callable[[bytes], bytes]) -> None:
    composer = Composer("0badcafe", "load@d0.test", ["d0.test"], [2048])
    data = composer.content(9, 0, 1, 2)
    assert harm(data) != data
    content, rest = read(harm(data), [])
    assert rest is not None
    assert content.stamp is not None
    assert not content.whole


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"X-Testbed: run=0badcaf seq=1 due=1 sent=1 len=1 crc=00000000\r\n",
        b"X-Testbed: run=0badcafe seq=-1 due=1 sent=1 len=1 crc=00000000\r\n",
        b"X-Testbed: run=0badcafe seq=99999999999999999999 due=1 sent=1 len=1 crc=00000000\r\n",
        b"Subject: X-Testbed: run=0badcafe seq=1 due=1 sent=1 len=1 crc=00000000\r\n",
    ],
)
def test_what_is_no_stamp_is_none(field: bytes) -> None:
    assert read_stamp(b"\r\n" + field) is None


def test_a_stamp_in_the_body_does_not_count() -> None:
    content, _ = read(b"Subject: bounce\r\n\r\n" + Composer("0badcafe", "a@b", ["c"], [9]).content(1, 0, 1, 1), [])
    assert content.stamp is None


def test_an_endless_header_takes_no_memory() -> None:
    content = Content()
    for _ in range(64):
        content.feed(b"X-Filler: " + b"y" * 8180 + b"\r\n")
        assert len(content._head or b"") < HEAD_LIMIT
    assert content.feed(b".\r\n") == b""
    assert content.stamp is None
    assert content.size == 64 * 8192
