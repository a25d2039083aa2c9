"""The relay of a bed that is up: its queue."""

from dataclasses import dataclass

from orchestrator import services
from orchestrator.up.node import RunningNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """The relay. Its methods raise the errors of ``RunningNode.ask``."""

    node: RunningNode

    def queue_length(self) -> int | None:
        """Return the number of queued messages; ``None`` if this relay cannot report it."""
        queue = services.service(self.node.plan.service).queue
        return queue.length(self.node.ask(*queue.command)) if queue else None

    def flush(self) -> None:
        """Make the relay try every queued message now; no effect if its service has no command for that."""
        if (queue := services.service(self.node.plan.service).queue) and queue.flush:
            self.node.ask(*queue.flush)
