"""The load generator: a container that waits until it is told what to send (``agents.load``, by exec)."""

from orchestrator.model import Strict
from orchestrator.services import Rendered, Role, Site, waiting
from orchestrator.services.agents import files


class Settings(Strict):
    """Nothing can be set: a load is ordered, not configured."""


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
        """Render a node that stays until it is ended."""
        return Rendered(
            command=waiting.COMMAND,
            files=files(site.deliveries),
            fds=4096,
            memory_mb=96,
            peers=len(site.nodes) - 1,
        )


SERVICE = SmtpLoad()
