"""Talking to many addresses: what is sent, and what is said of those that did not answer."""

import json
import socket
from collections.abc import Iterator

import dns.message
import dns.rdatatype
import pytest

from orchestrator.agents import neighbours
from orchestrator.agents.neighbours import NeighbourTable

NTABLE = json.dumps(
    [
        {"family": "inet", "name": "arp_cache", "thresh3": 1024, "entries": 1026, "table_fulls": 25281},
        {"family": "inet", "name": "arp_cache", "dev": "lo", "refcnt": 1},
    ]
)
"""``ip -json -statistics ntable show name arp_cache``, iproute2 6.1, shortened."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the kernel's table unread: that is for the integration tests."""
    monkeypatch.setattr(neighbours, "_show", lambda: None)


@pytest.fixture
def port() -> Iterator[int]:
    """Give the port of a server on some addresses of the loopback."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


def test_the_table_is_read_without_the_parameters_of_devices() -> None:
    table = NeighbourTable.parse(NTABLE)
    assert (table.entries, table.fulls, table.limit) == (1026, 25281, 1024)


def test_the_query_is_one_that_a_server_understands() -> None:
    question = dns.message.from_wire(neighbours._query("d0.test")).question[0]
    assert (question.name.to_text(), question.rdtype) == ("d0.test.", dns.rdatatype.MX)


def test_connections_are_counted_by_what_became_of_them(port: int) -> None:
    report = neighbours.connect([f"127.1.0.{n}" for n in range(1, 6)], port)
    assert (report.asked, report.reached, report.errors) == (5, 5, {})


def test_a_refusal_has_a_name(port: int) -> None:
    with socket.socket() as closed:
        closed.bind(("127.2.0.1", 0))
        unheard = closed.getsockname()[1]
        assert unheard != port
        report = neighbours.connect(["127.2.0.1"], unheard)
    assert (report.reached, report.errors) == (0, {"ECONNREFUSED": 1})


@pytest.mark.parametrize("words", [[], ["look-up", "198.18.0.1", "5"], ["look-up", "x", "5", "d0.test"],
                                   ["shout", "198.18.0.1", "5", "d0.test"]])  # fmt: skip
def test_what_it_cannot_do_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert neighbours.main(words) == 2
    assert "consecutive IPv4 addresses from FIRST" in capsys.readouterr().err
