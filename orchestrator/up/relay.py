"""The relay of a bed that is up: its queue."""

from dataclasses import dataclass

from orchestrator import services
from orchestrator.up.node import RunningNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """The relay."""

    node: RunningNode

    def queue_length(self) -> int | None:
        """Return the number of queued messages; ``None`` if this relay cannot report it.

        Raises:
            NodeDied: a node ended.
            EngineFailed: the queue could not be listed.
        """
        queue = services.queue_of(self.node.plan.service)
        return queue.length(self.node.ask(*queue.command)) if queue else None

    def flush(self) -> None:
        """Have the relay try every queued message now, if its service has a flush command.

        Raises:
            NodeDied: a node ended.
            EngineFailed: the relay refused.
        """
        if (queue := services.queue_of(self.node.plan.service)) and queue.flush:
            self.node.ask(*queue.flush)
