"""The DNS data of a bed, read back with dnspython."""

from ipaddress import IPv4Address, IPv4Network

import dns.reversename
import dns.zone
import pytest
from dns.name import from_text
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bed import zones
from orchestrator.bed.addressing import Delivery, twin
from orchestrator.bed.model import parse_bed
from orchestrator.errors import InvalidInput
from orchestrator.plan import make_plan
from tests.unit.cli.test_errors import long_name

LAB = IPv4Network("198.18.0.0/19")
NODES = {"dns": IPv4Address("198.18.0.2"), "relay": IPv4Address("198.18.0.3")}
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
domains = st.lists(labels.map("{}.test".format), min_size=1, max_size=8, unique=True)


def _deliveries(*names: str) -> list[Delivery]:
    base = IPv4Address("198.18.16.0")
    return [Delivery(domain=name, v4=base + i, v6=twin(base + i)) for i, name in enumerate(names)]


def _read(*names: str) -> dict[str, dns.zone.Zone]:
    built = zones.build(_deliveries(*names), NODES, LAB, "dns")
    zones.check(built)
    return {origin: dns.zone.from_text(text, origin=origin, relativize=False) for origin, text in built.items()}


@settings(max_examples=10)  # each renders and reads all zones of a bed
@given(domains)
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


def test_the_longest_domain_that_a_bed_may_have_fits_with_its_mail_host() -> None:
    name = next(iter(parse_bed({"name": "x", "domains": [long_name(248)], "nodes": {"dns": {"service": "bind"}}}, "")
                     .domain_names))  # fmt: skip
    assert f"mx.{name}." in {record.to_text() for record in _read(name)["test."].nodes}


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


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("mx.a.test. A 198.18.16.0\n", "an IPv4 and an IPv6 address of mx.a.test."),
        ("mx.a.test. AAAA 2001:2::c612:1000\n", "an IPv4 and an IPv6 address of mx.a.test."),
        ("dns.nodes.test. A 198.18.0.2\n", "an IPv4 and an IPv6 address of dns.nodes.test."),
        ("0.16 PTR mx.a.test.\n", "a PTR from 198.18.16.0"),
        ("2.0 PTR dns.nodes.test.\n", "a PTR from 198.18.0.2"),
        (
            f"{dns.reversename.from_address('2001:2::c612:1000').to_text()[:39]} PTR mx.a.test.\n",
            "a PTR from 2001:2::c6",
        ),
        ("@ NS dns.nodes.test.\n", "a valid zone"),
    ],
)
def test_a_record_that_is_missing_is_found(line: str, needed: str) -> None:
    built = zones.build(_deliveries("a.test"), NODES, LAB, "dns")
    assert any(line in text for text in built.values())
    with pytest.raises(InvalidInput) as missed:
        zones.check({origin: text.replace(line, "") for origin, text in built.items()})
    assert missed.value.needed.startswith(needed)


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("@ SOA dns.nodes.test. hostmaster.nodes.test. (2 1 1 1 1)\n", "one SOA"),
        ("nonsense\n", "a valid zone"),
        ("b.test. A 198.18.16.9\n", "a PTR from 198.18.16.9"),
    ],
)
def test_a_record_too_many_is_found(line: str, needed: str) -> None:
    built = zones.build(_deliveries("a.test"), NODES, LAB, "dns")
    with pytest.raises(InvalidInput) as found:
        zones.check({**built, "test.": built["test."] + line})
    assert found.value.needed.startswith(needed)


def test_a_slice_of_both_halves_has_a_reverse_zone_for_each() -> None:
    built = zones.build(_deliveries("a.test"), NODES, IPv4Network("198.18.0.0/15"), "dns")
    assert {"18.198.in-addr.arpa.", "19.198.in-addr.arpa."} <= set(built)


def test_a_zone_file_is_named_after_its_zone() -> None:
    assert all(zones.origin(zones.file_name(o)) == o for o in (".", "test.", "18.198.in-addr.arpa."))


RECORDS = {
    "d0.test": {"TXT": ['"v=spf1 -all"'], "MX": ["20 mx.d1.test.", "10 mx.d0.test."], "CAA": ['0 issue ";"']},
    "d1.test": {"MX": ["0 ."]},
    "_dmarc.d0.test": {"TXT": ["v=DMARC1; p=reject"]},
    "www.shop.example": {"CNAME": ["d0.test."]},
    "_imaps._tcp.d0.test": {"SRV": ["0 1 993 mx.d0.test."]},
    "elsewhere.example": {"A": ["192.0.2.1"]},
}


def records_of(bed: dict[str, object]) -> dns.zone.Zone:
    wanted = parse_bed({"name": "x", "domains": 2, "nodes": {"dns": {"service": "bind"}}, **bed}, "bed")
    files = make_plan(wanted, cpus=2).named("dns").files
    zones.check({zones.origin(p.rpartition("/")[2]): t.decode() for p, t in files.items() if p.endswith(".zone")})
    text = files["/etc/bind/testbed/test.zone"].decode()
    return dns.zone.from_text(text, origin="test.", relativize=False)


def test_further_records_are_served_and_an_mx_takes_the_place_of_the_beds_own() -> None:
    zone = records_of({"records": RECORDS})
    assert {r.to_text() for r in zone.find_rdataset("d0.test.", "MX")} == {"20 mx.d1.test.", "10 mx.d0.test."}
    assert [r.to_text() for r in zone.find_rdataset("d1.test.", "MX")] == ["0 ."]
    assert [r.to_text() for r in zone.find_rdataset("_dmarc.d0.test.", "TXT")] == ['"v=DMARC1; p=reject"']
    assert zone.get_rdataset("d0.test.", "A") is not None


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"d0.test": {"A": ["192.0.2.1"]}}, "the bed itself has them"),
        ({"mx.d0.test": {"CNAME": ["d1.test."]}}, "the bed itself has them"),
        ({"d0.test": {"NS": ["ns.test."]}}, "type 'NS' is not one of"),
        ({"d0.test": {"MX": ["ten mx.d0.test."]}}, "MX 'ten"),
        ({"d0.test": {"TXT": ['"a" ) evil 60 IN A 1.2.3.4']}}, "TXT"),
        ({"x": {"TXT": ["a"]}}, "two labels"),
        ({"1.168.192.in-addr.arpa": {"TXT": ["a"]}}, "outside .arpa"),
        ({"a b.test": {"TXT": ["a"]}}, "a b.test"),
        ({"www.test": {"CNAME": ["d0.test."], "TXT": ["a"]}}, "stands alone"),
    ],
)
def test_records_that_cannot_be_served_are_refused(records: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        records_of({"records": records})


ZONE = "$TTL 60\n@ IN SOA ns hostmaster (1 2 3 4 5)\n@ NS ns\nns A 192.0.2.1\n@ MX 10 inbox.nodes.test.\n"


def test_a_zone_of_the_user_is_served_as_it_stands_and_the_bed_has_no_record_in_it() -> None:
    bed = {"name": "x", "domains": ["d0.test", "d1.test"], "zones": {"d0.test": ZONE, "x.example": ZONE}}
    files = make_plan(parse_bed({**bed, "nodes": {"dns": {"service": "bind"}}}, "bed"), cpus=2).named("dns").files
    assert files["/etc/bind/testbed/own/d0.test.zone"].decode() == ZONE
    lines = files["/etc/bind/testbed/test.zone"].decode().splitlines()
    assert [line for line in lines if "d0.test." in line] == ["d0.test. NS dns.nodes.test."]
    assert [line.split()[1] for line in lines if line.startswith("d1.test.")] == ["MX", "A", "AAAA"]
    assert "x.example. NS dns.nodes.test." in files["/etc/bind/testbed/example.zone"].decode().splitlines()
    conf = files["/etc/bind/testbed/named.conf"].decode()
    assert 'zone "x.example." { type primary; file "/etc/bind/testbed/own/x.example.zone";' in conf
    reverse = next(text.decode() for path, text in files.items() if path.endswith("in-addr.arpa.zone"))
    assert "mx.d0.test." not in reverse


@pytest.mark.parametrize(
    ("bed", "said"),
    [
        ({"zones": {"x.example": ZONE.replace("@ IN SOA", "; @ IN SOA")}}, "no SOA"),
        ({"zones": {"x.example": ZONE.replace("@ NS", "a NS")}}, "no NS"),
        ({"zones": {"x.example": ZONE + "a A 300.0.0.1\n"}}, "x.example"),
        ({"zones": {"x.example": ZONE + "$INCLUDE /etc/passwd\n"}}, "write the records out"),
        ({"zones": {"x.example": ZONE + " $generate 1-4000000000 a$ A 192.0.2.1\n"}}, "write the records out"),
        ({"zones": {"nodes.test": ZONE}}, "outside nodes.test"),
        ({"zones": {"18.198.in-addr.arpa": ZONE}}, "outside .arpa"),
        ({"zones": {"../x.example": ZONE}}, "not a domain"),
        ({"zones": {"mx.d0.test": ZONE}}, "the mail host of d0.test"),
        ({"zones": {"x.example": ZONE}, "records": {"a.x.example": {"TXT": ["a"]}}}, "in the file of zone x.example"),
    ],
)
def test_zones_that_cannot_be_served_are_refused(bed: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        records_of(bed)
