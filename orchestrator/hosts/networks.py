"""Networks of a bed: control bridge, private veth pair, and the lab network (macvlan) on it; or a lab on a bridge.


The control network is made first and removed last: its labels lead another command to the bed's other objects.
Frames of the lab reach the far end of the pair, in the host's network namespace. The far end has no IPv4 or IPv6
address, answers no ARP and joins no multicast group. But Linux accepts a packet for any of the host's addresses on any
interface (RFC 1122, 3.3.4.2, weak end system), and the engine turns on forwarding of other packets. So a rule drops
every frame before the frame reaches the host's IP stack.

A lab on a bridge needs neither pair nor rule: the host has no IPv4 address on the bridge, and the engine drops every
packet that would leave the bridge.
"""

import json
from ipaddress import IPv4Network, ip_address
from typing import Any

from orchestrator.bed.addressing import V4, candidates, parse_slice
from orchestrator.errors import HostCannot, InvalidInput
from orchestrator.hosts import Host, NetworkSpec
from orchestrator.hosts.helper import on_the_host
from orchestrator.hosts.ownership import Identity

ENABLE_IPV6 = "give the bed `families: v4` (or the command --families v4), or boot the host without ipv6.disable=1"

_CLOSE = """
nft "add table netdev tb$3
delete table netdev tb$3
add table netdev tb$3
add chain netdev tb$3 ends { type filter hook ingress device $2 priority 0; policy drop; }"
"""
"""Loads or replaces the rule in one transaction."""
_MAKE = f"""
ip link add name "$1" type veth peer name "$2"
for end in "$1" "$2"; do ip link set dev "$end" arp off multicast off alias "testbed $3"; done
if [ -e /proc/sys/net/ipv6/conf ]; then for end in "$1" "$2"; do ip link set dev "$end" addrgenmode none; done; fi
{_CLOSE}
ip link set dev "$2" up
ip link set dev "$1" up
"""
_REMOVE = """
ip link delete dev "$1" || ! ip link show dev "$1"
nft "add table netdev tb$3
delete table netdev tb$3"
"""
"""Idempotent, and safe to race with another clean-up."""


def make_control(host: Host, identity: Identity) -> str:
    """Make the control bridge, which carries published ports; return its name."""
    return _make_network(host, identity, identity.name("control"))


def make_guests(host: Host, identity: Identity) -> str:
    """Make the network that other containers may join; return its name. It is internal: no route leads out of it."""
    return _make_network(host, identity, identity.guests, internal=True)


def make_parent(host: Host, identity: Identity) -> str:
    """Make the lab's veth pair, with the rule that drops its frames; return the name of the lab's end."""
    _change_veth(host, _MAKE, identity, bed=identity)
    return identity.veth[0]


def close_parent(host: Host, identity: Identity) -> None:
    """Reload the rule of the veth pair after a flush of the host's rules; idempotent."""
    _change_veth(host, _CLOSE, identity)


def remove_parent(host: Host, identity: Identity) -> None:
    """Remove the veth pair and its rule; idempotent."""
    _change_veth(host, _REMOVE, identity)


def _change_veth(host: Host, script: str, identity: Identity, *, bed: Identity | None = None) -> None:
    """Run a script on a bed's veth pair. ``bed``: as in ``on_the_host``; None for a removal, else it removes itself."""
    needed = f"the veth pair of bed {identity.id}"
    on_the_host(host, script, *identity.veth, identity.id, needed=needed, bed=bed, capabilities=("NET_ADMIN",))


def require_parent(host: Host, parent: str) -> None:
    """Check that an interface of the host exists and is up; the engine would create a VLAN for a missing ``eth0.10``.

    Raises:
        HostCannot: the interface does not exist, or is down.
    """
    script = 'cd /sys/class/net && if [ -e "$1" ]; then cat "$1/carrier" || echo 0; else echo; ls; fi'
    output = on_the_host(host, script, parent, needed="the interfaces of the engine's host", do="see the engine's log")
    carrier, *others = output.split("\n")
    if carrier != "1":
        state = f"the host has {', '.join(sorted(filter(None, others)))}" if others and others[0] else "it is down"
        raise HostCannot(f"interface {parent} on the engine's host, up", state, "name another one, or none")


def require_address(host: Host, address: str) -> None:
    """Check that the host has an address to publish ports on; 0.0.0.0 and :: stand for all its addresses.

    Raises:
        InvalidInput: the text is not an address, or the host does not have this address.
    """
    needed, do = "an address of the engine's host for --publish", "name one of these, or 0.0.0.0 for all"
    try:
        wanted = ip_address(address)
    except ValueError as error:
        raise InvalidInput(needed, repr(address), "write an IPv4 or IPv6 address, such as 192.0.2.1") from error
    listed = on_the_host(host, "ip -json address", needed=needed, do="see the engine's log")
    has = [entry["local"] for device in json.loads(listed) for entry in device["addr_info"]]
    if not wanted.is_unspecified and wanted not in map(ip_address, has):
        raise InvalidInput(needed, f"{address}; the host has {', '.join(has)}", do)


def make_lab(host: Host, identity: Identity, parent: str | None, subnet: IPv4Network) -> str:
    """Make the network of the nodes: macvlan on ``parent``, or a bridge if ``parent`` is None; return its name.

    Raises:
        SubnetTaken: the subnet overlaps with another network's.
    """
    driver, name = "macvlan" if parent else "bridge", identity.name("lab")
    return _make_network(host, identity, name, driver, subnet=str(subnet), parent=parent, internal=parent is None)


def _make_network(host: Host, identity: Identity, name: str, driver: str = "bridge", **options: Any) -> str:
    host.create_network(NetworkSpec(name=name, driver=driver, labels=identity.labels(), **options))
    return name


def choose_subnet(host: Host, prefix: int, wish: str | None) -> IPv4Network:
    """Return ``wish``, or the first subnet of the range that overlaps with no network of the engine.

    Raises:
        InvalidInput: ``wish`` overlaps with a network, or every subnet is taken.
    """
    taken = [(f.name, subnet) for f in host.find({}) for subnet in f.subnets]
    if wish:
        network = parse_slice(wish)
        if other := next((f"{name} ({net})" for name, net in taken if net.overlaps(network)), None):
            raise InvalidInput(
                f"an unused subnet instead of {wish}",
                f"network {other} overlaps with it",
                "name another subnet or none, or take that network's bed down",
            )
        return network
    for network in candidates(prefix, [net for _, net in taken]):
        return network
    raise InvalidInput(
        f"a free /{prefix} in {V4}",
        f"none: all overlap with {', '.join(name for name, net in taken if net.overlaps(V4))}",
        "take a bed down (`testbed ps`, `testbed down`), or ask for fewer domains",
    )
