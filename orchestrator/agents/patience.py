"""Time limits of replies (greeting, QUIT, others), learnt from the server's earlier replies; CLOCK_MONOTONIC, ns."""

from collections import Counter

from orchestrator.agents.smtp import Connection, SessionState

GOODBYE_S = 2.0
"""Time-out, in seconds, for the reply to QUIT, and for the last greetings once the load's time is over."""
MOST_MUTE = 3
"""After this many consecutive unanswered QUITs, none of them pipelined, replies to QUIT are no longer awaited."""
OVERTAKEN_S = 5.0
"""Time-out, in seconds, for a greeting once a newer connection has one: listen(2) queues are first in, first out."""
SLACK = 3
"""A greeting may take this many times as long as the slowest one so far."""
NO_GREETING = "no greeting"
_UNANSWERED = {
    SessionState.CONNECT: "no connection",
    SessionState.GREETING: NO_GREETING,
    SessionState.QUIT: "no reply to QUIT",
}
"""Cause of a time-out, by the awaited reply; for any other reply it is ``timeout``."""


class Patience:
    """Time limits that a load has learnt from its server."""

    def __init__(self, timeout_s: float, *, one_server: bool) -> None:
        self.timeout = int(timeout_s * 1e9)
        self.pipelines_quit = True
        """False once the server has dropped a QUIT pipelined with the end of a message, as Courier does."""
        self.goodbyes: Counter[str] = Counter()
        """Connections without an orderly end, by cause."""
        self._one_server = one_server
        self._mute = 0
        self._newest_ready = self._slowest_greeting = 0

    def ready(self, connection: Connection, now: int) -> None:
        """Learn from a connection whose EHLO has been answered."""
        self._newest_ready = max(self._newest_ready, connection.opened)
        self._slowest_greeting = max(self._slowest_greeting, now - connection.connected)

    def goodbye(self) -> None:
        """Learn from a QUIT that was answered."""
        self._mute = 0

    def awaits_goodbye(self) -> bool:
        """Return False, and count the connection, if the server leaves QUITs unanswered."""
        if self._mute < MOST_MUTE:
            return True
        self.goodbyes["QUIT not waited for"] += 1
        return False

    def unanswered(self, connection: Connection) -> str:
        """Record a connection that exceeded its time limit; return the cause."""
        cause = _UNANSWERED.get(connection.state, "timeout")
        if connection.state is SessionState.QUIT:
            self.goodbyes[cause] += 1
            if connection.quit_pipelined:
                self.pipelines_quit = False
            else:
                self._mute += 1
        return cause

    def exhausted(self, connection: Connection, now: int) -> bool:
        """Return whether a connection has exceeded the time limit of its reply."""
        if connection.state is SessionState.IDLE:
            return False
        patience = self.timeout
        if connection.state is SessionState.QUIT:
            patience = min(self.timeout, int(GOODBYE_S * 1e9))
        elif connection.state is SessionState.GREETING and self._one_server and connection.opened < self._newest_ready:
            patience = self._greeted_within(OVERTAKEN_S)
        return now - connection.since > patience

    def at_the_end(self) -> int:
        """Return the time limit, in ns, of the last greetings of a finished load."""
        return self._greeted_within(GOODBYE_S)

    def _greeted_within(self, seconds: float) -> int:
        """Return the greeting time-out in ns: at least ``seconds``, longer for a slow server."""
        return min(self.timeout, max(int(seconds * 1e9), SLACK * self._slowest_greeting))
