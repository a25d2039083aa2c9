"""One key of a bed chooses its address families, everywhere."""

import re
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator import scenarios, services
from orchestrator.agents.contract import LoadOrder
from orchestrator.bed import builtin
from orchestrator.bed.addressing import V6
from orchestrator.bed.model import Families, parse_bed
from orchestrator.bed.wiring import DIRECTORY
from orchestrator.errors import InvalidInput
from orchestrator.plan import NodePlan, Plan, make_plan
from orchestrator.scenarios import scenario
from orchestrator.services import Role
from orchestrator.services.smtp_source import SERVICE as SMTP_SOURCE
from orchestrator.up import compose

_SIX = re.compile(r"(?i)ipv6|ip6|icmpv6|2001:2:|AAAA|::")
_AGENTS = f"{DIRECTORY}/lib/"


def planned(families: str, **nodes: Mapping[str, Any]) -> Plan:
    """Work the relay bed out, or one with these nodes."""
    bed = builtin.bed("relay", domains=5)
    if nodes:
        bed = parse_bed({"name": "x", "domains": 5, "nodes": nodes}, "bed")
    return make_plan(parse_bed({**bed.model_dump(), "families": families}, "bed"), cpus=2)


def texts(node: NodePlan) -> dict[str, str]:
    """Return the files of a node that a family could stand in, comments left out."""
    files = {path: content.decode() for path, content in node.files.items() if not path.startswith(_AGENTS)}
    return {path: re.sub(r"(?m)^#.*|//.*", "", text) for path, text in files.items()}


# ------------------------------------------------------------------------------------------------------------ IPv4 only


@pytest.mark.parametrize("role", [Role.DNS, Role.RELAY, Role.SINK, Role.LOAD])
def test_a_bed_with_ipv4_only_says_nothing_of_ipv6(role: Role) -> None:
    """But for the start script and rules that keep a host's own IPv6 out, and named, which would listen by itself."""
    node = planned("v4").node(role)
    kept = ("[ ! -e /proc/sys/net/ipv6/conf ]", "icmpv6 type nd-router-advert drop", "listen-on-v6 { none; }")
    for path, text in texts(node).items():
        said = [line for line in text.splitlines() if _SIX.search(line) and not any(word in line for word in kept)]
        assert said == [], path
    assert not [name for name in node.sysctls if "ipv6" in name]
    assert node.address == node.v4


def test_many_addresses_of_a_bed_with_ipv4_only_are_of_ipv4() -> None:
    plan = planned("v4", sink={"service": "blackhole", "addresses": 5000})
    addresses = texts(plan.nodes[0])[f"{DIRECTORY}/addresses"]
    assert addresses.count("/32 dev ") == 4999
    assert "addrgenmode" not in addresses
    assert plan.needs.addresses == 5000


def test_a_bed_without_ipv6_asks_for_none_of_the_host() -> None:
    assert [planned(families).needs.ipv6 for families in Families] == [False, True, True]


def test_the_compose_file_of_a_bed_with_ipv4_only_sets_nothing_of_ipv6() -> None:
    bed = builtin.bed("relay", domains=5, families="v4")
    assert "ipv6" not in compose.render(compose.compose_plan(bed, cpus=2), ["testbed"])


# ------------------------------------------------------------------------------------------------------------ IPv6 only


def test_in_a_bed_with_ipv6_only_mail_and_dns_find_no_ipv4() -> None:
    plan = planned("v6")
    for node in plan.nodes:
        files = texts(node)
        assert files[f"{DIRECTORY}/resolv.conf"].startswith("nameserver 2001:2:")
        assert "oifname $lab ip daddr" not in files[f"{DIRECTORY}/ruleset"]
        routes = [line for line in files[f"{DIRECTORY}/addresses"].splitlines() if line.startswith("route add")]
        assert all(V6.network_address.compressed[:6] in line for line in routes)
        assert node.address in V6
    zones = [text for path, text in texts(plan.node(Role.DNS)).items() if path.endswith(".zone")]
    assert not any(re.search(r"(?m)^\S+ A ", text) for text in zones)
    assert plan.destinations.version == 6


def test_the_published_port_of_a_relay_with_ipv6_only_leads_to_a_listener() -> None:
    relay = planned("v6").node(Role.RELAY)
    assert f"dnat ip to {relay.v4}" in texts(relay)[f"{DIRECTORY}/ruleset"]
    assert f"inet_interfaces = {relay.v4}, {relay.address}" in texts(relay)["/etc/postfix/main.cf"]
    clients = re.findall(r"(?m)^(?:smtp|relay) +unix .*", texts(relay)["/etc/postfix/master.cf"])
    only = f"smtp -o inet_protocols=ipv6 -o inet_interfaces={relay.address}"
    assert [line.endswith(only) for line in clients] == [True, True]


@pytest.mark.parametrize(("name", "service"), [("sink", "bhm"), ("load", "postal")])
def test_a_program_that_knows_no_ipv6_is_refused_there(name: str, service: str) -> None:
    with pytest.raises(InvalidInput, match="families: both"):
        planned("v6", **{name: {"service": service}})


def test_delivery_addresses_on_the_link_are_those_of_ipv4() -> None:
    bed = {"name": "x", "families": "v6", "on_link": True, "nodes": {"sink": {"service": "blackhole"}}}
    with pytest.raises(InvalidInput, match="on_link"):
        make_plan(parse_bed(bed, "bed"), cpus=1)


# ------------------------------------------------------------------------------------------------------------ in common


@pytest.mark.parametrize("families", Families)
def test_the_zones_of_every_choice_check_themselves(families: Families) -> None:
    dns = planned(families).node(Role.DNS)
    services.service(dns.service).verify(dns.files)


@pytest.mark.parametrize(("families", "more"), [("v4", 2), ("v6", 2), ("both", 4)])
def test_the_open_files_of_named_are_those_of_the_families_that_it_has(families: str, more: int) -> None:
    """Listening on the lab is listening on two addresses more of each family: a UDP and a TCP socket for each."""

    def fds(listen: str) -> int:
        settings = {"workers": 1, "listen": listen}
        return planned(families, dns={"service": "bind", "addresses": 3, "settings": settings}).nodes[0].fds

    assert fds("lab") - fds("service") == 2 * more


def test_a_listener_by_ipv6_needs_a_bed_with_ipv6() -> None:
    with pytest.raises(InvalidInput, match="listen_v6"):
        planned("v4", dns={"service": "bind", "settings": {"listen_v6": "lab"}})


@pytest.mark.parametrize(
    ("families", "protocols", "interfaces"),
    [("both", "ipv4", 1), ("both", "all", 2), ("both", "ipv4, ipv6", 2), ("v4", "ipv4", 1), ("v6", "ipv6", 1)],
)
def test_inet_protocols_of_a_main_cf_chooses_the_interfaces(families: str, protocols: str, interfaces: int) -> None:
    settings = {"main_cf": {"inet_protocols": protocols}}
    relay = planned(families, relay={"service": "postfix", "settings": settings}).nodes[0]
    lines = dict(line.split(" = ", 1) for line in texts(relay)["/etc/postfix/main.cf"].splitlines() if " = " in line)
    assert lines["inet_protocols"] == protocols
    assert len(lines["inet_interfaces"].split(", ")) == interfaces
    assert len([name for name in lines if name.startswith("smtp_bind_address")]) == interfaces


@pytest.mark.parametrize(
    ("families", "protocols", "cure"),
    [
        ("both", "ipv6", "families: v6"),
        ("v4", "ipv6", "families: v6"),
        ("v6", "ipv4", "families: v4"),
        ("v4", "x", "correct it"),
    ],
)
def test_inet_protocols_that_the_bed_would_talk_past_are_refused(families: str, protocols: str, cure: str) -> None:
    settings = {"main_cf": {"inet_protocols": protocols}}
    with pytest.raises(InvalidInput, match=cure):
        planned(families, relay={"service": "postfix", "settings": settings})


@pytest.mark.parametrize("name", sorted(scenarios.known()))
def test_every_scenario_runs_without_ipv6(name: str) -> None:
    found = scenario(name)
    bed = found.bed(found.params.model_validate({"families": "v4"}))
    assert bed.families is Families.V4
    assert not make_plan(bed, cpus=2).needs.ipv6


def test_a_scenario_hands_the_choice_on() -> None:
    asked = scenario("relay-throughput")
    assert asked.bed(asked.params.model_validate({"families": "v6", "domains": 5})).families is Families.V6
    with pytest.raises(ValidationError, match="'both' or 'v4'"):
        scenario("postal-crash").params.model_validate({"families": "v6"})


def test_smtp_source_dials_either_family() -> None:
    for target in (IPv4Address("198.18.0.3"), planned("v6").node(Role.RELAY).address):
        order = LoadOrder(target=str(target), domains=["d0.test"], seconds=1, per_connection=1)
        assert SMTP_SOURCE.program(order)[-1] == f"inet:[{target}]:25"
