"""The inbox of a bed that is up: its messages, over its HTTP API."""

import asyncio
import itertools
import json
import os
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import ip_address
from typing import Any

from orchestrator.agents.rules import Rule
from orchestrator.bed.model import checked
from orchestrator.errors import EngineFailed, InvalidInput, Problem, TimedOut
from orchestrator.hosts.ownership import in_url
from orchestrator.plaintext import plain
from orchestrator.services.inbox import HTTP
from orchestrator.up.node import RunningNode

_ANSWER_S = 60.0
"""Time limit of an answer to a request that does not wait for messages."""
_WAIT = "wait"
"""Path of the request that the inbox holds until the messages have arrived."""
_PAGE = 1000
"""Maximum number of messages in one answer."""
_IDLE_S = 2.0
"""Maximum idle time of a connection before it is reused: the inbox closes idle connections after 5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """The inbox. A message is a JSON object of its API: ``id``, ``sender``, ``recipients``, ``subject``, ...

    Conditions are those of ``GET /api/messages``: ``to``, ``sender``, ``from``, ``subject``, ``message_id``, ``query``;
    a message must match every value of a list. Each method raises InvalidInput if a condition is invalid, and
    EngineFailed if the inbox does not answer or fails.
    """

    node: RunningNode
    machine: str = "localhost"
    """Name or address of the engine's machine."""

    @property
    def address(self) -> str:
        """IP address at which this machine reaches the published ports of the bed.

        Raises:
            EngineFailed: the ports are published on all addresses of a machine whose name does not resolve.
        """
        at = self.node.published_at
        if not (address := ip_address(at)).is_unspecified:
            return at
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            return str(socket.getaddrinfo(self.machine, None, family)[0][4][0])
        except OSError as error:
            needed, do = f"an address of the engine's machine {self.machine}", "publish the ports on its address"
            raise EngineFailed(needed, str(error), do) from error

    @property
    def url(self) -> str:
        """Address of the web page and the API, without a slash at its end.

        The URL holds an IP address, because the inbox does not answer to the name of a machine.
        """
        return f"http://{in_url(self.address)}:{self.node.port(f'{HTTP}/tcp')}"

    def messages(self, *, limit: int = 50, **conditions: Any) -> dict[str, Any]:
        """Return matching ``messages``, newest first, and ``total``, the number of all matching messages."""
        listing: dict[str, Any] = self._ask("messages", _ANSWER_S, limit=limit, **conditions)
        return listing

    def wait(self, *, count: int = 1, timeout: float = 30.0, **conditions: Any) -> list[dict[str, Any]]:
        """Wait for ``count`` matching messages and return them; the inbox holds the request meanwhile.

        Raises:
            TimedOut: fewer messages arrived within ``timeout`` seconds.
            NodeDied: a node of the bed has ended, or ends during the wait.
        """
        answer = self._ask(_WAIT, timeout + _ANSWER_S, count=count, timeout=timeout, **conditions)
        messages: list[dict[str, Any]] = answer["messages"]
        return messages

    async def wait_async(self, *, count: int = 1, timeout: float = 30.0, **conditions: Any) -> list[dict[str, Any]]:  # noqa: ASYNC109
        """Wait as ``wait`` does, in an event loop. Cancelling the task closes its request."""
        at, words = urllib.parse.urlsplit(self.url), {"count": count, "timeout": timeout, **conditions}
        request = f"GET {_path(_WAIT, words)} HTTP/1.1\r\nHost: {at.netloc}\r\nConnection: close\r\n\r\n"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout + _ANSWER_S):
                reader, writer = await asyncio.open_connection(at.hostname, at.port)

                def abort() -> None:
                    loop.call_soon_threadsafe(writer.transport.abort)

                with closing(writer), self.node.on_death(abort):
                    writer.write(request.encode())
                    head, end, body = (await reader.read()).partition(b"\r\n\r\n")
            if not end:
                raise ConnectionResetError("the connection was closed")
        except OSError as error:
            raise await asyncio.to_thread(self._broken, error) from error
        if (status := int(head.split()[1])) != HTTPStatus.OK:
            raise _refused(status, body)
        messages: list[dict[str, Any]] = json.loads(body)["messages"]
        return messages

    def all_messages(self, **conditions: Any) -> list[dict[str, Any]]:
        """Return all matching messages, oldest first, without a limit on their number."""
        found: dict[int, dict[str, Any]] = {}
        for start in itertools.count(0, _PAGE):
            page = self.messages(limit=_PAGE, start=start, **conditions)["messages"]
            found |= {one["id"]: one for one in page}  # a new message shifts the pages
            if len(page) < _PAGE:
                break
        return [found[id_] for id_ in sorted(found)]

    def attempts(self, *, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest ``limit`` replies caused by rules and limits, with ids above ``after``, oldest first."""
        answer = self._ask("attempts", _ANSWER_S, after=after, limit=limit, newest=True)
        events: list[dict[str, Any]] = answer["events"]
        return events[::-1]

    def bounces(self) -> dict[str, Any]:
        """Return the notifications that rules with the action ``bounce`` cause.

        ``waiting`` lists ``sender`` and ``recipient`` of each message whose notification is not yet in the relay's
        queue; ``total`` counts all notifications since the start.
        """
        bounces: dict[str, Any] = self._ask("bounces", _ANSWER_S)
        return bounces

    def raw(self, message: int) -> bytes:
        """Return the octets of a message as they came after DATA."""
        return self._answer(f"messages/{message}/raw", _ANSWER_S)

    def delete(self, **conditions: Any) -> list[int]:
        """Delete the matching messages, or all messages if there is no condition; return their ids."""
        answer = self._ask("messages", _ANSWER_S, "DELETE", **conditions)
        deleted: list[int] = answer["deleted"]
        return deleted

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules in force, in the order in which they are tried; each has ``id``, ``rule`` and ``hits``."""
        in_force: list[dict[str, Any]] = self._ask("rules", _ANSWER_S)
        return in_force

    def add_rule(self, rule: Mapping[str, Any]) -> dict[str, Any]:
        """Put a rule in front of all others; return it with its ``id``. ``rule``: as in a bed file.

        Raises:
            InvalidInput: the rule is invalid.
        """
        made = checked(Rule, dict(rule), "a rule that the inbox takes", "correct it")
        added: dict[str, Any] = self._ask("rules", _ANSWER_S, "POST", made.to_dict())
        return added

    def remove_rule(self, id_: int) -> dict[str, Any]:
        """Remove one rule; return it with its ``hits``.

        Raises:
            InvalidInput: no rule in force has this id.
        """
        removed: dict[str, Any] = self._ask(f"rules/{id_}", _ANSWER_S, "DELETE")
        return removed

    def relay_log(self, message: int) -> dict[str, Any]:
        """Return the ``lines`` of the relay's log about a message, each with ``t`` (Unix time) and ``text``.

        ``problem``: why lines may be missing, or empty. Raises InvalidInput if the message did not come through the
        relay.
        """
        log: dict[str, Any] = self._ask(f"messages/{message}/log", _ANSWER_S)
        if log["relay"] is None:
            raise InvalidInput(
                "a message that came through the bed's relay", plain(log["problem"]), "see `testbed inbox`"
            )
        return log

    def _ask(self, path: str, seconds: float, method: str = "GET", body: object = None, /, **words: Any) -> Any:
        return json.loads(self._answer(path, seconds, method, body, **words))

    def _answer(self, path: str, seconds: float, method: str = "GET", body: object = None, /, **words: Any) -> bytes:
        """Return the body of an answer. If a node of the bed ends, a waiting request breaks off."""
        data = None if body is None else json.dumps(body).encode()
        at, target = urllib.parse.urlsplit(self.url), _path(path, words)
        try:
            if method == "GET" and path != _WAIT:  # safe to repeat
                answer, content = _kept.get(str(at.hostname), at.port, target)
            else:
                with closing(HTTPConnection(str(at.hostname), at.port, timeout=seconds)) as connection:
                    connection.connect()
                    with self.node.on_death(partial(_shut, connection.sock)) if path == _WAIT else nullcontext():
                        connection.request(method, target, data, {"Content-Type": "application/json"})
                        answer = connection.getresponse()
                        content = answer.read()
        except (OSError, HTTPException) as error:
            raise self._broken(error) from error
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise _refused(answer.status, content)
        return content

    def _broken(self, error: Exception) -> EngineFailed:
        """Return NodeDied if a node of the bed has ended, otherwise the error for an unanswered request."""
        found = str(error) or type(error).__name__
        needed = "an answer from the inbox's published port"
        return self.node.cause(EngineFailed(needed, found, "see `testbed ps`"))


class _Connection(HTTPConnection):
    """A connection that is closed when its thread ends, without a ResourceWarning."""

    def __del__(self) -> None:
        self.close()


class _Kept(threading.local):
    """The connection of one thread to the inbox of its last request."""

    _connection: _Connection | None = None
    _key: tuple[object, ...] = ()
    _used = 0.0

    def get(self, host: str, port: int | None, target: str) -> tuple[HTTPResponse, bytes]:
        """Return an answer and its body; use a new connection if the inbox closed the kept one."""
        key = (os.getpid(), host, port)  # a forked child must not use the parent's connection
        kept, self._connection = self._connection, None
        if kept and self._key == key and time.monotonic() - self._used < _IDLE_S:
            with suppress(BrokenPipeError, ConnectionResetError):
                return self._ask(kept, key, target)
        return self._ask(_Connection(host, port, timeout=_ANSWER_S), key, target)

    def _ask(self, connection: _Connection, key: tuple[object, ...], target: str) -> tuple[HTTPResponse, bytes]:
        connection.request("GET", target)
        answer = connection.getresponse()
        content = answer.read()
        self._connection, self._key, self._used = connection, key, time.monotonic()
        return answer, content


_kept = _Kept()


def _path(path: str, words: Mapping[str, Any]) -> str:
    return f"/api/{path}?{urllib.parse.urlencode(words, doseq=True, errors='surrogateescape')}"


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # the connection is already closed
        connection.shutdown(socket.SHUT_RDWR)


def _refused(status: int, body: bytes) -> Problem:
    """Return the error of an unsuccessful answer: JSON from the API, or text from the HTTP server in front of it."""
    try:
        told: Any = json.loads(body)["detail"]
    except (ValueError, TypeError, KeyError):
        told = body[:500].decode(errors="replace")
    match status:
        case HTTPStatus.CONFLICT:
            last = "; ".join(told["last_attempts"]) or "none was refused"
            found = f"{told['found']} of {told['kept']} messages match; last refused attempts: {last}"
            needed = f"{told['needed']} messages that match"
            return TimedOut(needed, plain(found), "see `testbed inbox`, `testbed logs relay`")
        case HTTPStatus.UNPROCESSABLE_ENTITY:
            return InvalidInput("conditions that the inbox can read", plain(str(told)), "correct them")
        case HTTPStatus.NOT_FOUND:
            return InvalidInput("a message or a rule of the inbox", plain(str(told)), "see `testbed inbox`, `rules()`")
    return EngineFailed("an answer of the inbox", f"{status} {plain(str(told))}", "see `testbed logs inbox`")
