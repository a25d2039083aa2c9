"""The inbox of a bed that is up: its messages, over its HTTP API."""

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

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

    @property
    def url(self) -> str:
        """Address of the web page and the API, without a slash at its end."""
        return f"http://{in_url(self.node.published_at)}:{self.node.port(f'{HTTP}/tcp')}"

    def messages(self, *, limit: int = 50, **conditions: Any) -> dict[str, Any]:
        """Return ``messages`` that match, the newest first, and the ``total`` of all that match."""
        listing: dict[str, Any] = self._get("messages", _ANSWER_S, limit=limit, **conditions)
        return listing

    def wait(self, *, count: int = 1, timeout: float = 30.0, **conditions: Any) -> list[dict[str, Any]]:
        """Return the messages that match as soon as there are ``count``; the inbox parks the request until then.

        Raises:
            TimedOut: fewer had arrived after ``timeout`` seconds.
        """
        answer = self._get("wait", timeout + _ANSWER_S, count=count, timeout=timeout, **conditions)
        messages: list[dict[str, Any]] = answer["messages"]
        return messages

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
