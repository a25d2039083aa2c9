"""Time limits of SMTP replies, adapted to the server's earlier replies. Times are CLOCK_MONOTONIC, in ns."""

from collections import Counter

from orchestrator.agents.smtp import Connection, SessionState

GOODBYE_S = 2.0
"""Time-out, in seconds, of the reply to QUIT, and of greetings that are still missing when the load ends."""
MOST_MUTE = 3
"""After this many consecutive unanswered QUITs, the load no longer waits for replies to QUIT. Pipelined QUITs do not
count."""
OVERTAKEN_S = 5.0
"""Time-out, in seconds, of a greeting once a newer connection has one; a listen(2) queue is first in, first out."""
SLACK = 3
"""A greeting may take this many times as long as the slowest greeting so far."""
NO_GREETING = "no greeting"
_UNANSWERED = {
    SessionState.CONNECT: "no connection",
    SessionState.GREETING: NO_GREETING,
    SessionState.QUIT: "no reply to QUIT",
}
"""State of a connection -> cause of its time-out. In any other state, the cause is ``timeout``."""


class Patience:
    """Time limits of one load, adapted to its server."""

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
        """Adapt the time limits to a connection whose EHLO has been answered."""
        self._newest_ready = max(self._newest_ready, connection.opened)
        self._slowest_greeting = max(self._slowest_greeting, now - connection.connected)

    def goodbye(self) -> None:
        """Record an answered QUIT: the count of unanswered QUITs begins again at 0."""
        self._mute = 0

    def awaits_goodbye(self) -> bool:
        """Return whether to wait for the reply to QUIT; if not, count the connection in ``goodbyes``."""
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
