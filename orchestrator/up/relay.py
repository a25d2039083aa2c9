"""The relay of a bed that is up: its queue, and its restart."""

from dataclasses import dataclass

from orchestrator import services
from orchestrator.errors import InvalidInput
from orchestrator.up.node import RunningNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """The relay. Its methods raise the errors of ``RunningNode.ask``."""

    node: RunningNode

    def queue_length(self) -> int | None:
        """Return the number of queued messages; ``None`` if this relay cannot report it."""
        queue = services.queue_of(self.node.plan.service)
        return queue.length(self.node.ask(*queue.command)) if queue else None

    def flush(self) -> None:
        """Make the relay try every queued message now; no effect if its service has no command for that."""
        if (queue := services.queue_of(self.node.plan.service)) and queue.flush:
            self.node.ask(*queue.flush)

    def restart(self) -> None:
        """Stop the relay and start it again in its container: its queue and its published ports stay.

        Connections of its clients break, and new ones are refused until it serves again, which is before the return.

        Raises:
            InvalidInput: its service has no command for that.
            TimedOut: it does not serve within 60 s.
        """
        service = services.service(self.node.plan.service)
        if not isinstance(service, services.Restarts):
            raise InvalidInput("a relay that can restart in its container", f"service {service.name}", "use postfix")
        self.node.ask(*service.restart)
