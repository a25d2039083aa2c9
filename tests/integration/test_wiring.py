"""How a node joins its bed, on hosts other than this one: stand-ins for what their kernels have."""

import secrets
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from orchestrator.bed import wiring
from orchestrator.bed.model import Families
from orchestrator.bed.wiring import DIRECTORY, SETUP_CAPABILITIES, Wire
from orchestrator.hosts import ContainerSpec, Endpoint, Host
from orchestrator.hosts.ownership import Identity
from tests.integration.beds import Up

pytestmark = pytest.mark.docker

STRAYS = ("aaa0", "tunl0", "zzz0")
"""Names that sort before and after eth0 and eth1."""
_STRAYS = f"""
ip link add aaa0 type veth peer name tunl0
ip link set tunl0 arp off
ip tuntap add dev zzz0 mode tun 2> /dev/null || ip link add zzz0 type veth peer name zzz1
ip address add 203.0.113.1/32 dev aaa0
for device in {" ".join(STRAYS)}; do ip link set dev $device up; done
exec {DIRECTORY}/enter
"""
"""A stand-in for a kernel with ipip, gre, sit or ip_vti loaded, which has a device of each in every network namespace.
One has an address, as nobody gives it there. (A tun device needs /dev/net/tun, which an engine gives no container.)"""
_SERVE = """
import socket
with socket.create_server(("198.18.0.0", 25)) as listening:
    print("listening", flush=True)
    while True:
        with listening.accept()[0] as connection:
            connection.sendall(b"220 here")
"""


@pytest.fixture
def spare(relay_bed: Up) -> IPv4Address:
    """Return an address of the bed's slice that no node has: four nodes have those after the gateway's."""
    return relay_bed.subnet.network_address + 2 + len(relay_bed.nodes)


@pytest.fixture
def beside_strays(real_engine: Host, relay_bed: Up, spare: IPv4Address) -> Iterator[tuple[str, dict[str, str]]]:
    """Start one node more in a bed: its namespace has other devices than those of the engine."""
    identity = Identity(bed="helper")
    wire = Wire(v4=spare, lab=relay_bed.subnet, publish=("25/tcp",))
    serve = ("/opt/agents/bin/python", "-c", _SERVE.replace("198.18.0.0", str(spare)))
    spec = ContainerSpec(
        name=identity.name(f"strays-{secrets.token_hex(3)}"),
        image="testbed/agents:bookworm",
        command=("sh", "-euc", _STRAYS),
        labels=identity.labels(),
        networks=tuple(
            Endpoint(network=f"tb-{relay_bed.id}-{name}", v4=v4)
            for name, v4 in (("control", None), ("lab", str(spare)))
        ),
        capabilities=("NET_BIND_SERVICE", *SETUP_CAPABILITIES),
        sysctls=wiring.sysctls(Families.BOTH),
        publish=("25/tcp",),
        files=wiring.files(wire, serve, ("NET_BIND_SERVICE",)),
    )
    container = real_engine.create(spec).id
    try:
        real_engine.node(container).start()
        yield container, dict(spec.labels)
    finally:
        real_engine.node(container).remove()


def test_a_published_port_answers_where_the_kernel_adds_devices_of_its_own(
    real_engine: Host, beside_strays: tuple[str, dict[str, str]]
) -> None:
    container, labels = beside_strays
    assert next(line.text for line in real_engine.node(container).logs(follow=True)) == "listening"
    (port,) = (found.ports["25/tcp"] for found in real_engine.find({**labels}))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        assert client.recv(99) == b"220 here"
