"""postal, the load generator of the 2021 benchmark: the container waits for an exec.

It numbers no messages and keeps no latencies; what it sent is counted where it arrives.
"""

from orchestrator.agents.contract import LoadOrder
from orchestrator.bed.model import Strict
from orchestrator.services import Rendered, Site, require_v4, waiting
from orchestrator.services.third_party import ThirdParty

USERS = "/testbed/users"
"""One recipient in each domain of the bed, one a line: postal takes them at random."""
BURST_S = 5.0
"""From its start on, and from each full minute of the clock on: begun at a multiple of this, it keeps one beat."""
TOKENS = 2048
"""Messages that postal hands out to its threads at most in each tick; whoever asks for more gets no more."""
PER_MINUTE = 60 / BURST_S * TOKENS
"""So this is the most it sends, 24,576 a minute, however fast the server is (Debian 0.76+nmu1, measured)."""
MOST_PER_MINUTE = 1_000_000
"""``-r``, when as much as possible is wanted: unset, it is 24,000."""


class Settings(Strict):
    """Nothing can be set: a load is ordered, not configured."""


class Postal(ThirdParty):
    """The service."""

    name = "postal"
    image = "postal"
    settings = Settings
    burst_s = BURST_S
    most_per_minute = PER_MINUTE

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a node that stays until it is ended."""
        require_v4(site, "postal")
        users = "".join(f"user@{delivery.domain}\n" for delivery in site.deliveries)
        return Rendered(
            command=waiting.COMMAND,
            files={USERS: users.encode()},
            fds=1024,
            memory_mb=64,
            peers=len(site.nodes) - 1,
        )

    def program(self, order: LoadOrder) -> tuple[str, ...]:
        """Return its command; sizes are whole KB of 1 at least, because with ``-M 0`` some sessions hang for 60 s."""
        size = str(max(1, round(order.sizes[0] / 1024)))
        per_minute = MOST_PER_MINUTE if order.rate is None else max(1, round(order.rate * 60))
        shape = ("-t", str(order.connections), "-c", str(order.per_connection), "-r", str(per_minute))
        return ("postal", "-m", size, "-M", size, *shape, str(order.target), USERS)


SERVICE = Postal()
