"""Fixes that drive() applies: a larger neighbour table, or fewer entries that count towards the table's limit."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from orchestrator.bed.addressing import prefix_for
from orchestrator.hosts.kernel_settings import HostSettings
from orchestrator.services import Role
from orchestrator.up.bed import RecordedBed
from orchestrator.up.node import RunningNode

SETTING = "net.ipv4.neigh.default.gc_thresh"

_LAB = "lab=$(ip -oneline -4 address show to \"$1\" | awk '{print $2}')"
"""Script: finds the network device of the lab by the node's own address there ($1)."""
_MAC = f'{_LAB}; cat "/sys/class/net/$lab/address"'
_ROUTE = f'{_LAB}; ip route replace "$2" via "$3" dev "$lab"'
_PERMANENT = f"""{_LAB}
n=$2; end=$(($2 + $3))
while [ $n -lt $end ]; do
    address=$((n >> 24)).$((n >> 16 & 255)).$((n >> 8 & 255)).$((n & 255))
    echo "neighbour replace $address lladdr $4 nud permanent dev $lab"
    n=$((n + 1))
done | ip -batch -
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive addresses of one server on the link."""

    owner: RunningNode
    first: IPv4Address
    count: int

    @property
    def prefix(self) -> IPv4Network:
        """Smallest prefix that holds all addresses of the block."""
        return IPv4Network((int(self.first), prefix_for(self.count)))


def blocks(bed: RecordedBed) -> tuple[Block, Block]:
    """Return the blocks of addresses of the DNS server and of the sink."""
    dns, sink, count = bed.role(Role.DNS), bed.role(Role.SINK), len(bed.plan.deliveries)
    return (
        Block(owner=dns, first=dns.plan.addresses[1], count=count),
        Block(owner=sink, first=bed.plan.mail.network_address, count=count),
    )


def thresholds(addresses: int) -> dict[str, str]:
    """Return kernel settings for a table of 4 entries for each address, at least 4,096, rounded up to a power of 2."""
    limit = 1 << max(12, (4 * addresses - 1).bit_length())
    return {f"{SETTING}1": f"{limit // 4}", f"{SETTING}2": f"{limit // 2}", f"{SETTING}3": f"{limit}"}


def apply_fix(bed: RecordedBed, fix: str | None, settings: HostSettings | None) -> None:
    """Apply the fix gc-thresh to the host through ``settings``, or any other fix to load generator and relay."""
    if settings:
        settings.apply()
        return
    for block in blocks(bed):
        mac = block.owner.change_network(_MAC, str(block.owner.plan.v4)).strip()
        for node in (bed.role(Role.LOAD), bed.role(Role.RELAY)):
            if fix == "route":
                node.change_network(_ROUTE, str(node.plan.v4), str(block.prefix), str(block.owner.plan.v4))
            else:
                node.change_network(_PERMANENT, str(node.plan.v4), str(int(block.first)), str(block.count), mac)
