"""The testbed's own load generator (``agents.load``): each load is an exec in a waiting container."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator import strict_json
from orchestrator.agents.contract import LoadOrder, LoadReport, LoadTick
from orchestrator.agents.wire import recipients_of
from orchestrator.bed.model import Recipients, Strict
from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.services import GeneratesLoad, Rendered, Site
from orchestrator.services.agents import DOMAINS, PYTHON, RECIPIENTS, files

_MESSAGES: dict[str, Callable[[Any], LoadReport | LoadTick]] = {
    "tick": LoadTick.from_dict,
    "report": LoadReport.from_dict,
}


class Settings(Strict):
    """Settings of the generator in a bed file; each load has its own order (``LoadOrder``)."""

    recipients: Recipients | None = None
    """Local parts valid in every domain, or full addresses. Default: ``user`` in each domain."""


class SmtpLoad(GeneratesLoad[Settings]):
    """The service."""

    name = "smtp-load"
    image = "agents"
    settings = Settings
    numbers = True

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a node that waits for loads; raises InvalidInput if domains and recipients do not match."""
        named = site.settings.recipients
        if named:
            try:
                recipients_of([delivery.domain for delivery in site.deliveries], named)
            except ValueError as error:
                raise InvalidInput(f"recipients of node {site.node}", str(error), "change the list") from error
        recipients = "".join(f"{recipient}\n" for recipient in named or LoadOrder().recipients)
        return Rendered(
            command=self.wait,
            files={**files(site.deliveries), RECIPIENTS: recipients.encode()},
            fds=4096,
            memory_mb=96,
        )

    def command(self, order: LoadOrder) -> tuple[str, ...]:
        """Return the command of a load. Domains and recipients are in files: an argument has 128 KiB (execve(2))."""
        words = {key: value for key, value in order.to_dict().items() if key not in {"domains", "recipients"}}
        names = ("--domains", DOMAINS, "--recipients", RECIPIENTS)
        return (*PYTHON, "-m", "orchestrator.agents.load", *names, json.dumps(words))

    def read(
        self, printed: Iterable[str], order: LoadOrder, tick: Callable[[dict[str, Any]], None]
    ) -> LoadReport | None:
        """Read ticks and the report; raises EngineFailed for any other output."""
        report = None
        for line in printed:
            try:
                ((name, data),) = strict_json.loads(line).items()
                message = _MESSAGES[name](data)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                needed = f"a tick or a report of load {order.run} as JSON"
                raise EngineFailed(needed, line[:500], "read the generator's log") from error
            if isinstance(message, LoadReport):
                report = message
            else:
                tick(data)
        return report


SERVICE = SmtpLoad()
