"""The DNS data of a bed, read back with dnspython."""

from ipaddress import IPv4Address, IPv4Network

import dns.reversename
import pytest
from dns.name import from_text
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import zones
from orchestrator.addressing import Delivery, twin
from orchestrator.errors import InvalidInput

LAB = IPv4Network("198.18.0.0/19")
NODES = {"dns": IPv4Address("198.18.0.2"), "relay": IPv4Address("198.18.0.3")}
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
domains = st.lists(labels.map("{}.test".format), min_size=1, max_size=8, unique=True)


def _deliveries(*names: str) -> list[Delivery]:
    base = IPv4Address("198.18.16.0")
    return [Delivery(domain=name, v4=base + i, v6=twin(base + i)) for i, name in enumerate(names)]


def _read(*names: str) -> dict[str, dns.zone.Zone]:
    built = zones.build(_deliveries(*names), NODES, LAB, "dns")
    return {origin: zones.check(origin, text) for origin, text in built.items()}


@given(domains)
@settings(max_examples=25)
def test_every_domain_has_a_mail_host_with_both_addresses_that_point_back(names: list[str]) -> None:
    if "nodes.test" in names:
        return
    found = _read(*names)
    forward = found["test."]
    for delivery in _deliveries(*names):
        (mx,) = forward.find_rdataset(f"{delivery.domain}.", "MX")
        (a,), (aaaa,) = forward.find_rdataset(mx.exchange, "A"), forward.find_rdataset(mx.exchange, "AAAA")
        assert (a.address, aaaa.address) == (str(delivery.v4), str(delivery.v6))
        for address in (a.address, aaaa.address):
            name = dns.reversename.from_address(address)
            (reverse,) = (z for o, z in found.items() if o.endswith(".arpa.") and name.is_subdomain(from_text(o)))
            assert [r.target for r in reverse.find_rdataset(name, "PTR")] == [mx.exchange]


def test_the_root_knows_test_and_nothing_else() -> None:
    root = _read("a.test")["."]
    assert root.get_rdataset("test.", "NS")
    assert root.get_rdataset("com.", "NS") is None


@pytest.mark.parametrize("name", ["nodes.test", "x.nodes.test", "a b.test", "a;b.test", "a\n.test", 'a".test'])
def test_a_name_that_cannot_stand_in_a_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        zones.build(_deliveries(name), NODES, LAB, "dns")


def test_a_domain_that_is_the_mail_host_of_another_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"mx\.a\.test"):
        zones.build(_deliveries("a.test", "mx.a.test"), NODES, LAB, "dns")


def test_a_mail_host_without_an_address_is_found() -> None:
    head = "$TTL 60\n@ SOA ns.a. x. (1 1 1 1 1)\n@ NS ns.a.\n"
    with pytest.raises(InvalidInput, match="an address of mx"):
        zones.check("a.", head + "@ MX 1 mx\n")
    with pytest.raises(InvalidInput, match="a valid zone"):
        zones.check("a.", "nonsense\n")


def test_a_slice_of_both_halves_has_a_reverse_zone_for_each() -> None:
    built = zones.build(_deliveries("a.test"), NODES, IPv4Network("198.18.0.0/15"), "dns")
    assert {"18.198.in-addr.arpa.", "19.198.in-addr.arpa."} <= set(built)


def test_a_zone_file_is_named_after_its_zone() -> None:
    assert all(zones.origin(zones.file_name(o)) == o for o in (".", "test.", "18.198.in-addr.arpa."))
