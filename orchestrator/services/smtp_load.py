"""The load generator: a container that waits until it is told what to send (``agents.load``, by exec)."""

from orchestrator.agents.wire import recipients_of
from orchestrator.bed.model import Recipients, Strict
from orchestrator.errors import InvalidInput
from orchestrator.services import Rendered, Role, Site, waiting
from orchestrator.services.agents import RECIPIENTS, files


class Settings(Strict):
    """What a bed file may say of the generator; the load itself is ordered, not configured."""

    recipients: Recipients | None = None
    """Who gets the mail: local parts, which every domain has, or full addresses. Unset, ``user`` in each domain."""


class SmtpLoad:
    """The service."""

    name = "smtp-load"
    role = Role.LOAD
    image = "agents"
    settings = Settings
    capabilities: tuple[str, ...] = ()
    takes_mail = False
    ready = waiting.READY

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a node that stays until it is ended.

        Raises:
            InvalidInput: a domain has no recipient, or a recipient is of another domain.
        """
        named = site.settings.recipients
        if named:
            try:
                recipients_of([delivery.domain for delivery in site.deliveries], named)
            except ValueError as error:
                raise InvalidInput(f"recipients of node {site.node}", str(error), "change the list") from error
        own = {RECIPIENTS: "".join(f"{recipient}\n" for recipient in named).encode()} if named else {}
        return Rendered(
            command=waiting.COMMAND,
            files={**files(site.deliveries), **own},
            fds=4096,
            memory_mb=96,
            peers=len(site.nodes) - 1,
        )


SERVICE = SmtpLoad()
