"""smtp-source, Postfix's own load generator: a container that waits until it is told what to send.

It sends to one recipient for each process, without PIPELINING and TLS, and measures no latency.
"""

from orchestrator.bed.model import Strict
from orchestrator.errors import InvalidInput
from orchestrator.services import Offer, Rendered, Role, Site, waiting

_ENDLESS = str(2**31 - 1)
"""Messages to send (``-m``): it is ended before."""


class Settings(Strict):
    """Nothing can be set: a load is ordered, not configured."""


class SmtpSource:
    """The service."""

    name = "smtp-source"
    role = Role.LOAD
    image = "postfix"
    settings = Settings
    capabilities: tuple[str, ...] = ()
    takes_mail = False
    ready = waiting.READY
    period_s = 1.0

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a node that stays until it is ended."""
        return Rendered(command=waiting.COMMAND, fds=1024, memory_mb=32, peers=len(site.nodes) - 1)

    def command(self, offer: Offer) -> tuple[str, ...]:
        """Return the command; a connection carries one message, or (``-d``) as many as there are.

        Raises:
            InvalidInput: a rate is asked for.
        """
        if offer.rate is not None:
            raise InvalidInput("a load as fast as it goes", "a rate: smtp-source keeps none", "leave the rate out")
        reuse = ("-d",) if offer.per_connection > 1 else ()
        mail = ("-f", f"load@{offer.domain}", "-t", f"user@{offer.domain}", "-l", str(offer.size))
        return ("smtp-source", *reuse, "-s", str(offer.connections), "-m", _ENDLESS, *mail, f"inet:[{offer.target}]:25")


SERVICE = SmtpSource()
