"""The relay of a bed in a test: the program under test sends its mail to it."""

import time
from collections.abc import Sequence

from orchestrator.services import Queued
from orchestrator.up.relay import Relay, unfinished

_LATE_S = 2.0
"""Time limit for log lines that are not written yet; most appear within 0.03 s."""
_POLL_S = 0.02


class BedRelay:
    """The relay. Methods raise EngineFailed if the engine refuses, or NodeDied if a node has ended."""

    def __init__(self, relay: Relay, host: str) -> None:
        self._relay = relay
        self.host = host
        """IP address at which the relay takes mail."""

    @property
    def port(self) -> int:
        """Port of SMTP (25 in the bed); in the bed `mail` it offers STARTTLS and needs no AUTH."""
        return self._relay.node.port("25/tcp")

    @property
    def submission_port(self) -> int:
        """Port of submission (587 in the bed): STARTTLS, then AUTH; name and password in the bed `mail`: testbed."""
        return self._relay.node.port("587/tcp")

    @property
    def submissions_port(self) -> int:
        """Port of submission with TLS from the start (465 in the bed, RFC 8314), and AUTH."""
        return self._relay.node.port("465/tcp")

    def queue(self) -> Sequence[Queued]:
        """Return the queued messages: ``id``, ``sender``, ``recipients`` (each with its reason to wait), and ``state``.

        ``state`` is ``deferred`` for a message that waits for its next attempt. A message that changes queues during
        the call may lack sender and recipients.
        """
        return self._relay.queue()

    def flush(self) -> None:
        """Make the relay try every queued message now, including deferred ones."""
        self._relay.flush()

    def restart(self) -> None:
        """Stop the relay and start it again: its queue and its ports stay. On return the relay serves again.

        Raises:
            TimedOut: the relay does not serve within 60 s.
        """
        self._relay.restart()

    def log(self, to: str | None = None) -> list[str]:
        """Return the lines of the relay's log; with ``to``, only the lines about messages to this recipient.

        A line appears a moment after its event. With ``to``, the lines of messages that left the queue are complete.
        """
        queued = {one.id for one in self._relay.queue()} if to else set[str]()
        deadline = time.monotonic() + _LATE_S
        while unfinished(lines := self._relay.log(to)) - queued and to and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return [line.text for line in lines]
