"""The inbox of a bed that is up: its messages, over its HTTP API."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from orchestrator.bed.addressing import twin
from orchestrator.errors import EngineFailed, InvalidInput, TimedOut
from orchestrator.hosts.ownership import in_url
from orchestrator.plaintext import plain
from orchestrator.services.inbox import HTTP
from orchestrator.up.node import RunningNode

_ANSWER_S = 60.0
"""Time limit of an answer that waits for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """The inbox. A message is an object of its API: ``id``, ``sender``, ``recipients``, ``subject``, ...

    Conditions are those of ``GET /api/messages``: ``to``, ``sender``, ``from``, ``subject``, ``message_id``, ``query``;
    a list means each of its values. Each method raises InvalidInput for a condition that the inbox cannot read, and
    EngineFailed if the inbox does not answer.
    """

    node: RunningNode
    relay: RunningNode | None
    """The relay of the bed."""

    @property
    def url(self) -> str:
        """Address of the web page and the API, without a slash at its end."""
        return f"http://{in_url(self.node.published_at)}:{self.node.port(f'{HTTP}/tcp')}"

    def messages(self, *, limit: int = 50, **conditions: Any) -> dict[str, Any]:
        """Return ``messages`` that match, the newest first, and the ``total`` of all that match."""
        listing: dict[str, Any] = self._get("messages", _ANSWER_S, limit=limit, **conditions)
        return listing

    def wait(self, *, count: int = 1, timeout: float = 30.0, **conditions: Any) -> list[dict[str, Any]]:
        """Wait for ``count`` matching messages and return them; the inbox holds the request meanwhile.

        Raises:
            TimedOut: fewer arrived within ``timeout`` seconds.
        """
        answer = self._get("wait", timeout + _ANSWER_S, count=count, timeout=timeout, **conditions)
        messages: list[dict[str, Any]] = answer["messages"]
        return messages

    def relay_log(self, message: int) -> list[dict[str, Any]]:
        """Return the lines of the relay's log about a message, each with ``t`` (Unix time) and ``text``.

        The newest Received field of the message names its queue id. Raises InvalidInput if the message did not come
        through the relay.
        """
        kept = self._get(f"messages/{message}", _ANSWER_S)
        received = next((value for name, value in kept["headers"] if name.lower() == "received"), "")
        queued = re.search(r"\sid ([0-9A-Za-z]+)\b", received)
        relay = self.relay
        if relay is None or queued is None or kept["client"] not in {str(relay.plan.v4), str(twin(relay.plan.v4))}:
            found = f"message {message} from {kept['client'] or 'HTTP'}, {received or 'without a Received field'}"
            raise InvalidInput("a message that came through the bed's relay", plain(found), "see `testbed inbox`")
        of_it = re.compile(rf"\b{queued[1]}\b")
        return [{"t": round(line.t, 6), "text": line.text} for line in relay.log() if of_it.search(line.text)]

    def _get(self, path: str, seconds: float, **words: Any) -> Any:
        url = f"{self.url}/api/{path}?{urllib.parse.urlencode(words, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310 - the scheme is ours
                return json.load(answer)
        except urllib.error.HTTPError as error:
            detail = json.load(error)["detail"]
            if error.code != 408:
                raise InvalidInput("conditions that the inbox can read", plain(str(detail)), "correct them") from None
            last = "; ".join(detail["last_attempts"]) or "none was refused"
            found = f"{detail['found']} of {detail['kept']} messages match; last refused attempts: {last}"
            needed = f"{detail['needed']} messages that match"
            raise TimedOut(needed, plain(found), "see `testbed inbox`, `testbed logs relay`") from None
        except OSError as error:
            raise EngineFailed("the inbox's published port", str(error), "see `testbed ps`") from error
