"""smtp-source, Postfix's own load generator: each load is an exec in a waiting container.

Each process of smtp-source sends to one recipient, without PIPELINING or TLS. It measures no latency.
"""

from orchestrator.agents.contract import LoadOrder
from orchestrator.errors import InvalidInput
from orchestrator.services import Rendered, Site
from orchestrator.services.third_party import Settings, ThirdParty

_ENDLESS = str(2**31 - 1)
"""Number of messages to send (``-m``): more than any load can send in its time."""


class SmtpSource(ThirdParty):
    """The service."""

    name = "smtp-source"
    image = "postfix"

    def render(self, site: Site[Settings]) -> Rendered:  # noqa: ARG002
        """Render a node that waits for loads."""
        return Rendered(command=self.wait, fds=1024, memory_mb=32)

    def program(self, order: LoadOrder) -> tuple[str, ...]:
        """Return the command of smtp-source. A connection carries one message or, with ``-d``, all messages."""
        if order.rate is not None:
            raise InvalidInput("a load without a rate", "a rate, which smtp-source cannot keep", "leave the rate out")
        reuse = ("-d",) if order.per_connection > 1 else ()
        mail = ("-f", order.sender, "-t", f"user@{order.domains[0]}", "-l", str(order.sizes[0]))
        return ("smtp-source", *reuse, "-s", str(order.connections), "-m", _ENDLESS, *mail, f"inet:[{order.target}]:25")


SERVICE = SmtpSource()
