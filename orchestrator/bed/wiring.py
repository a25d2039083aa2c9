"""Wiring of a node to its bed: the start script of its container, and its firewall rules.

The script runs with NET_ADMIN before the service starts, so a service never starts with a default route, with Docker's
resolver, or before all its addresses are there. The script then drops that capability for good (capabilities(7),
bounding set) and executes the service. ``testbed plan`` shows every file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, summarize_address_range
from shlex import quote

from orchestrator.bed.addressing import twin, twin_network
from orchestrator.bed.model import Families

SETUP_CAPABILITIES = ("NET_ADMIN", "SETPCAP")
"""Capabilities of the start script; the service does not have these."""

SYSCTLS = {
    "net.ipv4.ip_local_port_range": "1024 65535",  # a relay and a load generator open many connections
    "net.ipv4.tcp_tw_reuse": "1",  # ... and as many wait in TIME-WAIT (RFC 6191)
    "net.core.somaxconn": "4096",
}
"""Settings of every node's own network namespace (Documentation/networking/ip-sysctl.rst)."""
SYSCTLS_V6 = {
    "net.ipv6.conf.all.disable_ipv6": "0",  # Docker disables IPv6 in a container if its network has none
    "net.ipv6.conf.default.disable_ipv6": "0",
}
"""Further settings for beds with IPv6; a container fails to start if its kernel lacks one."""

DIRECTORY = "/testbed"
CONTROL = f"{DIRECTORY}/control"
"""File written at the start: the prefixes that may connect. These are the control network (172.18.0.0/16), which the
host uses, and the guest network; or all addresses, if ports are published for other machines."""
CERTIFICATE = f"{DIRECTORY}/certificate.pem"
"""File with key and certificate of the node, written when its container is created."""
AUTHORITY = f"{DIRECTORY}/ca.pem"
"""File with the certificate of the bed's authority, written when the container is created."""
PUBLISHED = f"{DIRECTORY}/published"
"""File written when the container is created, if its ports are published on another address than 127.0.0.1."""
WALL = f"{DIRECTORY}/wall"
"""File written at the start: the wall, a ruleset for nft(8) with the names of the node's devices."""
WALL_LOADED = f"{DIRECTORY}/wall.loaded"
"""File written at the start: the rules as nft(8) lists them after loading."""

_ANSWERS = 100
"""Routing table of replies to other machines, used after the main table (ip-rule(8))."""
ON_LAB = 2560
"""Maximum number of further addresses on the lab device: inet_insert_ifa (net/ipv4/devinet.c) walks the interface's
whole list at every insert, and above this number, several devices are faster."""
SHARE = 1024
"""Addresses on each device if there are more than ``ON_LAB``: 65,536 take 3 s; with 2,048 on each, 4.5 s (measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One node's place on the lab network."""

    v4: IPv4Address
    """The service address of the node; assigned by the engine."""
    lab: IPv4Network
    families: Families = Families.BOTH
    further: Sequence[IPv4Address] = ()
    """Real addresses other than the service address; each has an IPv6 twin."""
    enumerated6: bool = False
    """Whether the service needs each of its IPv6 addresses on an interface."""
    anyip: IPv4Network | None = None
    """A prefix that is local by one route, without an address on an interface."""
    routes: Sequence[tuple[IPv4Network | IPv6Network, IPv4Address]] = ()
    """Prefixes with a route through another node: one neighbour entry for all addresses."""
    resolver: IPv4Address | None = None
    attempts: int = 3
    """Attempts of one look-up before it fails (resolv.conf(5))."""
    publish: Sequence[str] = ()
    """Ports that the control interface forwards to the service address, such as ``25/tcp``."""
    guests: bool = False
    """Whether the node is on the guest network, whose interface forwards the same ports and accepts nothing else."""


def files(wire: Wire, command: Sequence[str], capabilities: Sequence[str]) -> dict[str, bytes]:
    """Render the files of a node's network set-up, by absolute path; ``/testbed/enter`` starts the container."""
    rendered = {
        "enter": _enter(wire, command, capabilities),
        "addresses": _addresses(wire),
        "ruleset": _ruleset(wire),
        "resolv.conf": _resolv_conf(wire),
    }
    return {f"{DIRECTORY}/{name}": text.encode() for name, text in rendered.items()}


def sysctls(families: Families) -> dict[str, str]:
    """Return the settings of a node's network namespace."""
    return {**(SYSCTLS_V6 if families.has_v6 else {}), **SYSCTLS}


def _resolv_conf(wire: Wire) -> str:
    if wire.resolver is None:
        return ""
    server = wire.resolver if wire.families.has_v4 else twin(wire.resolver)
    return f"nameserver {server}\noptions timeout:2 attempts:{wire.attempts}\n"


def without_setup_rights(command: Sequence[str], capabilities: Sequence[str]) -> tuple[str, ...]:
    """Wrap a command so that it runs with these capabilities and no others."""
    keep = ",".join(["-all", *(f"+{c.lower()}" for c in capabilities)])
    return ("setpriv", f"--bounding-set={keep}", "--inh-caps=-all", "--no-new-privs", "--", *command)


def _enter(wire: Wire, command: Sequence[str], capabilities: Sequence[str]) -> str:
    """Render the start script.

    The control device is the device with the default route; without a default route, another device with an address
    than the lab's. A third device with an address belongs to the guest network, which is internal and so has no default
    route. There may be further devices: a kernel with ipip or sit adds
    ``tunl0`` or ``sit0`` to every network namespace (Documentation/admin-guide/sysctl/net.rst,
    fb_tunnels_only_for_init_net).

    If ports are published for other machines, the engine keeps the source addresses of the clients. So replies
    from the service address need a route to these clients; the wall lets only replies pass.
    """
    become = " ".join(quote(part) for part in without_setup_rights(command, capabilities))
    return f"""#!/bin/sh
set -eu
set -- $(ip -oneline -4 address show to {wire.v4}); lab=$2
addressed=$(ip -oneline -4 address show scope global | cut -d ' ' -f 2)
control=lo guests=lo
for device in $addressed $(ip -4 route show default | grep -o 'dev [^ ]*' | cut -d ' ' -f 2); do
    [ "$device" = "$lab" ] || control=$device
done
for device in $addressed; do
    [ "$device" = "$lab" ] || [ "$device" = "$control" ] || guests=$device
done
printf 'define %s = %s\\n' lab "$lab" control "$control" guests "$guests" | cat - {DIRECTORY}/ruleset > {WALL}
nft --file {WALL}
nft --stateless list table inet bed > {WALL_LOADED}
for device in "$control" "$guests"; do ip -4 route show dev "$device" proto kernel; done | cut -d ' ' -f 1 > {CONTROL}
gateway=$(ip -4 route show default | cut -d ' ' -f 3)
ip route flush default
if [ -e {PUBLISHED} ]; then
    echo 0.0.0.0/0 >> {CONTROL}
    ip rule add from {wire.v4} lookup {_ANSWERS} priority 32768
    ip route add default via "$gateway" dev "$control" table {_ANSWERS}
fi
[ ! -e /proc/sys/net/ipv6/conf ] || ip -6 route flush default
sed "s/@lab$/$lab/" {DIRECTORY}/addresses | ip -batch -
cat {DIRECTORY}/resolv.conf > /etc/resolv.conf
exec {become}
"""


def _addresses(wire: Wire) -> str:
    """Render commands for ``ip -batch``; with ``nodad``, because the plan assigns no address twice.

    The last address of a slice may be a delivery address, so the lab has no broadcast address.
    """
    lines = [f"route del table local broadcast {wire.lab.broadcast_address} dev @lab"]
    if wire.families.has_v6:
        lines += [f"address add {twin(wire.v4)}/{twin_network(wire.lab).prefixlen} nodad dev @lab"]
    lines += _further(wire)
    if wire.anyip:
        prefixes = (wire.anyip, twin_network(wire.anyip))
        lines += [f"route add local {prefix} dev lo" for prefix in prefixes if _is_of(prefix, wire.families)]
    for prefix, via in wire.routes:
        if not _is_of(prefix, wire.families):
            continue
        lines += [f"route add {prefix} via {via if isinstance(prefix, IPv4Network) else twin(via)} dev @lab"]
    return "\n".join(lines) + "\n"


def _is_of(prefix: IPv4Network | IPv6Network, families: Families) -> bool:
    return families.has_v4 if isinstance(prefix, IPv4Network) else families.has_v6


def _further(wire: Wire) -> list[str]:
    """Render the further addresses; if they are many, over several devices, so that adding them takes linear time.

    The further devices are ends of veth pairs inside the namespace and carry no frames: the lab device answers ARP for
    every address of its node (arp_ignore 0, ip-sysctl.rst), and replies leave by the lab's route. A device without ARP,
    and ``lo``, joins no multicast group for an IPv6 address. On the lab device each address joins a group (RFC 4291,
    2.7.1): 2,560 take 2.3 s instead of 0.2 s. So IPv6 addresses go on the veth devices or ``lo``, and
    peers need a route to them (``plan``).

    addrconf_verify_rtnl (net/ipv6/addrconf.c) walks every IPv6 address of a namespace at every insert: 20,000 take 7 s
    and more. Above ``ON_LAB``, IPv6 addresses are local as prefixes, unless the service listens on each.
    """
    if len(wire.further) <= ON_LAB:
        shares = [("@lab", "lo", wire.further)]
    else:
        parts = [wire.further[i : i + SHARE] for i in range(0, len(wire.further), SHARE)]
        names = [f"further{i}" for i in range(len(parts) - 1)]
        shares = [("@lab", "lo", parts[0]), *((n, n, p) for n, p in zip(names, parts[1:], strict=True))]
    four, six = wire.families.has_v4, wire.families.has_v6
    real6 = six and (wire.enumerated6 or len(shares) == 1)
    quiet = "arp off addrgenmode none" if six else "arp off"
    lines = []
    for number in range(0, len(shares) - 1, 2):
        ends = (f"further{number}", f"further{number + 1}")
        lines += ["link add name {} type veth peer name {}".format(*ends)]
        lines += [f"link set dev {end} {change}" for end in ends for change in (quiet, "up")]
    for device, device6, addresses in shares:
        lines += [f"address add {address}/32 dev {device}" for address in addresses if four]
        lines += [f"address add {twin(address)}/128 nodad dev {device6}" for address in addresses if real6]
    if six and not real6:
        prefixes = summarize_address_range(twin(wire.further[0]), twin(wire.further[-1]))
        lines += [f"route add local {prefix} dev lo" for prefix in prefixes]
    return lines


def _ruleset(wire: Wire) -> str:
    """Render the rules for nft(8): packets leave only for the lab, or as replies to the host and to guests.

    Lab traffic is not tracked: a relay run opens more connections than a connection table holds. A reload replaces the
    table in one step.
    """
    served = ("$control", "$guests") if wire.guests else ("$control",)
    forward = "\n        ".join(
        f"iifname {device} {protocol} dport {port} dnat ip to {wire.v4}"
        for device in served
        for port, protocol in (entry.split("/") for entry in wire.publish)
    )
    only_published = "iifname $guests ct status dnat accept\n        iifname $guests reject" if wire.guests else ""
    replies = "\n        ".join(f"oifname {device} ct state established,related accept" for device in served)
    lab = []
    if wire.families.has_v4:
        lab += [f"oifname $lab ip daddr {wire.lab} accept"]
    if wire.families.has_v6:
        lab += [f"oifname $lab ip6 daddr {twin_network(wire.lab)} accept"]
        lab += ["oifname $lab icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"]
    allowed = "\n        ".join(lab)
    return f"""table inet bed
delete table inet bed
table inet bed {{
    chain untracked_in {{
        type filter hook prerouting priority raw; policy accept;
        iifname $lab notrack
    }}
    chain untracked_out {{
        type filter hook output priority raw; policy accept;
        oifname $lab notrack
    }}
    chain published {{
        type nat hook prerouting priority dstnat; policy accept;
        {forward}
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        icmpv6 type nd-router-advert drop
        {only_published}
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
    }}
    chain output {{
        type filter hook output priority filter; policy drop;
        ip daddr 127.0.0.11 reject
        oifname lo accept
        {allowed}
        {replies}
        reject
    }}
}}
"""
