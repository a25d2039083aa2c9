"""The load generator: a container that waits until it is told what to send (``agents.load``, by exec)."""

import re

from orchestrator.model import Strict
from orchestrator.services import Rendered, Role, Site
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
    ready = re.compile(r"^waiting for orders$")

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a node that stays until it is ended."""
        # The shell reaps what an exec leaves behind, and ends at once on SIGTERM because of its trap.
        wait = "trap 'exit 0' TERM; echo waiting for orders; sleep infinity & wait"
        return Rendered(
            command=("sh", "-c", wait),
            files=files(site.deliveries),
            fds=4096,
            memory_mb=96,
            peers=len(site.nodes) - 1,
        )


SERVICE = SmtpLoad()
