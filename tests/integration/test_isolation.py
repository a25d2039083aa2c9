"""Nothing leaves a bed: seen from inside every node, with a listener on the host that would have answered."""

import json
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest

from orchestrator.bed.addressing import twin
from orchestrator.hosts import ContainerSpec, Endpoint, Host
from orchestrator.hosts.docker import DockerHost
from orchestrator.hosts.ownership import Identity
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.reach import ANSWERED, fates, knocking
from tests.integration.traces import DEVICES, on_the_host

pytestmark = pytest.mark.docker

NODES = ("dns", "sink", "relay", "load")
FORBIDDEN = {"SETPCAP": 8, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_MODULE": 16, "SYS_ADMIN": 21}
"""capabilities(7), by their bit in /proc/<pid>/status."""
each_node = pytest.mark.parametrize("node", NODES)


# ------------------------------------------------------------------------------------------------------ who is outside


@dataclass(frozen=True, slots=True, kw_only=True)
class HostListener:
    """Answers TCP and UDP on one port of every address of the host, and remembers who knocked."""

    port: int
    heard: list[str] = field(default_factory=list)

    def tcp(self, listening: socket.socket) -> None:
        """Accept until the socket is closed."""
        with suppress(OSError):
            while True:
                connection, peer = listening.accept()
                self.heard.append(f"tcp from {peer[0]}")
                connection.close()

    def udp(self, bound: socket.socket) -> None:
        """Echo until the socket is closed."""
        with suppress(OSError):
            while True:
                data, peer = bound.recvfrom(512)
                if not peer:
                    return
                self.heard.append(f"udp from {peer[0]}")
                bound.sendto(data, peer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An address of the host and the interface that has it."""

    device: str
    address: str


@pytest.fixture(scope="module")
def bridge(real_engine: Host, relay_bed: Up) -> str:
    """Name the host's interface that is the bed's control bridge."""
    found = real_engine.find({"testbed.id": relay_bed.id})
    return next(f"br-{f.id[:12]}" for f in found if f.kind == "network" and f.name.endswith("-control"))


@pytest.fixture(scope="module")
def links(real_engine: Host, bridge: str) -> list[Link]:
    """List every address of the host that stays: not the loopback's, nor those of other beds and containers."""
    said = json.loads(on_the_host(real_engine, "ip", "-json", "address"))
    every = [
        Link(device=device["ifname"], address=address["local"])
        for device in said
        for address in device["addr_info"]
        if device["ifname"] == bridge or not device["ifname"].startswith(("br-", "veth", "tb"))
    ]
    return [link for link in every if not ip_address(link.address).is_loopback]


@pytest.fixture(scope="module")
def listener(links: list[Link]) -> Iterator[HostListener]:
    with ExitStack() as stack:
        accepting = stack.enter_context(
            socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
        )
        listening = HostListener(port=accepting.getsockname()[1])
        threads = [Thread(target=listening.tcp, args=(accepting,), daemon=True)]
        sockets = [accepting]
        for link in links:  # one socket for each, so that an answer comes from the address that was asked
            six = ":" in link.address
            bound = stack.enter_context(socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM))
            scope = socket.if_nametoindex(link.device) if ip_address(link.address).is_link_local else 0
            bound.bind((link.address, listening.port, 0, scope) if six else (link.address, listening.port))
            threads.append(Thread(target=listening.udp, args=(bound,), daemon=True))
            sockets.append(bound)
        for thread in threads:
            thread.start()
        yield listening
        for opened in sockets:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def other_bed(real_engine: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Keep another bed up: one sink."""
    path = tmp_path_factory.mktemp("beds") / "other.yaml"
    path.write_text("name: other\ndomains: 4\nnodes: {sink: {service: blackhole}}\n")
    bed = bring_up(path)
    yield bed
    bring_down(real_engine, bed)


def host_targets(links: Sequence[Link], port: int, devices: Sequence[str]) -> list[str]:
    """Name every way to knock at the host, from a container that has these interfaces."""
    addresses = [
        f"{link.address}%{device}" if ip_address(link.address).is_link_local else link.address
        for link in links
        for device in (devices if ip_address(link.address).is_link_local else devices[:1])
    ]
    return [
        f"{how} {address} {port if how != 'icmp' else 0}" for address in addresses for how in ("tcp", "udp", "icmp")
    ]


def eui64(mac: str) -> str:
    """Return the link-local address that an interface would give itself (RFC 4291, appendix A)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])))


def knock(bed: Up, node: str, targets: Sequence[str], name: str) -> dict[str, str]:
    """Knock at targets from inside a node, with the rights of its service."""
    done = bed.exec(node, *knocking(targets, name))
    assert done.status == 0, done.stderr
    said = fates(done.stdout)
    assert list(said) == list(dict.fromkeys(targets))
    return dict(said)


def container_ip(engine: Host, bed: Up, node: str) -> str:
    """Return the address of a node on its control network."""
    facts = cast("DockerHost", engine)._clients.here.inspect_container(bed.container(node))
    return str(facts["NetworkSettings"]["Networks"][f"tb-{bed.id}-control"]["IPAddress"])


@cache
def devices_of(bed: Up, node: str) -> list[str]:
    """Name the interfaces of a node."""
    return sorted(set(bed.shell(node, "ls /sys/class/net").split()) - {"lo"})


def plain(engine: Host, relay_bed: Up, targets: Sequence[str], name: str) -> dict[str, str]:
    """Knock from a container on the bed's control network that has no wall around it."""
    identity = Identity(bed="helper")
    wait = 'until ip -6 address show dev eth0 scope link -tentative | grep -q fe80; do sleep 0.1; done; exec "$@"'
    done = engine.run(
        ContainerSpec(
            name=identity.name(f"plain-{secrets.token_hex(3)}"),
            image="testbed/agents:bookworm",
            command=("timeout", "30", "sh", "-euc", wait, "sh", *knocking(targets, name)),
            labels=identity.labels(),
            networks=(Endpoint(network=f"tb-{relay_bed.id}-control"),),
            sysctls={"net.ipv6.conf.all.disable_ipv6": "0"},
        )
    )
    assert done.status == 0, done.stderr
    return dict(fates(done.stdout))


# ------------------------------------------------------------------------------------------------------------ the tests


@pytest.fixture(scope="module")
def outside(real_engine: Host, relay_bed: Up, links: list[Link], listener: HostListener, other_bed: Up) -> list[str]:
    """Name every way to knock at what is not the bed, but for the scope of link-local addresses."""
    lab = other_bed.address("sink")
    first = other_bed.subnet.network_address + 4
    inner = container_ip(real_engine, other_bed, "sink")
    published = [other_bed.port("sink", "25/tcp"), relay_bed.port("relay", "25/tcp")]
    return [
        *(f"tcp {address} 25" for address in (lab, twin(lab), first, twin(first), inner)),
        *(f"icmp {address} 0" for address in (lab, twin(lab), inner)),
        *(f"tcp {link.address} {port}" for link in links if "." in link.address for port in published),
        f"tcp 127.0.0.11 {listener.port}",
    ]


def test_what_is_outside_would_answer(
    real_engine: Host, relay_bed: Up, other_bed: Up, links: list[Link], listener: HostListener, bridge: str
) -> None:
    """Without the wall all of it answers: the listener, an echo, Docker's resolver, the other bed."""
    with socket.create_connection(("127.0.0.1", other_bed.port("sink", "25/tcp")), timeout=10) as other:
        assert other.recv(3) == b"220"
    near = [link for link in links if "." in link.address or (link.device, link.address[:4]) == (bridge, "fe80")]
    resolver = ["udp 127.0.0.11 53", "tcp 127.0.0.11 53"]
    targets = [*host_targets(near, listener.port, ["eth0"]), *resolver]
    said = plain(real_engine, relay_bed, targets, relay_bed.container("sink"))
    assert {target: said[target] for target in resolver} == dict.fromkeys(resolver, ANSWERED)
    closed = {target: fate for target, fate in said.items() if fate != ANSWERED}
    assert closed == {}, "where a firewall of this host hides it from its containers, the wall is not what is tested"


@each_node
def test_no_address_outside_the_bed_answers_a_node(
    relay_bed: Up, links: list[Link], listener: HostListener, outside: list[str], node: str
) -> None:
    devices = devices_of(relay_bed, node)
    assert len(devices) >= 2
    far_end = eui64((DEVICES / f"tb{relay_bed.id}q" / "address").read_text().strip())
    hosts = [*links, Link(device="", address=far_end), Link(device="", address="ff02::1")]
    resolver = relay_bed.shell(node, "cat /proc/net/udp /proc/net/tcp")
    ports = {int(word[9:], 16) for word in resolver.split() if word.startswith("0B00007F:")}
    assert len(ports) == 2, "Docker's resolver listens in every container, on ports of its own"
    targets = [
        *host_targets(hosts, listener.port, devices),
        *(f"{how} 127.0.0.11 {port}" for how in ("udp", "tcp") for port in (53, *sorted(ports))),
        *outside,
    ]
    before = len(listener.heard)
    said = knock(relay_bed, node, targets, relay_bed.container("sink"))
    assert [f"{target}: {fate}" for target, fate in said.items() if fate == ANSWERED] == []
    assert listener.heard[before:] == []


@each_node
def test_a_node_reaches_its_own_bed(relay_bed: Up, node: str) -> None:
    sink, dns = relay_bed.address("sink"), relay_bed.address("dns")
    targets = [f"tcp {a} 25" for a in (sink, twin(sink))]
    targets += [f"{how} {a} 53" for a in (dns, twin(dns)) for how in ("udp", "tcp")]
    assert set(knock(relay_bed, node, targets, "test").values()) == {ANSWERED}


@each_node
def test_a_node_has_no_way_out(relay_bed: Up, node: str) -> None:
    routes = "for family in 4 6; do ip -$family -json route show table all default; echo; done"
    # RFC 5737, RFC 3849: this asks the node's kernel and sends nothing.
    tries = "for address in 203.0.113.1 2001:db8::1; do ip route get $address 2>&1 || true; done"
    said = relay_bed.shell(node, f"{routes}; {tries}").splitlines()
    defaults = [route for line in said if line.startswith("[") for route in json.loads(line)]
    assert [route for route in defaults if route.get("type") != "unreachable"] == []
    tried = [line for line in said if line and not line.startswith("[")]
    assert tried == ["RTNETLINK answers: Network is unreachable"] * 2


@each_node
def test_no_name_outside_the_bed_resolves_in_a_node(relay_bed: Up, other_bed: Up, node: str) -> None:
    assert relay_bed.shell(node, "getent ahosts mx.d0.test")
    outside = ["example.com", "host.docker.internal", relay_bed.container("sink"), other_bed.container("sink")]
    script = 'for name; do if getent ahosts "$name"; then echo "$name"; fi; done'
    assert relay_bed.shell(node, script, *outside) == ""


@each_node
def test_no_process_of_a_node_could_take_the_wall_down(relay_bed: Up, node: str) -> None:
    said = relay_bed.shell(node, "grep -H -E '^(Cap|NoNewPrivs|Name|PPid)' /proc/[0-9]*/status || true")
    processes: dict[str, dict[str, str]] = {}
    for line in said.splitlines():
        path, key, value = line.split(":", 2)
        processes.setdefault(path, {})[key] = value.strip()
    assert "/proc/1/status" in processes
    for path, facts in processes.items():
        if (facts["Name"], facts["PPid"]) == ("timeout", "0") and path != "/proc/1/status":
            continue  # the engine's, around this very command; the kernel lets nobody with fewer rights trace it
        assert facts["NoNewPrivs"] == "1", facts
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            held = int(facts[kind], 16)
            assert [name for name, bit in FORBIDDEN.items() if held >> bit & 1] == [], facts
    tried = relay_bed.exec(node, "ip", "route", "add", "203.0.113.0/24", "dev", devices_of(relay_bed, node)[0])
    assert tried.status != 0
    assert "not permitted" in tried.stderr


def test_ports_are_published_on_127_0_0_1_only(real_engine: Host, relay_bed: Up) -> None:
    wanted: dict[str, set[str]] = {"dns": {"53/udp", "53/tcp"}, "sink": {"25/tcp"}, "relay": {"25/tcp"}, "load": set()}
    ports = set()
    for node in NODES:
        facts: Any = cast("DockerHost", real_engine)._clients.here.inspect_container(relay_bed.container(node))
        bound = {p: b for p, b in facts["NetworkSettings"]["Ports"].items() if b}
        assert set(bound) == wanted[node]
        assert {b["HostIp"] for bindings in bound.values() for b in bindings} <= {"127.0.0.1"}
        ports |= {int(b["HostPort"]) for bindings in bound.values() for b in bindings}
    open_at = set()
    for protocol, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == state and int(port, 16) in ports:
                open_at.add(address)
    assert open_at <= {"0100007F"}
