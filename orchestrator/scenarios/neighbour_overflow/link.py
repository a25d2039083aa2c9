"""Addresses on the link."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from orchestrator.bed.addressing import prefix_for
from orchestrator.services import Role
from orchestrator.up.bed import RecordedBed
from orchestrator.up.node import RunningNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Addresses of one server on the link."""

    owner: RunningNode
    first: IPv4Address
    count: int

    @property
    def prefix(self) -> IPv4Network:
        """Smallest prefix that holds them."""
        return IPv4Network((int(self.first), prefix_for(self.count)))


def blocks(bed: RecordedBed) -> tuple[Block, Block]:
    """Return the blocks of the DNS server and of the sink."""
    dns, sink, count = bed.role(Role.DNS), bed.role(Role.SINK), len(bed.plan.deliveries)
    return (
        Block(owner=dns, first=dns.plan.addresses[1], count=count),
        Block(owner=sink, first=bed.plan.mail.network_address, count=count),
    )
