"""postal, the load generator of the 2021 benchmark: each load is an exec in a waiting container.

postal numbers no messages and measures no latency; the sink counts the messages.
"""

from orchestrator.agents.contract import LoadOrder
from orchestrator.services import Rendered, Site, require_v4
from orchestrator.services.third_party import Settings, ThirdParty

USERS = "/testbed/users"
"""File with one recipient of each domain, one a line; postal chooses recipients at random."""
BURST_S = 5.0
"""Period of postal's bursts, in seconds. Periods begin at postal's start and at each full minute, so postal is started
at a multiple of the period."""
TOKENS = 2048
"""Maximum number of messages that postal gives to its threads in each burst."""
PER_MINUTE = 60 / BURST_S * TOKENS
"""Maximum messages a minute, 24,576, at any speed of the server (Debian 0.76+nmu1, measured)."""
MOST_PER_MINUTE = 1_000_000
"""Value of postal's option ``-r`` for a load without a rate; postal's default is 24,000."""


class Postal(ThirdParty):
    """The service."""

    name = "postal"
    image = "postal"
    burst_s = BURST_S
    most_per_minute = PER_MINUTE

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a node that waits for loads."""
        require_v4(site, "postal")
        users = "".join(f"user@{delivery.domain}\n" for delivery in site.deliveries)
        return Rendered(
            command=self.wait,
            files={USERS: users.encode()},
            fds=1024,
        )

    def program(self, order: LoadOrder) -> tuple[str, ...]:
        """Return postal's command. Sizes are whole KB, at least 1: with ``-M 0``, some sessions hang for 60 s."""
        size = str(max(1, round(order.sizes[0] / 1024)))
        per_minute = MOST_PER_MINUTE if order.rate is None else max(1, round(order.rate * 60))
        shape = ("-t", str(order.connections), "-c", str(order.per_connection), "-r", str(per_minute))
        return ("postal", "-m", size, "-M", size, *shape, str(order.target), USERS)


SERVICE = Postal()
