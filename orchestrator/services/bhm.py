"""bhm, postal's black hole: accepts the mail of every domain, over IPv4 only, and counts no messages.

The listen backlog of bhm is 10. Once the backlog is full, a new connection looks established to the relay, but bhm
neither accepts the connection nor sends a greeting. bhm sleeps 1 ms for each message.
"""

import re
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from orchestrator.bed.model import Strict
from orchestrator.services import Rendered, Role, Service, Site, require_v4

_USERS = "/testbed/users"
_START = f"""\
trap 'exit 0' TERM
cd /run
bhm -t "$1" {_USERS} &
bhm=$!
until grep -q ' 00000000:0019 00000000:0000 0A ' /proc/net/tcp; do kill -0 $bhm; sleep 0.05; done
echo bhm listens
wait $bhm
"""
"""bhm prints no ready line, so the script looks for port 25, LISTEN, in the socket table. bhm writes to its cwd."""


class Settings(Strict):
    """Settings of bhm in a bed file."""

    threads: Annotated[int, Field(ge=1, le=1000)] = 20
    """Concurrent connections (``-t``)."""


class Bhm(Service[Settings]):
    """The service."""

    name = "bhm"
    role = Role.SINK
    image = "postal"
    settings = Settings
    capabilities = ("NET_BIND_SERVICE",)
    takes_mail = True
    ready = re.compile(r"^bhm listens$")
    # Postfix would wait 300 s for the greeting of a connection that bhm never accepted.
    relays = MappingProxyType({"postfix": {"main_cf": {"smtp_address_preference": "ipv4", "smtp_helo_timeout": "5s"}}})

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a sink for the whole block of delivery addresses."""
        require_v4(site, "bhm")
        users = "".join(f"user@{delivery.domain}\n" for delivery in site.deliveries)
        return Rendered(
            command=("sh", "-euc", _START, "sh", str(site.settings.threads)),
            files={_USERS: users.encode()},
            publish=("25/tcp",),
            fds=1024,
        )


SERVICE = Bhm()
