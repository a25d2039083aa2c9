"""The DNS data of a bed: one forward zone ``test.`` and the reverse zones of its slice.

Every domain has an MX (RFC 5321, 5.1), its host an A and an AAAA, and both addresses a PTR that points back, so that a
relay and a sink that look each other up find what they expect. Nothing else exists.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network

import dns.exception
import dns.name
import dns.reversename
import dns.zone
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from orchestrator.addressing import V6, Delivery, twin
from orchestrator.errors import InvalidInput
from orchestrator.model import Families

ROOT = "."
"""A bed has a root of its own, which knows ``test.`` only: every other name is denied, at once (RFC 8020)."""
FORWARD = "test."
NODES = "nodes.test"
"""Where the nodes have their names; no domain of the user's can be there."""
_TTL = 3600
_SERIAL = 1
_BUG = "report it: the zones were not built as they should be"
_SAFE = re.compile(r"[a-z0-9_.-]+\Z")


def build(
    deliveries: Collection[Delivery],
    nodes: Mapping[str, IPv4Address],
    lab: IPv4Network,
    dns_node: str,
    families: Families = Families.BOTH,
) -> dict[str, str]:
    """Return every zone of a bed: its name -> its text (RFC 1035, 5).

    Raises:
        InvalidInput: a name that cannot stand in a zone file, or that belongs to the nodes.
    """
    server = f"{dns_node}.{NODES}."
    hosts = [(f"{name}.{NODES}", address, str(address), str(twin(address))) for name, address in nodes.items()]
    forward = [_top(FORWARD, server)]
    domains = {delivery.domain for delivery in deliveries}
    for delivery in deliveries:
        domain = _checked(delivery.domain, domains)
        host, v4, v6 = f"mx.{domain}", str(delivery.v4), str(delivery.v6)
        hosts.append((host, delivery.v4, v4, v6))
        forward.append(f"{domain}. MX 10 {host}.\n{_addresses(domain, v4, v6, families)}")
    forward += [_addresses(host, v4, v6, families) for host, _, v4, v6 in hosts]

    four = {origin: [_top(origin, server)] for origin in _reverse_origins(lab)}
    six_origin = dns.reversename.from_address(str(V6.network_address)).to_text().removeprefix("0." * 20)
    six = [_top(six_origin, server)]
    for host, address, v4, _ in hosts:
        a, b, c, d = v4.split(".")
        four[f"{b}.{a}.in-addr.arpa."].append(f"{d}.{c} PTR {host}.\n")
        low = f"{int(address):08x}"
        six.append(f"{'.'.join(reversed(low))}.{'0.' * 11}0 PTR {host}.\n")
    own = nodes[dns_node]
    glue = _addresses(server.rstrip("."), str(own), str(twin(own)), families)
    root = [_top(ROOT, server), f"{FORWARD} NS {server}\n{glue}"]
    reverse = {**({six_origin: six} if families.has_v6 else {}), **(four if families.has_v4 else {})}
    zones = {ROOT: root, FORWARD: forward, **reverse}
    return {origin: "".join(lines) for origin, lines in zones.items()}


def file_name(origin: str) -> str:
    """Return what the file of a zone is called."""
    return f"{origin.rstrip('.') or 'root'}.zone"


def origin(file: str) -> str:
    """Return the zone that a file is of; the inverse of ``file_name``."""
    return ROOT if file == file_name(ROOT) else f"{file.removesuffix('.zone')}."


def check(zones: Mapping[str, str]) -> dict[str, dns.zone.Zone]:
    """Read the zones of a bed back with dnspython, hold them against each other, and return them.

    Takes 80 us a record: 1.5 s for 2,560 domains.

    Raises:
        InvalidInput: one does not parse or has no SOA or NS, a mail host or a server lacks an address of a family that
            the zones have, or an address has no PTR to a name that has this address.
    """
    read = {origin: _read(origin, text) for origin, text in zones.items()}
    records = [(name, rdata) for zone in read.values() for name, _, rdata in zone.iterate_rdatas()]
    addresses: defaultdict[dns.name.Name, dict[type, set[str]]] = defaultdict(lambda: {A: set(), AAAA: set()})
    for name, rdata in records:
        if isinstance(rdata, A | AAAA):
            addresses[name][type(rdata)].add(rdata.address)
    families = [kind for kind in (A, AAAA) if any(found[kind] for found in addresses.values())] or [A, AAAA]
    pointed_back = set()
    for name, rdata in records:
        if isinstance(rdata, PTR):
            address = dns.reversename.to_address(name)
            if any(address in kind for kind in addresses[rdata.target].values()):
                pointed_back.add(address)
        elif isinstance(rdata, MX | NS):
            host = rdata.exchange if isinstance(rdata, MX) else rdata.target
            if not all(addresses[host][kind] for kind in families):
                each = " and ".join("an IPv4" if kind is A else "an IPv6" for kind in families)
                raise InvalidInput(f"{each} address of {host}, to which {name} points", "not all of it", _BUG)
    for name, rdata in records:
        if isinstance(rdata, A | AAAA) and rdata.address not in pointed_back:
            raise InvalidInput(f"a PTR from {rdata.address}, an address of {name}, that points back", "none", _BUG)
    return read


def _read(origin: str, text: str) -> dns.zone.Zone:
    try:
        zone = dns.zone.from_text(text, origin=origin, relativize=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise InvalidInput(f"a valid zone {origin}", f"{type(error).__name__}: {error}", _BUG) from error
    if (heads := len(re.findall(r"^\S+ SOA ", text, re.MULTILINE))) != 1:  # dnspython keeps the last one of several
        raise InvalidInput(f"one SOA of zone {origin}", str(heads), _BUG)
    return zone


def _addresses(name: str, v4: str, v6: str, families: Families) -> str:
    """Return the address records of a name."""
    return (f"{name}. A {v4}\n" if families.has_v4 else "") + (f"{name}. AAAA {v6}\n" if families.has_v6 else "")


def _top(origin: str, server: str) -> str:
    """Return the head of a zone: TTL, SOA and NS."""
    return (
        f"$ORIGIN {origin}\n$TTL {_TTL}\n"
        f"@ SOA {server} hostmaster.{NODES}. ({_SERIAL} {_TTL} 600 86400 {_TTL})\n@ NS {server}\n"
    )


def _reverse_origins(lab: IPv4Network) -> list[str]:
    """Name the /16 zones that cover a lab network within 198.18.0.0/15 (RFC 1035, 3.5)."""
    first, last = lab.network_address, lab.broadcast_address
    octets = dict.fromkeys(str(address).split(".")[1] for address in (first, last))
    return [f"{octet}.198.in-addr.arpa." for octet in octets]


def _checked(domain: str, others: Collection[str]) -> str:
    if not _SAFE.match(domain):
        raise InvalidInput("a domain of letters, digits, '-', '_' and dots", repr(domain), "rename it")
    if f".{domain}".endswith(f".{NODES}"):
        raise InvalidInput(f"a domain outside {NODES}, where the nodes are", domain, "rename it")
    if f"mx.{domain}" in others:
        raise InvalidInput(f"mx.{domain} left to the mail host of {domain}", "it is a domain, too", "rename one")
    return domain
