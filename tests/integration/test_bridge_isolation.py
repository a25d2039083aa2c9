"""Nothing leaves a bed whose lab is a bridge: packets counted where a bridge hands them to the host."""

import json
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.bed.addressing import twin
from orchestrator.hosts import ContainerSpec, Endpoint, Host
from orchestrator.hosts.helper import HELPER
from orchestrator.hosts.ownership import Identity
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.reach import ANSWERED, fates, knocking
from tests.integration.traces import on_the_host

pytestmark = pytest.mark.docker

NETWORKS = ("control", "lab")
OUTSIDE = ("203.0.113.1", "2001:db8::1")
"""RFC 5737, RFC 3849."""
ALL_NODES = "ff02::1"
LOOK = "ip -json link; ip -4 -json route show table all default; echo; ip -6 -json route show table all default"
KNOCKS = (("tcp", 25), ("udp", 53), ("icmp", 0))


@pytest.fixture(scope="module")
def beds(tmp_path_factory: pytest.TempPathFactory, real_engine: Host) -> Iterator[tuple[Up, Up]]:
    """Keep bed `mail` up, and a neighbour: one sink, also with its lab on a bridge."""
    path = tmp_path_factory.mktemp("beds") / "other.yaml"
    path.write_text("name: other\nlab: bridge\ndomains: 4\nnodes: {sink: {service: blackhole}}\n", encoding="utf-8")
    with ExitStack() as stack:
        up = [bring_up("mail", "--wait")]
        stack.callback(bring_down, real_engine, up[0])
        up += [bring_up(path)]
        stack.callback(bring_down, real_engine, up[1])
        yield up[0], up[1]


class Counter:
    """Packets that the bridges of a bed hand to the host, to be received or forwarded (ingress of their devices).

    On the lab, ARP and neighbour discovery between the nodes are left out: the bridge floods them to its own device.
    """

    def __init__(self, engine: Host, bed: Up) -> None:
        self._engine, self._table = engine, f"count{bed.id}"
        self.devices = {
            name: f"br-{found.id[:12]}"
            for found in engine.find({"testbed.id": bed.id})
            for name in NETWORKS
            if found.kind == "network" and found.name.endswith(name)
        }
        between = "meta protocol arp accept\nicmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
        chains = "\n".join(
            f'chain {name} {{\ntype filter hook ingress device "{self.devices[name]}" priority -10; policy accept;\n'
            f"{between if name == 'lab' else ''}counter\n}}"
            for name in NETWORKS
        )
        on_the_host(engine, "nft", f"table netdev {self._table} {{\n{chains}\n}}")

    def packets(self) -> dict[str, int]:
        """Return the packets so far, by network."""
        rules = on_the_host(self._engine, "nft", "list", "table", "netdev", self._table)
        return dict(zip(NETWORKS, map(int, re.findall(r"counter packets (\d+)", rules)), strict=True))

    def remove(self) -> None:
        """Stop to count."""
        on_the_host(self._engine, "nft", "delete", "table", "netdev", self._table)


@pytest.fixture(scope="module")
def counter(real_engine: Host, beds: tuple[Up, Up]) -> Iterator[Counter]:
    made = Counter(real_engine, beds[0])
    yield made
    made.remove()


@pytest.fixture(scope="module")
def outside(real_engine: Host, beds: tuple[Up, Up]) -> list[str]:
    """List addresses outside the bed: documentation's, the other bed's, and the host's, also on the bed's bridges."""
    sink = beds[1].address("sink")
    devices = json.loads(on_the_host(real_engine, "ip", "-json", "address"))
    return [
        *(*OUTSIDE, str(sink), str(twin(sink))),
        *(address["local"] for device in devices for address in device["addr_info"] if address["scope"] == "global"),
    ]


def knock(bed: Up, node: str, outside: list[str], inside: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """See that a node has no default route, and knock from inside it with the rights of its service.

    Returns what became of the knocks, outside and inside.
    """
    devices, *routes = [json.loads(line) for line in bed.shell(node, LOOK).splitlines() if line]
    assert (node, [route for family in routes for route in family if route.get("type") != "unreachable"]) == (node, [])
    names = {device["ifname"] for device in devices} - {"lo"}
    targets = [f"{how} {address} {port}" for address in outside for how, port in KNOCKS]
    targets += [f"{how} {ALL_NODES}%{name} {port}" for name in names for how, port in KNOCKS if how != "tcp"]
    done = bed.exec(node, *knocking([*targets, *inside]))
    assert done.status == 0, done.stderr
    found = fates(done.stdout)
    return {target: found[target] for target in targets}, {target: found[target] for target in inside}


def test_a_container_without_a_wall_is_counted(real_engine: Host, beds: tuple[Up, Up], counter: Counter) -> None:
    identity, before, devices = Identity(bed="helper"), counter.packets(), ("eth0", "eth1")
    up = "until ip -6 address show dev {} scope link -tentative | grep -q fe80; do sleep 0.1; done; "
    ready = "".join(up.format(device) for device in devices)
    knocks = knocking([f"udp {ALL_NODES}%{device} 53" for device in devices])
    done = real_engine.run(
        ContainerSpec(
            name=identity.name(f"plain-{secrets.token_hex(3)}"),
            image=HELPER,
            command=("timeout", "30", "sh", "-euc", f'{ready} timeout 0.5 "$@" || :', "sh", *knocks),
            labels=identity.labels(),
            networks=tuple(Endpoint(network=f"tb-{beds[0].id}-{network}") for network in NETWORKS),
            sysctls={"net.ipv6.conf.all.disable_ipv6": "0"},
        )
    )
    assert done.status == 0, done.stderr
    now = counter.packets()
    assert [network for network in NETWORKS if now[network] == before[network]] == []


def test_no_packet_of_a_node_leaves_the_bed(beds: tuple[Up, Up], counter: Counter, outside: list[str]) -> None:
    bed, before = beds[0], counter.packets()
    inbox = bed.address("inbox")
    inside = [f"tcp {address} 25" for address in (inbox, twin(inbox))]
    with ThreadPoolExecutor(len(bed.nodes)) as pool:
        knocked = list(pool.map(lambda node: knock(bed, node, outside, inside), bed.nodes))
    for node, (away, own) in zip(bed.nodes, knocked, strict=True):
        assert (node, [target for target, fate in away.items() if fate == ANSWERED]) == (node, [])
        assert (node, set(own.values())) == (node, {ANSWERED}), "the knocks themselves work"
    assert counter.packets() == before


def test_the_lab_of_a_bridge_leaves_no_address_on_the_host(counter: Counter, real_engine: Host) -> None:
    (lab,) = json.loads(on_the_host(real_engine, "ip", "-json", "address", "show", "dev", counter.devices["lab"]))
    assert [address["local"] for address in lab["addr_info"] if address["scope"] != "link"] == []
    assert Path("/sys/class/net", counter.devices["control"]).exists()
