"""The relay of a bed in a test: where the program under test sends its mail."""

from orchestrator.up.relay import Relay


class BedRelay:
    """The relay of a bed."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    @property
    def host(self) -> str:
        """Address on which the relay takes mail."""
        return self._relay.node.published_at

    @property
    def port(self) -> int:
        """Port of SMTP; STARTTLS is offered, AUTH is not needed."""
        return self._relay.node.port("25/tcp")

    def flush(self) -> None:
        """Make the relay try every queued message now."""
        self._relay.flush()
