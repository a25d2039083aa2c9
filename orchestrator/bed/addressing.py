"""Addresses of a bed: its slice, the blocks in the slice, and the IPv6 twin of every IPv4 address.

IPv4 comes from 198.18.0.0/15 (RFC 2544, appendix C.2.2), IPv6 from 2001:2::/48 (RFC 5180, section 8): both are
reserved for benchmarking. An IPv6 address carries its IPv4 twin in its last 32 bits, so one slice gives both families.

::

    slice     198.18.0.0/19      the lab network of one bed, aligned to its own size
      nodes   198.18.0.0/..      .0 network, .1 the engine's gateway (never routed), then one address for each node
      blocks  198.18.16.0/20     aligned powers of two: a sink's prefix, or a server's addresses beyond the first
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from orchestrator.errors import InvalidInput

V4 = IPv4Network("198.18.0.0/15")
V6 = IPv6Network("2001:2::/48")
_RESERVED = 2
"""Number of reserved addresses: the network's own address and the engine's gateway."""


def twin(address: IPv4Address) -> IPv6Address:
    """Return the IPv6 twin of an IPv4 address."""
    return IPv6Address(int(V6.network_address) | int(address))


def twin_network(network: IPv4Network) -> IPv6Network:
    """Return the IPv6 prefix that holds the twins of an IPv4 prefix."""
    return IPv6Network((int(V6.network_address) | int(network.network_address), 96 + network.prefixlen))


def prefix_for(count: int) -> int:
    """Return the length of the smallest IPv4 prefix with ``count`` addresses."""
    return 32 - max(count - 1, 0).bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Delivery addresses of one domain."""

    domain: str
    v4: IPv4Address
    v6: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The slice of a bed, divided into node addresses and blocks."""

    slice: IPv4Network
    nodes: dict[str, IPv4Address]
    """The service address of every node."""
    blocks: dict[str, IPv4Network]
    """The prefix of each requested block, by name."""


def slice_prefix(nodes: int, blocks: Iterable[int]) -> int:
    """Return the prefix length of a slice for these nodes and blocks; raises InvalidInput if it exceeds the range."""
    sizes = [1 << (32 - prefix_for(size)) for size in (nodes + _RESERVED, *blocks)]
    prefix = prefix_for(sum(sizes))
    if prefix < V4.prefixlen:
        raise InvalidInput(
            f"{sum(sizes):,} lab addresses",
            f"{V4.num_addresses:,} in {V4}, the range reserved for benchmarks",
            "ask for fewer domains or addresses",
        )
    return prefix


def lay_out(network: IPv4Network, nodes: Iterable[str], blocks: Mapping[str, int]) -> Layout:
    """Divide ``network``: first the nodes, then the blocks from smallest to largest, each aligned to its size."""
    names = list(nodes)
    first = network.network_address + _RESERVED
    base = int(network.network_address) + (1 << (32 - prefix_for(len(names) + _RESERVED)))
    placed: dict[str, IPv4Network] = {}
    for name, size in sorted(blocks.items(), key=lambda item: item[1]):
        prefix = prefix_for(size)
        width = 1 << (32 - prefix)
        base = -(-base // width) * width
        placed[name] = IPv4Network((base, prefix))
        base += width
    if base > int(network.broadcast_address) + 1:
        raise InvalidInput(
            f"a subnet of at least /{slice_prefix(len(names), blocks.values())}",
            f"{network}, with {network.num_addresses:,} addresses",
            "name a larger subnet, or none",
        )
    return Layout(slice=network, nodes={name: first + i for i, name in enumerate(names)}, blocks=placed)


def candidates(prefix: int, taken: Iterable[IPv4Network]) -> Iterator[IPv4Network]:
    """Yield the slices of this prefix length that do not overlap ``taken``, lowest first."""
    occupied = list(taken)
    return (s for s in V4.subnets(new_prefix=prefix) if not any(s.overlaps(o) for o in occupied))


def parse_slice(text: str) -> IPv4Network:
    """Read a user's subnet; raises InvalidInput if it is not a subnet of 198.18.0.0/15."""
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise InvalidInput(f"an IPv4 subnet within {V4}", f"{text!r}: {error}", "correct it, or name none") from error
    if not network.subnet_of(V4):
        raise InvalidInput(
            f"a subnet within {V4} (RFC 2544), reserved for benchmarks", text, "choose one there, or name none"
        )
    return network
