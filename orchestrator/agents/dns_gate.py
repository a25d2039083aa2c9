"""A gate before a DNS server: forwards or fails each query by its name, type and count; records every query.

::

    python3 -m orchestrator.agents.dns_gate --listen 198.18.0.3 --upstream 198.18.0.2 [--rules FILE]

Prints ``{"event": "listening", ...}`` once the gate serves. SIGTERM ends the gate. Requests of ``control``:
``rules``, ``add RULES``, ``remove ID``, ``clear``, ``queries AFTER``.
"""

import argparse
import asyncio
import json
import random
import signal
import struct
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import uvloop
from pydantic import ValidationError

from orchestrator.agents.control import SOCKET
from orchestrator.agents.dns_rules import DNS_RULES, Action, DnsRule, DnsRules
from orchestrator.agents.output import say
from orchestrator.agents.sink import listen, listen_locally

MOST_QUERIES = 100_000
"""Maximum number of recorded queries; the oldest are dropped first."""
UPSTREAM_S = 5.0
"""Time limit of the upstream server's answer, in seconds; after that, the client gets SERVFAIL."""
_IDLE_S = 30.0
"""Seconds of silence after which a TCP connection is closed (RFC 7766, 6.2.3)."""
_LINGER_NOT = struct.pack("ii", 1, 0)
_MAX_UDP = 65535
_HEADER_B, _QR = 12, 0x80
"""Size of a DNS header in octets, and its QR bit (in the third octet), which answers set (RFC 1035, 4.1.1)."""
_CONTROL_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query and its outcome."""

    id: int
    """Cursor: a later query has a larger id."""
    t: float
    client: str
    over: str
    """``udp`` or ``tcp``."""
    name: str
    type: str
    then: str | None
    """Action of the rule that matched; ``None``: the query was forwarded."""
    rcode: str | None
    """Response code of the answer; ``None`` without an answer."""


class Gate:
    """The rules, the record of queries, and the address of the upstream server."""

    def __init__(self, upstream: tuple[str, int], rules: Sequence[DnsRule] = ()) -> None:
        self.upstream = upstream
        self.rules = DnsRules(rules)
        self.queries: deque[Query] = deque(maxlen=MOST_QUERIES)
        self.servers: list[asyncio.AbstractServer] = []
        """Servers in use; asyncio closes a server that nothing refers to."""
        self._last = 0

    async def answer(self, wire: bytes, client: str, over: str) -> bytes | None:
        """Return the answer to a query; ``None``: the client gets no answer. Octets that are not a query are forwarded.

        Raises:
            ConnectionAbortedError: a rule resets the connection.
        """
        query = _question(wire)
        if query is None:
            return await self._forwarded(wire, over)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        rule = self.rules.decide(name, kind, over)
        if rule is None:
            return await self._passed(wire, query, client, over, None)
        note = partial(self._note, query, client, over, rule.then)
        match rule.then:
            case Action.DROP:
                note(None)
                return None
            case Action.RESET:
                note(None)
                raise ConnectionAbortedError
            case Action.ANSWER:
                await asyncio.sleep(rule.delay_s)
                return note(_without_records(query, rule.rcode).to_wire())
            case Action.TRUNCATE:
                response = _without_records(query, "NOERROR")
                response.flags |= dns.flags.TC
                return note(response.to_wire())
            case Action.DELAY:
                await asyncio.sleep(rule.delay_s)
        return await self._passed(wire, query, client, over, rule.then)

    async def _passed(
        self, wire: bytes, query: dns.message.Message, client: str, over: str, then: Action | None
    ) -> bytes | None:
        response = await self._forwarded(wire, over) or _without_records(query, "SERVFAIL").to_wire()
        return self._note(query, client, over, then, response)

    async def _forwarded(self, wire: bytes, over: str) -> bytes | None:
        """Return the upstream server's answer; ``None``: there is none, or ``wire`` is itself an answer."""
        if len(wire) < _HEADER_B or wire[2] & _QR:
            return None
        ask = self._ask_udp if over == "udp" else self._ask_tcp
        try:
            async with asyncio.timeout(UPSTREAM_S):
                return await ask(wire)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return None

    async def _ask_udp(self, wire: bytes) -> bytes:
        """Query the upstream server over a new socket with a new id, against forged answers (RFC 5452)."""
        loop, number = asyncio.get_running_loop(), random.getrandbits(16)
        transport, protocol = await loop.create_datagram_endpoint(partial(_Once, number), remote_addr=self.upstream)
        try:
            transport.sendto(struct.pack("!H", number) + wire[2:])
            return wire[:2] + (await protocol.answer)[2:]
        finally:
            transport.close()

    async def _ask_tcp(self, wire: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(struct.pack("!H", len(wire)) + wire)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            return await reader.readexactly(length)
        finally:
            writer.close()

    def _note(
        self, query: dns.message.Message, client: str, over: str, then: Action | None, response: bytes | None
    ) -> bytes | None:
        question = query.question[0]
        self._last += 1
        self.queries.append(
            Query(
                id=self._last,
                t=time.time(),
                client=client,
                over=over,
                name=question.name.to_text(omit_final_dot=True),
                type=dns.rdatatype.to_text(question.rdtype),
                then=then,
                rcode=None if response is None else _rcode(response),
            )
        )
        return response

    def obey(self, words: list[Any]) -> Any:
        """Carry out a request, and return its result.

        Raises:
            ValueError: the request cannot be carried out; the text is the reason.
        """
        match words:
            case ["rules"]:
                return self.rules.to_list()
            case ["add", str(text)]:
                return self.rules.add(DNS_RULES.validate_json(text))
            case ["remove", str(text)]:
                return self.rules.remove(int(text))
            case ["clear"]:
                return self.rules.clear()
            case ["queries", str(after)]:
                return [asdict(query) for query in self.queries if query.id > int(after)]
        raise ValueError(f"no such request: {words!r:.200}")


class _Once(asyncio.DatagramProtocol):
    """Waits for the answer whose message id is ``number``."""

    def __init__(self, number: int) -> None:
        self._number = struct.pack("!H", number)
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:  # noqa: ARG002
        """Take the answer."""
        if data[:2] == self._number and len(data) >= _HEADER_B and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        """Fail at once: an ICMP error reports that the upstream server's port is closed."""
        if not self.answer.done():
            self.answer.set_exception(exc)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, gate: Gate) -> None:
        self._gate, self._tasks = gate, set[asyncio.Task[None]]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Answer a query."""
        task = asyncio.ensure_future(self._answer(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        response = await self._gate.answer(data, str(addr[0]), "udp")
        if response is not None:
            self._transport.sendto(response, addr)


async def _serve_tcp(gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    client = str(writer.get_extra_info("peername")[0])
    try:
        while True:
            async with asyncio.timeout(_IDLE_S):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                wire = await reader.readexactly(length)
            response = await gate.answer(wire, client, "tcp")
            if response is not None:
                writer.write(struct.pack("!H", len(response)) + response)
                await writer.drain()
    except ConnectionAbortedError:
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _LINGER_NOT)
        writer.transport.abort()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _serve_control(gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        answer: dict[str, Any] = {"ok": gate.obey(json.loads(await reader.readline()))}
    except ValidationError as error:
        answer = {"error": "; ".join(detail["msg"] for detail in error.errors())}
    except (ValueError, TypeError) as error:
        answer = {"error": str(error)}
    writer.write(json.dumps(answer).encode() + b"\n")
    writer.close()


async def serve(gate: Gate, hosts: Sequence[str], port: int, control: Path) -> int:
    """Listen on UDP and TCP, and on the control socket; return the port once the gate serves."""
    loop = asyncio.get_running_loop()
    for host in hosts:
        opened = listen(host, port, 1024)
        port = opened.getsockname()[1]
        gate.servers.append(await asyncio.start_server(partial(_serve_tcp, gate), sock=opened))
        await loop.create_datagram_endpoint(partial(_Udp, gate), local_addr=(host, port))
    ask = partial(_serve_control, gate)
    gate.servers.append(await asyncio.start_unix_server(ask, sock=listen_locally(control), limit=_CONTROL_LIMIT))
    return port


def _question(wire: bytes) -> dns.message.Message | None:
    """Parse a query, signed (RFC 8945) or not; ``None``: the octets are not a query."""
    try:
        query = dns.message.from_wire(wire, keyring=False, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None
    return query if query.question and not query.flags & dns.flags.QR else None


def _without_records(query: dns.message.Message, rcode: str) -> dns.message.Message:
    response = dns.message.make_response(query, our_payload=_MAX_UDP)
    response.set_rcode(dns.rcode.from_text(rcode))
    return response


def _rcode(response: bytes) -> str:
    """Return the response code, including the upper bits in an OPT record (RFC 6891, 6.1.3)."""
    return dns.rcode.to_text(dns.message.from_wire(response, keyring=False, continue_on_error=True).rcode())


async def run(gate: Gate, hosts: Sequence[str], port: int, control: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    say({"event": "listening", "port": await serve(gate, hosts, port, control), "addresses": list(hosts)})
    await ended.wait()


def main() -> None:
    """Run the gate."""
    parser = argparse.ArgumentParser(description="a gate before a DNS server")
    parser.add_argument("--listen", action="append", required=True, metavar="ADDRESS", help="repeatable")
    parser.add_argument("--port", type=int, default=53, help="0 takes a free one")
    parser.add_argument("--upstream", required=True, metavar="ADDRESS", help="the server behind")
    parser.add_argument("--upstream-port", type=int, default=53)
    parser.add_argument("--control", type=Path, default=Path(SOCKET), metavar="PATH", help="the control socket")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="a list of rules, JSON")
    options = parser.parse_args()
    try:
        rules = DNS_RULES.validate_json(options.rules.read_bytes() if options.rules else b"[]")
    except (OSError, ValidationError) as error:
        parser.error(str(error))
    gate = Gate((options.upstream, options.upstream_port), rules)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(gate, options.listen, options.port, options.control))


if __name__ == "__main__":
    main()
