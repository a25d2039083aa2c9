"""A bed worked out."""

import hashlib
from collections import Counter
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
    summarize_address_range,
)
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bed import builtin, wiring
from orchestrator.bed.addressing import twin, twin_network
from orchestrator.bed.model import parse_bed
from orchestrator.bed.wiring import ON_LAB, SHARE
from orchestrator.cli.plans import _show_own
from orchestrator.errors import InvalidInput
from orchestrator.plan import NodePlan, Plan, make_plan
from orchestrator.services import Role
from orchestrator.up import compose


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(builtin.bed("relay"), cpus=2)


def test_every_domain_has_an_address_of_its_own_in_both_families(plan: Plan) -> None:
    assert len({d.v4 for d in plan.deliveries}) == len({d.v6 for d in plan.deliveries}) == 2560
    assert all(d.v4 in plan.mail for d in plan.deliveries)
    assert plan.mail == IPv4Network("198.18.16.0/20")


def test_the_slowest_to_serve_starts_first(plan: Plan) -> None:
    assert [node.role for node in plan.nodes] == [Role.RELAY, Role.DNS, Role.SINK, Role.LOAD]


def test_the_relay_reaches_every_delivery_address_through_one_neighbour(plan: Plan) -> None:
    addresses = plan.node(Role.RELAY).files["/testbed/addresses"].decode()
    sink = plan.node(Role.SINK).v4
    assert f"route add {plan.mail} via {sink} dev @lab" in addresses
    assert plan.needs.neighbour_entries < 100


def test_on_the_link_every_delivery_address_is_a_neighbour_of_who_sends_there(plan: Plan) -> None:
    apart = make_plan(plan.bed.model_copy(update={"on_link": True}), cpus=2)
    relay, sink = apart.named("relay"), apart.named("sink")
    assert f"route add {apart.mail} " not in relay.files["/testbed/addresses"].decode()
    assert f"route add {twin_network(apart.mail)} via" in relay.files["/testbed/addresses"].decode()
    assert relay.peers == len(apart.deliveries) + plan.named("relay").peers
    assert sink.peers == plan.named("sink").peers
    assert apart.needs.neighbour_entries == plan.needs.neighbour_entries + 2 * len(apart.deliveries)


def test_the_sink_answers_on_the_whole_prefix_without_holding_an_address_of_it(plan: Plan) -> None:
    addresses = plan.node(Role.SINK).files["/testbed/addresses"].decode()
    assert f"route add local {plan.mail} dev lo" in addresses
    assert addresses.count("address add") == 1


def test_no_service_keeps_the_rights_that_joining_took(plan: Plan) -> None:
    for node in plan.nodes:
        assert not {"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SETPCAP"} & set(node.capabilities)
        enter = node.files["/testbed/enter"].decode()
        assert "exec setpriv --bounding-set=-all" in enter
        assert "net_admin" not in enter.lower()


def test_every_node_asks_the_beds_own_dns(plan: Plan) -> None:
    for node in plan.nodes:
        assert node.files["/testbed/resolv.conf"].startswith(f"nameserver {plan.node(Role.DNS).v4}\n".encode())


def test_real_addresses_are_counted_and_added() -> None:
    bed = parse_bed({"name": "many", "domains": 1, "nodes": {"dns": {"service": "bind", "addresses": 2560}}}, "bed")
    plan = make_plan(bed, cpus=2)
    lines = plan.nodes[0].files["/testbed/addresses"].decode().splitlines()
    assert len([line for line in lines if line.startswith("address add 198.")]) == 2559
    assert len(set(plan.nodes[0].addresses)) == 2560
    assert plan.needs.addresses == 2 * 2560


@pytest.mark.parametrize("addresses", [2561, 2562, 20_000])
def test_many_addresses_are_shared_out_over_devices_none_of_which_carries_too_many(addresses: int) -> None:
    bed = parse_bed({"name": "x", "domains": 1, "nodes": {"a": {"service": "blackhole", "addresses": addresses}}}, "x")
    node = make_plan(bed, cpus=1).nodes[0]
    words = [line.split() for line in node.files["/testbed/addresses"].decode().splitlines()]
    given = [(word[2].partition("/")[0], word[-1]) for word in words if word[:2] == ["address", "add"]]
    four = [(address, device) for address, device in given if ":" not in address]
    assert [address for address, _ in four] == [str(address) for address in node.addresses[1:]]
    carried = Counter(device for _, device in four)
    assert max(carried.values()) <= (ON_LAB if addresses <= ON_LAB + 1 else SHARE)
    made = {word[i] for word in words if word[:2] == ["link", "add"] for i in (3, 8)}
    assert set(carried) <= {"@lab", *made}
    local = [IPv6Network(word[3]) for word in words if word[:3] == ["route", "add", "local"] and ":" in word[3]]
    six = [IPv6Network(address) for address, _ in given if ":" in address]
    further = [network for network in collapse_addresses([*local, *six]) if network.network_address > twin(node.v4)]
    expected = summarize_address_range(twin(node.addresses[1]), twin(node.addresses[-1]))
    assert further[-1].broadcast_address == twin(node.addresses[-1])
    assert set(expected) <= set(further)


def test_a_daemon_that_looks_for_its_ipv6_addresses_has_them_all_on_interfaces() -> None:
    dns = {"service": "bind", "addresses": 5000, "settings": {"listen": "lab"}}
    plan = make_plan(parse_bed({"name": "x", "domains": 1, "nodes": {"dns": dns}}, "x"), cpus=1)
    lines = plan.nodes[0].files["/testbed/addresses"].decode().splitlines()
    assert len([line for line in lines if "/128 nodad dev " in line]) == 4999


SERVICES = {"dns": "bind", "sink": "blackhole", "relay": "postfix", "load": "smtp-load", "other": "smtp-load"}
some_beds = st.fixed_dictionaries(
    {
        "domains": st.integers(1, 20),
        "families": st.sampled_from(["v4", "v6", "both"]),
        "on_link": st.booleans(),
        "nodes": st.dictionaries(st.sampled_from(sorted(SERVICES)), st.integers(1, 30)).map(lambda n: {"sink": 1, **n}),
    }
).filter(lambda bed: not bed["on_link"] or bed["families"] != "v6")
"""Beds with a sink; ``nodes``: name -> number of addresses."""


def _words(node: NodePlan) -> list[list[str]]:
    return [line.split() for line in node.files["/testbed/addresses"].decode().splitlines()]


def _local(node: NodePlan) -> list[IPv4Network | IPv6Network]:
    """Read from the commands of its start what the node answers for; the engine gives it the service address."""
    texts = [str(node.v4)]
    for words in _words(node):
        texts += [words[2].partition("/")[0]] if words[:2] == ["address", "add"] else []
        texts += [words[3]] if words[:3] == ["route", "add", "local"] else []
    return list(map(ip_network, texts))


def _neighbours(plan: Plan, node: NodePlan) -> set[IPv4Address | IPv6Address]:
    """Look up every address that a node sends to in its routes: the next hops are its neighbours."""
    four = plan.bed.families.has_v4
    routes: list[tuple[Any, IPv4Address | IPv6Address]] = [
        (ip_network(w[2]), ip_address(w[4])) for w in _words(node) if w[3:4] == ["via"]
    ]
    sent_to = [other.address for other in plan.nodes if other is not node]
    if node.role in {Role.RELAY, Role.LOAD}:
        sent_to += [delivery.v4 if four else delivery.v6 for delivery in plan.deliveries]
    return {next((hop for prefix, hop in routes if address in prefix), address) for address in sent_to}


@given(some_beds)
def test_the_plan_counts_the_addresses_and_neighbours_that_its_commands_make(parts: dict[str, Any]) -> None:
    """With few addresses on one device, so that some nodes need several devices."""
    nodes = {name: {"service": SERVICES[name], "addresses": count} for name, count in parts["nodes"].items()}
    bed = parse_bed({"name": "x", **parts, "nodes": nodes}, "bed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, "ON_LAB", 8)
        patch.setattr(wiring, "SHARE", 4)
        plan = make_plan(bed, cpus=2)
    mail = {plan.mail, twin_network(plan.mail)}
    answering: Counter[IPv4Address | IPv6Address] = Counter()
    for node in plan.nodes:
        prefixes = _local(node)
        assert (plan.mail in prefixes) == (node.role is Role.SINK and bed.families.has_v4)
        own = {address for prefix in prefixes if prefix not in mail for address in prefix}
        v4s, v6s = set(node.addresses), set(map(twin, node.addresses))
        assert len(v4s) == nodes[node.name]["addresses"]
        assert own == (v4s if bed.families.has_v4 else {node.v4}) | (v6s if bed.families.has_v6 else set())
        answering.update(address for prefix in prefixes for address in prefix)
    assert set(answering.values()) == {1}, "no address is that of two nodes"
    assert all(address in plan.subnet or address in twin_network(plan.subnet) for address in answering)
    reserved = (plan.subnet[0], plan.subnet[1])
    assert not {*reserved, *map(twin, reserved)} & set(answering), "the network's own, and the engine's gateway"
    real = [at for at in answering if at not in plan.mail and at not in twin_network(plan.mail)]
    assert plan.needs.addresses == len(real) - (0 if bed.families.has_v4 else len(plan.nodes))
    assert plan.needs.neighbour_entries == sum(len(_neighbours(plan, node)) for node in plan.nodes)


def test_the_same_bed_gives_the_same_plan(plan: Plan) -> None:
    assert make_plan(builtin.bed("relay"), cpus=2).to_dict() == plan.to_dict()


def test_two_sinks_and_an_unknown_service_are_refused() -> None:
    sink = {"service": "blackhole"}
    with pytest.raises(InvalidInput, match="one node that takes the mail"):
        make_plan(parse_bed({"name": "x", "nodes": {"a": sink, "b": sink}}, "bed"), cpus=1)
    with pytest.raises(InvalidInput, match="choose one of bhm, bind"):
        make_plan(parse_bed({"name": "x", "nodes": {"a": {"service": "sendmail"}}}, "bed"), cpus=1)


def test_unknown_settings_of_a_service_are_named() -> None:
    bed = parse_bed({"name": "x", "nodes": {"dns": {"service": "bind", "settings": {"colour": "red"}}}}, "bed")
    with pytest.raises(InvalidInput, match="colour"):
        make_plan(bed, cpus=1)


def test_a_cpuset_sets_the_number_of_workers() -> None:
    bed = parse_bed({"name": "x", "nodes": {"dns": {"service": "bind", "limits": {"cpuset": "0-2,5"}}}}, "bed")
    assert make_plan(bed, cpus=8).nodes[0].fds != make_plan(bed, cpus=1).nodes[0].fds


RELAY = {
    "/etc/postfix/main.cf": "maillog_file = /var/log/mail.log\nrelayhost = [smart.test]\n",
    "/usr/local/lib/policy": "#!/bin/sh\n",
}


def test_a_plan_names_a_users_own_files_and_what_the_bed_changed_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    bed = parse_bed({"name": "x", "nodes": {"relay": {"service": "postfix", "files": RELAY}}}, "bed")
    (relay,) = make_plan(bed, cpus=2).to_dict()["nodes"]
    assert relay["files"]["/usr/local/lib/policy"]["sha256"] == hashlib.sha256(b"#!/bin/sh\n").hexdigest()
    assert relay["detours"] == ("relayhost = [smart.test]",)
    changed = {change["setting"]: (change["old"], change["new"]) for change in relay["changes"]}
    assert changed["maillog_file"] == ("/var/log/mail.log", "/dev/stdout")
    (node,) = make_plan(bed, cpus=2).nodes
    _show_own(node, bed.nodes["relay"].files)
    said = capsys.readouterr().out
    assert f"/usr/local/lib/policy  10 bytes, sha256 {hashlib.sha256(b'#!/bin/sh' + bytes([10])).hexdigest()}" in said
    assert "changed: maillog_file: /var/log/mail.log -> /dev/stdout (the bed reads the log from there)" in said
    assert "can route mail elsewhere: relayhost = [smart.test]" in said


def test_a_users_own_file_reaches_compose_and_one_that_a_service_writes_is_refused() -> None:
    bed = parse_bed({"name": "x", "nodes": {"relay": {"service": "postfix", "files": RELAY}}}, "bed")
    made = compose.files(compose.compose_plan(bed, cpus=2), ["testbed"])
    assert made["relay/usr/local/lib/policy"] == b"#!/bin/sh\n"
    dns = {"service": "bind", "files": {"/etc/bind/testbed/named.conf": "x"}}
    with pytest.raises(InvalidInput, match="that its service does not write"):
        make_plan(parse_bed({"name": "x", "nodes": {"dns": dns}}, "bed"), cpus=2)
