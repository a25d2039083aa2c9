"""The sink of a bed that is up: counts the arrived messages of each load."""

import json
from dataclasses import dataclass
from typing import Any

from orchestrator import services
from orchestrator.agents.contract import SinkReport
from orchestrator.errors import InvalidInput
from orchestrator.up.collect.logs import Watch
from orchestrator.up.node import RunningNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """The sink. ``run`` identifies a load: eight hex digits."""

    node: RunningNode

    @property
    def counts(self) -> bool:
        """Whether the sink can count the messages of each load."""
        return bool(services.service(self.node.plan.service).control)

    def begin(self, run: str, load: str) -> None:
        """Begin to count a load's messages, and record the sink's ticks (periodic counts) under the load's name."""
        self._request("begin", run)
        self.node.recording.keep_ticks(self.node.name, run, load)

    def expect(self, run: str, messages: int) -> Watch:
        """Return a watch for the line that the sink logs when this many messages of a load have arrived."""
        arrival = self.node.recording.watch(self.node.name, rf'"complete": "{run}"')
        self._request("expect", run, str(messages))
        return arrival

    def count(self, run: str) -> int:
        """Return the number of a load's messages that arrived; unnumbered messages of any load count, too."""
        answer = self._request("count", run)
        return int(answer["delivered"]) + int(answer["foreign"])

    def report(self, run: str) -> SinkReport:
        """Return the sink's report of a load."""
        return SinkReport.from_dict(self._request("report", run))

    def _request(self, *words: str) -> dict[str, Any]:
        """Send a request to the sink's control program and return its answer.

        Raises:
            InvalidInput: this sink does not count messages.
            EngineFailed: the sink refused.
        """
        kind = services.service(self.node.plan.service)
        if not kind.control:
            needed, found = "a sink that counts messages", f"service {kind.name}"
            raise InvalidInput(needed, found, "use the service blackhole")
        answer: dict[str, Any] = json.loads(self.node.ask(*kind.control, *words))
        self.node.recording.check()
        return answer
