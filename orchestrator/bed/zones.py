"""The DNS data of a bed: a root, a zone for each top-level domain, and the reverse zones of its slice.

Every domain has an MX (RFC 5321, 5.1) of the bed, unless ``records`` sets the domain's MX, or one of the user's own
zones contains the domain. The mail host and every node have an address in each family of the bed, and matching PTRs, so
that reverse look-ups by relay and sink succeed. Only ``records`` and the user's own zones add other names.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import dns.exception
import dns.reversename
import dns.zone
from dns.rdatatype import NS

from orchestrator.bed.addressing import V6, Delivery, twin
from orchestrator.bed.model import Families
from orchestrator.errors import InvalidInput

ROOT = "."
"""The bed's own root zone delegates the top-level domains of the bed only: every other name is NXDOMAIN (RFC 8020)."""
NODES = "nodes.test"
"""The domain of the nodes' names; a user's domain cannot be below it."""
_TTL = 3600
_SERIAL = 1
_BUG = "report it: testbed built invalid zones"
_FURTHER = "; further records\n"
"""Line before the records of the bed file: these are parsed as DNS data, and not compared with the bed's own."""
_SAFE = re.compile(r"[a-z0-9_.-]+\Z")
_MAX_NAME = 254
"""Octets of a name as text, its final dot included: 255 on the wire (RFC 1035, 2.3.4)."""
_NAME = r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*"
_RECORD = re.compile(rf"({_NAME}\.?) (A|AAAA|PTR|NS|MX \d{{1,5}}) ([0-9a-f:.]+|{_NAME}\.)\n")
"""A line in the format of ``build``: owner, type, data."""
_REVERSE_V4, _REVERSE_V6 = ".in-addr.arpa.", ".ip6.arpa."

Address = IPv4Address | IPv6Address
Record = tuple[str, str, Address | str]
"""Owner, type, data: an address, or the name of a target; names are absolute."""


def build(
    deliveries: Collection[Delivery],
    nodes: Mapping[str, IPv4Address],
    lab: IPv4Network,
    dns_node: str,
    families: Families = Families.BOTH,
    records: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    own: Collection[str] = (),
) -> dict[str, str]:
    """Return every zone of a bed: name -> text (RFC 1035, 5); raises InvalidInput for an unusable domain or record.

    ``records``: owner -> type -> data, as ``Bed.records``. ``own``: names of the user's own zones; the bed delegates
    these zones, and has no record in them.
    """
    records = records or {}
    server = f"{dns_node}.{NODES}."
    hosts = [(f"{name}.{NODES}", address, str(address), str(twin(address))) for name, address in nodes.items()]
    forward: defaultdict[str, list[str]] = defaultdict(list, {_top_level(NODES): []})
    domains = {delivery.domain for delivery in deliveries}
    taken = {*domains, *own}
    for zone in own:
        forward[_top_level(_safe(zone, ()))].append(f"{zone}. NS {server}\n")
    for delivery in (each for each in deliveries if not _within(each.domain, own)):
        domain = _safe(delivery.domain, taken)
        host, v4, v6 = f"mx.{domain}", str(delivery.v4), str(delivery.v6)
        hosts.append((host, delivery.v4, v4, v6))
        mx = "" if "MX" in records.get(domain, ()) else f"{domain}. MX 10 {host}.\n"
        forward[_top_level(domain)].append(mx + _addresses(domain, v4, v6, families))
    for host, _, v4, v6 in hosts:
        forward[_top_level(host)].append(_addresses(host, v4, v6, families))

    own_names = {*domains, *(host for host, *_ in hosts)}
    for owner, kinds in records.items():
        _refuse_records(owner, kinds, own_names, own)
        lines = [f"{owner}. {kind} {data}\n" for kind, all_of in kinds.items() for data in all_of]
        forward[_top_level(owner)] += [_FURTHER, *lines]

    four = {origin: [_top(origin, server)] for origin in _reverse_origins(lab)}
    six_origin = dns.reversename.from_address(str(V6.network_address)).to_text().removeprefix("0." * 20)
    six = [_top(six_origin, server)]
    for host, address, v4, _ in hosts:
        a, b, c, d = v4.split(".")
        four[f"{b}.{a}.in-addr.arpa."].append(f"{d}.{c} PTR {host}.\n")
        low = f"{int(address):08x}"
        six.append(f"{'.'.join(reversed(low))}.{'0.' * 11}0 PTR {host}.\n")
    serving = nodes[dns_node]
    glue = _addresses(server.rstrip("."), str(serving), str(twin(serving)), families)
    root = [_top(ROOT, server), *(f"{top} NS {server}\n" for top in forward), glue]
    reverse = {**({six_origin: six} if families.has_v6 else {}), **(four if families.has_v4 else {})}
    zones = {ROOT: root, **{top: [_top(top, server), *lines] for top, lines in forward.items()}, **reverse}
    return {origin: "".join(lines) for origin, lines in zones.items()}


def _top_level(name: str) -> str:
    """Return the zone of a name."""
    return f"{name.rpartition('.')[2]}."


def _refuse_records(owner: str, kinds: Collection[str], own_names: Collection[str], own: Collection[str]) -> None:
    """Raise InvalidInput for further records in the user's own zone, or of a type that the bed has for the name."""
    if zone := _within(owner, own):
        raise InvalidInput(f"records of {owner} in the file of zone {zone}", "in `records`", "move them to the file")
    if owner in own_names and (taken := {"A", "AAAA", "CNAME"}.intersection(kinds)):
        needed = f"records of {owner} other than {', '.join(sorted(taken))}"
        raise InvalidInput(needed, "the bed itself has them", "take another name")


def _within(name: str, own: Collection[str]) -> str | None:
    """Return the zone of ``own`` that contains the name; ``None`` if no zone does."""
    return next((zone for zone in own if f".{name}".endswith(f".{zone}")), None)


def file_name(origin: str) -> str:
    """Return the name of a zone's file."""
    return f"{origin.rstrip('.') or '_root'}.zone"


def origin(file: str) -> str:
    """Return the zone of a file; the inverse of ``file_name``."""
    return ROOT if file == file_name(ROOT) else f"{file.removesuffix('.zone')}."


def check(zones: Mapping[str, str]) -> None:
    """Parse the zones of a bed and compare them: 10 us a record, 0.2 s for 2,560 domains.

    Raises InvalidInput if a zone does not parse or has no SOA or NS, if a mail host or server lacks an address of one
    of the zones' families, or if an address has no PTR to a name with this address.
    """
    records = [record for origin, text in zones.items() for record in _read(origin, text)]
    addresses: defaultdict[str, set[Address]] = defaultdict(set)
    for name, _, target in records:
        if not isinstance(target, str):
            addresses[name].add(target)
    families = {address.version for each in addresses.values() for address in each} or {4, 6}
    pointed_back: set[Address] = set()
    pointers = ((name, kind, data) for name, kind, data in records if isinstance(data, str))
    for name, kind, data in pointers:
        has = addresses.get(data, set())
        if kind == "PTR":
            pointed_back |= has & {_reversed(name)}
        elif not families <= {address.version for address in has}:
            each = " and ".join("an IPv4" if version == 4 else "an IPv6" for version in sorted(families))
            raise InvalidInput(f"{each} address of {data}, the target of {name}", "at least one is missing", _BUG)
    for name, own in addresses.items():
        if lost := own - pointed_back:
            address = min(map(str, lost))
            raise InvalidInput(f"a PTR from {address}, an address of {name}, that points back", "none", _BUG)


def _read(origin: str, text: str) -> Iterator[Record]:
    """Yield the records of a zone except its SOA; dnspython reads the lines that ``_RECORD`` does not match."""
    others, further = [], False
    try:
        for line in text.splitlines(keepends=True):
            further |= line == _FURTHER
            if not further and (plain := _RECORD.fullmatch(line)):
                name, kind, data = plain.groups()
                yield _checked(name if name[-1] == "." else f"{name}.{origin.lstrip('.')}", kind, data)
            else:
                others.append(line)
        rest = dns.zone.from_text("".join(others), origin=origin, relativize=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise InvalidInput(f"a valid zone {origin}", f"{type(error).__name__}: {error}", _BUG) from error
    if (heads := len(re.findall(r"^\S+ SOA ", text, re.MULTILINE))) != 1:  # of several, dnspython keeps the last
        raise InvalidInput(f"one SOA of zone {origin}", str(heads), _BUG)
    for name, _, rdata in rest.iterate_rdatas(NS):
        yield str(name), "NS", rdata.to_text()


def _checked(name: str, kind: str, data: str) -> Record:
    """Return a record; raises ValueError if a name is too long or not absolute, or an address is invalid."""
    if kind == "A":
        return name, kind, IPv4Address(data)
    if kind == "AAAA":
        return name, kind, IPv6Address(data)
    if data[-1] != "." or max(len(name), len(data)) > _MAX_NAME:
        raise ValueError(f"{data} is not an absolute name of at most {_MAX_NAME} octets")
    return name, kind, data


def _reversed(name: str) -> Address:
    """Return the address of a reverse name (RFC 1035, 3.5; RFC 3596, 2.5); raises InvalidInput for any other name."""
    try:
        if name.endswith(_REVERSE_V4):
            return IPv4Address(".".join(reversed(name.removesuffix(_REVERSE_V4).split("."))))
        return IPv6Address(bytes.fromhex("".join(reversed(name.removesuffix(_REVERSE_V6).split(".")))))
    except ValueError as error:
        raise InvalidInput(f"the reverse name of an address, instead of {name}", str(error), _BUG) from error


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
    """Return the names of the /16 zones that cover a lab network within 198.18.0.0/15 (RFC 1035, 3.5)."""
    first, last = lab.network_address, lab.broadcast_address
    octets = dict.fromkeys(str(address).split(".")[1] for address in (first, last))
    return [f"{octet}.198.in-addr.arpa." for octet in octets]


def _safe(domain: str, others: Collection[str]) -> str:
    if not _SAFE.match(domain):
        raise InvalidInput("a domain of letters, digits, '-', '_' and dots", repr(domain), "rename it")
    if f".{domain}".endswith(f".{NODES}"):
        raise InvalidInput(f"a domain outside {NODES}, the domain of the nodes", domain, "rename it")
    if f"mx.{domain}" in others:
        raise InvalidInput(f"the name mx.{domain} for the mail host of {domain}", "a domain has it", "rename one")
    return domain
