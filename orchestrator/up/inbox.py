"""The inbox of a bed that is up: its messages, over its HTTP API."""

import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from orchestrator.errors import EngineFailed, InvalidInput, Problem, TimedOut
from orchestrator.hosts.ownership import in_url
from orchestrator.plaintext import plain
from orchestrator.services.inbox import HTTP
from orchestrator.up.node import RunningNode

_ANSWER_S = 60.0
"""Time limit of an answer that waits for nothing."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks without a proxy, whatever the environment says: the port is of this machine or the engine's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """The inbox. A message is an object of its API: ``id``, ``sender``, ``recipients``, ``subject``, ...

    Conditions are those of ``GET /api/messages``: ``to``, ``sender``, ``from``, ``subject``, ``message_id``, ``query``;
    a list means each of its values. Each method raises InvalidInput for a condition that the inbox cannot read, and
    EngineFailed if the inbox does not answer or fails.
    """

    node: RunningNode
    machine: str = "localhost"
    """Name or address of the engine's machine."""

    @property
    def url(self) -> str:
        """Address of the web page and the API, without a slash at its end.

        It holds an IP address, because the inbox does not answer to the name of a machine.
        """
        at = self.node.published_at
        if (address := ip_address(at)).is_unspecified:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            try:
                at = str(socket.getaddrinfo(self.machine, None, family)[0][4][0])
            except OSError as error:
                needed, do = f"an address of the engine's machine {self.machine}", "publish the ports on its address"
                raise EngineFailed(needed, str(error), do) from error
        return f"http://{in_url(at)}:{self.node.port(f'{HTTP}/tcp')}"

    def messages(self, *, limit: int = 50, **conditions: Any) -> dict[str, Any]:
        """Return ``messages`` that match, the newest first, and the ``total`` of all that match."""
        listing: dict[str, Any] = self._ask("messages", _ANSWER_S, limit=limit, **conditions)
        return listing

    def wait(self, *, count: int = 1, timeout: float = 30.0, **conditions: Any) -> list[dict[str, Any]]:
        """Wait for ``count`` matching messages and return them; the inbox holds the request meanwhile.

        Raises:
            TimedOut: fewer arrived within ``timeout`` seconds.
        """
        answer = self._ask("wait", timeout + _ANSWER_S, count=count, timeout=timeout, **conditions)
        messages: list[dict[str, Any]] = answer["messages"]
        return messages

    def delete(self, **conditions: Any) -> list[int]:
        """Delete the messages that match, without a condition all of them; return their ids."""
        answer = self._ask("messages", _ANSWER_S, method="DELETE", **conditions)
        deleted: list[int] = answer["deleted"]
        return deleted

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

    def _ask(self, path: str, seconds: float, method: str = "GET", **words: Any) -> Any:
        url = f"{self.url}/api/{path}?{urllib.parse.urlencode(words, doseq=True, errors='surrogateescape')}"
        try:
            with _DIRECT.open(urllib.request.Request(url, method=method), timeout=seconds) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise _refused(error) from None
        except OSError as error:
            raise EngineFailed("the inbox's published port", str(error), "see `testbed ps`") from error


def _refused(error: urllib.error.HTTPError) -> Problem:
    """Return the error of an unsuccessful answer; it is JSON from the API, and text from the server before it."""
    is_json = error.headers.get_content_type() == "application/json"
    told: Any = json.load(error)["detail"] if is_json else error.read(500).decode(errors="replace")
    match error.code:
        case HTTPStatus.CONFLICT:
            last = "; ".join(told["last_attempts"]) or "none was refused"
            found = f"{told['found']} of {told['kept']} messages match; last refused attempts: {last}"
            needed = f"{told['needed']} messages that match"
            return TimedOut(needed, plain(found), "see `testbed inbox`, `testbed logs relay`")
        case HTTPStatus.UNPROCESSABLE_ENTITY:
            return InvalidInput("conditions that the inbox can read", plain(str(told)), "correct them")
        case HTTPStatus.NOT_FOUND:
            return InvalidInput("a message in the inbox", plain(str(told)), "see `testbed inbox`")
    return EngineFailed("an answer of the inbox", f"{error.code} {plain(str(told))}", "see `testbed logs inbox`")
