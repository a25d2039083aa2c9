"""The addresses that are on the link."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from orchestrator.bed.addressing import prefix_for
from orchestrator.plan import NodePlan
from orchestrator.services import Role
from orchestrator.up.live import Live


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Addresses of one server that are on the link."""

    owner: NodePlan
    first: IPv4Address
    count: int

    @property
    def prefix(self) -> IPv4Network:
        """The prefix that they fill, or begin."""
        return IPv4Network((int(self.first), prefix_for(self.count)))


def blocks(live: Live) -> tuple[Block, Block]:
    """Return the addresses of the DNS server and of the sink."""
    dns, sink, count = live.plan.node(Role.DNS), live.plan.node(Role.SINK), len(live.plan.deliveries)
    return (
        Block(owner=dns, first=dns.addresses[1], count=count),
        Block(owner=sink, first=live.plan.mail.network_address, count=count),
    )
