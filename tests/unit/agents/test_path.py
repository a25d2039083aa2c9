"""Paths of MAIL and RCPT, held against a generator that builds them rule by rule as RFC 5321, 4.1.2 and 4.1.3, do."""

import string
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agents import path
from orchestrator.agents.path import PathTooLong

ATEXT = string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~"
QTEXT = [chr(n) for n in (*range(32, 34), *range(35, 92), *range(93, 127))]
LET_DIG = string.ascii_letters + string.digits


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Put parts one after another."""
    return st.tuples(*parts).map("".join)


SUB_DOMAIN = st.text(LET_DIG + "-", min_size=1, max_size=12).map(lambda t: t.strip("-") or "a")
DOMAIN = st.lists(SUB_DOMAIN, min_size=1, max_size=4).map(".".join)
DOT_STRING = st.lists(st.text(ATEXT, min_size=1, max_size=8), min_size=1, max_size=4).map(".".join)
QCONTENT = st.one_of(
    st.sampled_from(QTEXT), st.integers(32, 126).map(lambda n: "\\" + chr(n)), st.sampled_from([" ", ".", ">", "@"])
)
QUOTED_STRING = st.lists(QCONTENT, max_size=20).map(lambda pieces: '"' + "".join(pieces) + '"')
LOCAL = st.one_of(DOT_STRING, QUOTED_STRING)
LITERAL = st.one_of(
    st.builds(IPv4Address, st.integers(0, 2**32 - 1)).map(lambda a: f"[{a}]"),
    st.builds(IPv6Address, st.integers(0, 2**128 - 1)).map(lambda a: f"[IPv6:{a}]"),
    st.sampled_from(["[IPv6:::1]", "[ipv6:2001:2::C612:1000]", "[IPv6:::ffff:192.0.2.1]", "[x400:c=de]"]),
)
ROUTE = st.one_of(
    st.just(""), st.lists(DOMAIN, min_size=1, max_size=3).map(lambda a: ",".join("@" + d for d in a) + ":")
)
VALUE = st.text([chr(n) for n in range(33, 127) if chr(n) != "="], min_size=1, max_size=9)
KEYWORD = joined(st.sampled_from(LET_DIG), st.text(LET_DIG + "-", max_size=6))
PARAMETER = joined(KEYWORD, st.one_of(st.just(""), VALUE.map("=".__add__)))


@settings(max_examples=200)
@given(ROUTE, LOCAL, st.one_of(DOMAIN, LITERAL), st.lists(PARAMETER, max_size=3))
def test_every_path_of_the_grammar_is_read(route: str, local: str, domain: str, parameters: list[str]) -> None:
    text = "".join([f"<{route}{local}@{domain}>", *(" " + word for word in parameters)]).encode()
    if len(local) > 64 or len(f"<{route}{local}@{domain}>") > 256:
        with pytest.raises(PathTooLong):
            path.read(text)
        return
    found = path.read(text)
    assert found is not None
    assert (found.local, found.domain) == (local.encode(), domain.lower().encode())
    assert found.parameters == [word.upper().encode() for word in parameters]


@pytest.mark.parametrize("name", ["postmaster", "PostMaster", ""])
def test_two_paths_have_no_domain(name: str) -> None:
    assert path.read(f"<{name}> BODY=7BIT".encode()) == (name.encode(), b"", [b"BODY=7BIT"])


@pytest.mark.parametrize(
    "text",
    [
        b"a@b.test",
        b"<a@b.test",
        b"<a@b.test>>",
        b"<a@b.test>x",
        b"<a@b.test> =x",
        b"<a@b.test> x=",
        b"<a@b.test> x=y=z",
        b"<a>",
        b"<@b.test>",
        b"<a@>",
        b"<a@b@c>",
        b"<a b@c.test>",
        b"<.a@c.test>",
        b"<a.@c.test>",
        b"<a..b@c.test>",
        b'<"a@c.test>',
        b'<"a"b"@c.test>',
        b'<"a\\"@c.test>',
        b'<"a\n"@c.test>',
        b'<"a\\\x7f"@c.test>',
        b'<a."b"@c.test>',
        b"<\xc3\xa4@c.test>",
        b"<a@-c.test>",
        b"<a@c-.test>",
        b"<a@c..test>",
        b"<a@c.test.>",
        b"<@b.test,c.test:a@c.test>",
        b"<@b.test a@c.test>",
        b"<@b.test:>",
        b"<a@[192.0.2]>",
        b"<a@[192.0.2.256]>",
        b"<a@[IPv6:192.0.2.1]>",
        b"<a@[IPv6:1::2::3]>",
        b"<a@[IPv6:fe80::1%eth0]>",
        b"<a@[nonsense]>",
        b"<a@[]>",
        b"< a@b.test>",
        b"  <a@b.test>",
    ],
)
def test_nothing_else_is_read(text: bytes) -> None:
    assert path.read(text) is None


@pytest.mark.parametrize(
    ("local", "domain", "fits"),
    [
        (64, 189, 1),
        (65, 100, 0),
        (4, 249, 1),
        (4, 250, 0),
        (1, 252, 1),
        (1, 256, 0),
    ],
)
def test_lengths_are_those_of_the_standard(local: int, domain: int, fits: int) -> None:
    text = b"<%b@%b>" % (b"a" * local, (b"b." * 200)[: domain - 1] + b"c")
    if fits:
        assert path.read(text) is not None
    else:
        with pytest.raises(PathTooLong):
            path.read(text)


@pytest.mark.parametrize(
    "text", [b'<"' + b"\\\\" * 480, b"<" + b"a-" * 480, b"<@" + b"a-." * 320, b"<a@b> " + b"x" * 1000 + b"\0"]
)
@pytest.mark.timeout(2)
def test_what_nearly_is_a_path_is_refused_at_once(text: bytes) -> None:
    assert path.read(text) is None
