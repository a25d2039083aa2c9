"""The DNS gate before a server of the test's own: passed on, failed by name, type and count, remembered."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.update
import pytest
import uvloop
from pydantic import ValidationError

from orchestrator.agents import control
from orchestrator.agents.dns_gate import Gate, main, serve
from orchestrator.agents.dns_rules import DnsRule, DnsRules, _Kept

T = TypeVar("T")


def answered(wire: bytes) -> bytes:
    """Answer any question with one record of its name: a TXT of 2,000 octets for TXT, else 192.0.2.1 as A.

    Octets that are no question are answered with FORMERR and no question.
    """
    try:
        query = dns.message.from_wire(wire, keyring=False)
        name, response = query.question[0].name, dns.message.make_response(query)
    except (dns.exception.DNSException, IndexError):
        return wire[:2] + b"\x80\x01" + bytes(8)
    if query.question[0].rdtype == dns.rdatatype.TXT:
        response.answer = [dns.rrset.from_text(name, 60, "IN", "TXT", " ".join(['"' + "x" * 250 + '"'] * 8))]
    else:
        response.answer = [dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.1")]
    return response.to_wire()


class Upstream(asyncio.DatagramProtocol):
    """The server behind."""

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: D102
        self.transport.sendto(answered(data), addr)


async def upstream_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (length,) = struct.unpack("!H", await reader.readexactly(2))
    response = answered(await reader.readexactly(length))
    writer.write(struct.pack("!H", len(response)) + response)
    writer.close()


class Running:
    """A gate that serves, in a thread."""

    def __init__(self, control_path: Path, upstream: bool) -> None:  # noqa: FBT001
        self.control = control_path
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port = self._wait(self._open(upstream))

    async def _open(self, upstream: bool) -> int:  # noqa: FBT001
        opened = socket.create_server(("127.0.0.1", 0))
        port = opened.getsockname()[1]
        if upstream:
            await self._loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", port))
            self._upstream = await asyncio.start_server(upstream_tcp, sock=opened)
        else:
            opened.close()
        return await serve(Gate(("127.0.0.1", port)), ["127.0.0.1"], 0, self.control)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def request(self, *words: str) -> Any:
        """Send a request to its control socket, and return the answer."""
        return control.ask(str(self.control), list(words))

    def fail(self, *rules: dict[str, Any]) -> list[dict[str, Any]]:
        """Put rules in force, and return them with their ids."""
        return cast("list[dict[str, Any]]", self.request("add", json.dumps(rules)))

    def ask(self, name: str, kind: str = "A", *, tcp: bool = False, timeout: float = 5) -> dns.message.Message:
        """Ask it."""
        query = dns.message.make_query(name, kind)
        over: Callable[..., dns.message.Message] = dns.query.tcp if tcp else dns.query.udp
        return over(query, "127.0.0.1", port=self.port, timeout=timeout)

    def send(self, wire: bytes, timeout: float = 5) -> bytes:
        """Return the answer to octets over UDP."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(timeout)
            udp.sendto(wire, ("127.0.0.1", self.port))
            return udp.recv(65535)

    def queries(self, after: int = 0) -> list[dict[str, Any]]:
        """Return what it remembers."""
        return list(self.request("queries", str(after)))

    def stop(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


@pytest.fixture
def make_gate(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*, upstream: bool = True) -> Running:
        started.append(Running(tmp_path / f"{len(started)}.sock", upstream))
        return started[-1]

    yield start
    for gate in started:
        gate.stop()


@pytest.fixture
def gate(make_gate: Callable[..., Running]) -> Running:
    return make_gate()


def rcode(answer: dns.message.Message) -> str:
    return dns.rcode.to_text(answer.rcode())


def test_questions_are_passed_on_over_both_and_remembered(gate: Running) -> None:
    for tcp in (False, True):
        assert [str(item) for item in gate.ask("d1.test", tcp=tcp).answer[0]] == ["192.0.2.1"]
    assert [(q["name"], q["type"], q["over"], q["then"], q["rcode"]) for q in gate.queries()] == [
        ("d1.test", "A", "udp", None, "NOERROR"),
        ("d1.test", "A", "tcp", None, "NOERROR"),
    ]
    assert [q["id"] for q in gate.queries(after=1)] == [2]


def test_exactly_the_next_two_questions_of_a_name_and_type_fail(gate: Running) -> None:
    for _ in range(100):
        gate.fail({"name": "D1.test", "type": "mx", "times": 2})
        asked = [("d1.test", "A"), ("d2.test", "MX"), ("d1.test", "MX"), ("D1.TEST", "MX"), ("d1.test", "MX")]
        assert [rcode(gate.ask(*question)) for question in asked] == ["NOERROR"] * 2 + ["SERVFAIL"] * 2 + ["NOERROR"]


@pytest.mark.parametrize("code", ["NXDOMAIN", "REFUSED", "NOTIMP", "FORMERR"])
def test_any_rcode(gate: Running, code: str) -> None:
    gate.fail({"name": "*.d1.test", "rcode": code})
    answer = gate.ask("mx.d1.test")
    assert (rcode(answer), answer.answer) == (code, [])


def test_no_answer_a_late_one_and_one_that_is_cut_off(gate: Running) -> None:
    gate.fail({"name": "no", "then": "drop"}, {"name": "late", "then": "delay", "delay_s": 0.2})
    with pytest.raises(dns.exception.Timeout):
        gate.ask("no", timeout=0.2)
    before = time.monotonic()
    assert gate.ask("late").answer
    assert time.monotonic() - before >= 0.2
    gate.fail({"name": "cut", "then": "truncate"})
    assert gate.ask("cut").flags & dns.flags.TC
    assert gate.ask("cut", tcp=True).answer
    assert [q["rcode"] for q in gate.queries()] == [None, "NOERROR", "NOERROR", "NOERROR"]


def test_a_connection_is_reset(gate: Running) -> None:
    gate.fail({"name": "d1.test", "then": "reset"})
    with pytest.raises((ConnectionError, EOFError)):
        gate.ask("d1.test", tcp=True)
    assert gate.ask("d1.test").answer
    assert gate.ask("d2.test", tcp=True).answer


def test_a_server_that_is_gone_is_a_servfail_at_once(make_gate: Callable[..., Running]) -> None:
    gate = make_gate(upstream=False)
    before = time.monotonic()
    assert [rcode(gate.ask("d1.test", tcp=tcp)) for tcp in (False, True)] == ["SERVFAIL", "SERVFAIL"]
    assert time.monotonic() - before < 3


def test_many_questions_at_once_get_their_own_answers(gate: Running) -> None:
    async def all_of_them() -> list[dns.message.Message]:
        import dns.asyncquery  # noqa: PLC0415

        ask = partial(dns.asyncquery.udp, where="127.0.0.1", port=gate.port, timeout=10)
        return await asyncio.gather(*(ask(dns.message.make_query(f"d{i}.test", "A")) for i in range(200)))

    answers = asyncio.run(all_of_them())
    assert [answer.answer[0].name.to_text() for answer in answers] == [f"d{i}.test." for i in range(200)]
    assert len(gate.queries()) == 200


@pytest.mark.parametrize("wire", [b"", b"\0" * 12, b"\xff" * 500, b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1"])
def test_octets_that_are_no_question_harm_nothing(gate: Running, wire: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(wire, ("127.0.0.1", gate.port))
    with socket.create_connection(("127.0.0.1", gate.port)) as tcp:
        tcp.sendall(struct.pack("!H", len(wire)) + wire)
    assert gate.ask("d1.test").answer


@pytest.mark.parametrize(
    "wire", [b"\0\7" + bytes(10), b"\0\7\0\0\0\1" + bytes(6) + b"\xc0\x0c\0\1\0\1", b"\0\7" + b"\x7f" * 99]
)
def test_octets_that_are_no_question_are_passed_on(make_gate: Callable[..., Running], wire: bytes) -> None:
    assert make_gate().send(wire)[:4] == b"\0\7\x80\1"  # FORMERR of the server behind


def test_signed_questions_and_changes_are_passed_on_and_fail_too(gate: Running) -> None:
    key = dns.tsig.Key("key.", b"secret")
    query, update = dns.message.make_query("d1.test", "A"), dns.update.UpdateMessage("d1.test")
    for message in (query, update):
        message.use_tsig(key)
        assert gate.send(message.to_wire())[3] & 15 == dns.rcode.NOERROR
    gate.fail({"name": "d1.test"})
    for message in (query, update):
        assert gate.send(message.to_wire())[3] & 15 == dns.rcode.SERVFAIL
    assert [q["type"] for q in gate.queries()] == ["A", "SOA", "A", "SOA"]


def test_an_answer_is_no_question(gate: Running) -> None:
    """Two servers could else send each other answers for ever."""
    response = dns.message.make_response(dns.message.make_query("d1.test", "A"))
    with pytest.raises(TimeoutError):
        gate.send(response.to_wire(), timeout=0.2)
    assert gate.queries() == []


def test_rules_of_the_other_transport_hide_no_later_rule(gate: Running) -> None:
    gate.fail({"then": "reset"}, {"then": "truncate", "times": 1}, {"rcode": "REFUSED"})
    gate.fail({"name": "d2.test", "then": "truncate", "times": 1})
    assert gate.ask("d1.test").flags & dns.flags.TC
    assert rcode(gate.ask("d1.test")) == "REFUSED"
    with pytest.raises((ConnectionError, EOFError)):
        gate.ask("d2.test", tcp=True)
    assert gate.ask("d2.test").flags & dns.flags.TC
    assert [q["then"] for q in gate.queries()] == ["truncate", "answer", "reset", "truncate"]


def test_an_extended_rcode_is_recorded(gate: Running) -> None:
    gate.fail({"rcode": "badvers"})
    assert rcode(gate.ask("d1.test")) == "BADVERS"
    assert gate.queries()[0]["rcode"] == "BADVERS"


@pytest.mark.parametrize(
    ("given", "name", "kind"),
    [
        ({"name": "d1.test.", "type": "TYPE15"}, "d1.test", "MX"),
        ({"name": "d1.test", "type": "mx"}, "d1.test", "MX"),
        ({"name": "."}, ".", "NS"),
    ],
)
def test_a_name_and_a_type_are_written_in_several_ways(
    gate: Running, given: dict[str, Any], name: str, kind: str
) -> None:
    gate.fail(given)
    assert rcode(gate.ask(name, kind)) == "SERVFAIL"


def test_addresses_are_required(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["dns_gate", "--upstream", "127.0.0.1", "--port", "0"])
    with pytest.raises(SystemExit):
        main()
    assert "--listen" in capsys.readouterr().err


def test_rules_are_listed_and_cleared(gate: Running) -> None:
    gate.fail({"name": "a"})
    gate.fail({"name": "b", "times": 3})
    gate.ask("b")
    assert [(r["id"], r["name"], r["hits"]) for r in gate.request("rules")] == [(2, "b", 1), (1, "a", 0)]
    gate.request("clear")
    assert rcode(gate.ask("b")) == "NOERROR"


def test_exactly_one_of_two_equal_rules_is_removed(gate: Running) -> None:
    first, second, other = ({"name": "a"}, {"name": "a", "rcode": "REFUSED"}, {"name": "a", "times": 1})
    ids = [rule["id"] for one in (first, first, second, other) for rule in gate.fail(one)]
    assert ids == [1, 2, 3, 4]
    assert [rcode(gate.ask("a")) for _ in range(3)] == ["SERVFAIL", "REFUSED", "REFUSED"]
    assert [gate.request("remove", str(id_)) for id_ in (3, 4, 3, 99)] == [2, 1, None, None]
    assert [rule["id"] for rule in gate.request("rules")] == [2, 1]
    assert gate.request("remove", "2") == 0
    assert rcode(gate.ask("a")) == "SERVFAIL"
    assert gate.request("remove", "1") == 1
    assert (rcode(gate.ask("a")), gate.request("rules")) == ("NOERROR", [])
    gate.fail({"name": "a"})
    gate.request("clear")
    assert [rule["id"] for rule in gate.fail({"name": "a"}, {"name": "b"})] == [6, 7]
    with pytest.raises(ValueError, match="invalid literal"):
        gate.request("remove", "a")


def test_rules_that_are_used_up_are_shown_and_no_longer_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, compared = DnsRules([*[DnsRule(name="a", times=1)] * 1000, DnsRule(name="b")]), list[str]()
    concerns = _Kept.concerns

    def counted(kept: _Kept, name: str, kind: str, over: str) -> bool:
        compared.append(name)
        return concerns(kept, name, kind, over)

    assert all(rules.decide("a", "A", "udp") for _ in range(1000))
    monkeypatch.setattr(_Kept, "concerns", counted)
    assert rules.decide("a", "A", "udp") is None
    assert rules.decide("b", "A", "udp")
    assert compared == ["a", "b"]
    assert [rule["hits"] for rule in rules.to_list()] == [1] * 1001


@pytest.mark.parametrize(
    "text",
    [
        *({"rcode": "WRONG"}, {"type": "NOSUCH"}, {"then": "explode"}, {"times": 0}, {"nam": "x"}),
        {"name": "*.b\u00fccher.example"},
        {"then": "delay"},
        *({"then": then, "delay_s": 1} for then in ("drop", "truncate", "reset", "pass")),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(text: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DnsRule.model_validate(text)
