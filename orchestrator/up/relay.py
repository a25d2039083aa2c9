"""The relay of a bed that is up: its queue, its log, its restart."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator import services
from orchestrator.errors import InvalidInput
from orchestrator.hosts import LogLine
from orchestrator.services import Listing, Queued
from orchestrator.up.node import RunningNode

_ID = re.compile(r"\]: ([0-9A-Za-z]+): ")
"""The queue id in a log line, which follows program and process id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """The relay. Its methods raise the errors of ``RunningNode.ask``."""

    node: RunningNode

    def queue_length(self) -> int | None:
        """Return the number of queued messages; ``None`` if this relay cannot report it."""
        queue = services.service(self.node.plan.service).queue
        return queue.length(self.node.ask(*queue.command)) if queue else None

    def flush(self) -> None:
        """Make the relay try every queued message now; no effect if its service has no flush command."""
        if (queue := services.service(self.node.plan.service).queue) and queue.flush:
            self.node.ask(*queue.flush)

    def restart(self) -> None:
        """Stop the relay and start it again in its container: its queue and its published ports stay.

        Clients' connections break, and new connections are refused; on return the relay accepts connections again.

        Raises:
            InvalidInput: the relay's service has no restart command.
            TimedOut: the relay does not accept connections within 60 s.
        """
        service = services.service(self.node.plan.service)
        if not service.restart:
            raise InvalidInput("a relay that can restart in its container", f"service {service.name}", "use postfix")
        self.node.ask(*service.restart)

    def queue(self) -> Sequence[Queued]:
        """Return the messages in the queue, including messages that change queues during the reading.

        Raises:
            InvalidInput: this relay cannot list its queue.
        """
        return self._listing.read(self.node.ask(*self._listing.command))

    def head(self, queued: str) -> bytes | None:
        """Return the header section of a queued message, by its id; ``None`` if it has left the queue."""
        output = self.node.exec(*self._listing.head(queued))
        return output.stdout.encode() if output.status == 0 else None

    def log(self, to: str | None = None) -> list[LogLine]:
        """Return the lines of the log; with ``to``, only the lines about messages to this recipient."""
        lines = list(self.node.log())
        if to is None:
            return lines
        named = re.compile(rf"\b(?:orig_)?to=<{re.escape(to)}>", re.IGNORECASE)
        ids = {found[1] for line in lines if named.search(line.text) and (found := _ID.search(line.text))} - {"NOQUEUE"}
        return [
            line
            for line in lines
            if named.search(line.text) or ((found := _ID.search(line.text)) is not None and found[1] in ids)
        ]

    @property
    def _listing(self) -> Listing:
        queue = services.service(self.node.plan.service).queue
        if queue is None or queue.listing is None:
            found = f"node {self.node.name}, service {self.node.plan.service}"
            raise InvalidInput("a relay that lists its queue", found, "use the service postfix")
        return queue.listing


def unfinished(lines: Iterable[LogLine]) -> set[str]:
    """Return the queue ids in Postfix's log without a line ``removed`` yet."""
    ids, removed = set[str](), set[str]()
    for line in lines:
        if found := _ID.search(line.text):
            (removed if line.text.endswith(": removed") else ids).add(found[1])
    return ids - removed - {"NOQUEUE"}
