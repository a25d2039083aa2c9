"""The networks of a bed on the real engine: made, chosen in a race, closed to the host, removed by whoever comes."""

import json
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.hosts import ContainerSpec, Endpoint, Found, Host, SubnetTaken, docker, networks
from orchestrator.hosts.cleaning import clean, remove_id
from orchestrator.hosts.helper import HELPER
from orchestrator.hosts.ownership import Identity, Kind, deployed_beds

pytestmark = pytest.mark.docker

DEVICES = Path("/sys/class/net")
IMAGE = "testbed/agents:bookworm"
PREFIX = 26
"""Small slices: the tests share the range with whatever else runs."""


@pytest.fixture(scope="module")
def engine() -> Host:
    return docker.connect()


@pytest.fixture
def identity(engine: Host) -> Iterator[Identity]:
    made = an_identity()
    yield made
    remove_id(engine, made.id)


def an_identity(kind: Kind = Kind.RUN) -> Identity:
    return Identity(id=secrets.token_hex(4), bed="test-lab", kind=kind, nodes=("node",), private=True)


def make(engine: Host, identity: Identity, steps: int = 5) -> str:
    """Take the first steps of bringing a bed up; return the container that the last one starts."""
    container = ""
    if steps >= 1:
        networks.make_control(engine, identity)
    if steps >= 2:
        networks.make_parent(engine, identity)
    if steps >= 3:
        make_lab(engine, identity)
    if steps >= 4:
        container = engine.create(node(identity)).id
    if steps >= 5:
        engine.node(container).start()
    return container


def make_lab(engine: Host, identity: Identity) -> IPv4Network:
    """Take a subnet as a bed does: another may be faster."""
    while True:
        subnet = networks.choose_subnet(engine, PREFIX, None)
        try:
            networks.make_lab(engine, identity, identity.veth[0], subnet)
        except SubnetTaken:
            continue
        return subnet


def node(identity: Identity) -> ContainerSpec:
    return ContainerSpec(
        name=identity.name("node"),
        image=IMAGE,
        command=("sleep", "600"),
        labels=identity.labels(node="node"),
        networks=(Endpoint(network=identity.name("lab")),),
        capabilities=("NET_ADMIN",),
        sysctls={"net.ipv6.conf.all.disable_ipv6": "0"},
    )


def on_the_host(engine: Host, identity: Identity, *command: str) -> str:
    done = engine.run(
        ContainerSpec(
            name=f"tb-{identity.id}-test-{secrets.token_hex(3)}",
            image=HELPER,
            command=command,
            labels={"testbed.test": "lab"},
            host_network=True,
            capabilities=("NET_ADMIN",),
        )
    )
    assert done.status == 0, done.stderr
    return done.stdout


def left(engine: Host, identity: Identity) -> list[str]:
    """Name what there still is of a bed."""
    found = [found.name for found in engine.find({"testbed.id": identity.id})]
    found += [end for end in identity.veth if (DEVICES / end).exists()]
    tables = on_the_host(engine, identity, "nft", "list", "tables", "netdev")
    return found + [line for line in tables.splitlines() if identity.id in line]


def silent(_text: str) -> None:
    """Nobody listens."""


# ------------------------------------------------------------------------------------------------- made and removed


def test_the_pair_has_a_carrier_no_address_and_says_whose_it_is(engine: Host, identity: Identity) -> None:
    make(engine, identity, steps=2)
    for end in identity.veth:
        assert (DEVICES / end / "carrier").read_text().strip() == "1"
        assert (DEVICES / end / "ifalias").read_text().strip() == f"testbed {identity.id}"
        assert on_the_host(engine, identity, "ip", "-br", "address", "show", "dev", end).split()[2:] == []
    for _ in range(2):
        networks.remove_parent(engine, identity)
        assert left(engine, identity) == [identity.name("control")]


def test_a_parent_that_another_network_has_is_named(engine: Host, identity: Identity) -> None:
    if int(engine.info().version.split(".")[0]) >= 27:
        pytest.skip("since Engine 27 a parent carries several networks")
    make(engine, identity, steps=3)
    other = an_identity()
    with pytest.raises(EngineFailed, match="another network uses it") as refused:
        networks.make_lab(engine, other, identity.veth[0], networks.choose_subnet(engine, PREFIX, None))
    assert identity.veth[0] in refused.value.needed


# ------------------------------------------------------------------------------------------------------- the subnet


def test_a_wish_that_overlaps_names_the_network_in_the_way(engine: Host, identity: Identity) -> None:
    make(engine, identity, steps=2)
    subnet = make_lab(engine, identity)
    with pytest.raises(InvalidInput, match=identity.name("lab")):
        networks.choose_subnet(engine, subnet.prefixlen, str(subnet))  # its neighbours may be other beds'


def test_beds_made_in_the_same_moment_share_nothing(engine: Host) -> None:
    identities = [an_identity() for _ in range(4)]
    with ExitStack() as stack:
        for made in identities:
            stack.callback(remove_id, engine, made.id)
            make(engine, made, steps=2)
        with ThreadPoolExecutor(len(identities)) as pool:
            subnets = list(pool.map(lambda made: make_lab(engine, made), identities))
        assert not any(a.overlaps(b) for i, a in enumerate(subnets) for b in subnets[:i])
    assert [left(engine, made) for made in identities] == [[]] * 4


# ------------------------------------------------------------------------------------------------- closed to the host

_AIM = """
ip address add fe80::2/64 dev eth0 nodad
ip route replace $1/32 dev eth0
ip neigh replace $1 lladdr $2 dev eth0 nud permanent
"""
_SEND = """
import socket, sys
said, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
    s.sendto((said + " to all").encode(), ("ff02::1", port, 0, socket.if_nametoindex("eth0")))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.sendto(said.encode(), (host, port))
"""


def test_the_host_hears_nothing_of_what_arrives_at_the_far_end(engine: Host, identity: Identity) -> None:
    """A node with rights that no service has sends to the host through the link address of the far end.

    The same is sent again once the rule is gone: that shows that the listener would have heard it, and that nothing
    sent before is still on its way. (Datagrams that nobody answers, so nothing leaves the host either.)
    """
    container = make(engine, identity)
    bridge = next(n.subnet for n in engine.find({"testbed.id": identity.id}) if n.name == identity.name("control"))
    host = str(IPv4Network(str(bridge))[1])
    link = (DEVICES / identity.veth[1] / "address").read_text().strip()
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as reserved:
        port = reserved.getsockname()[1]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        listener.settimeout(10)

        def send(said: str) -> None:
            done = engine.node(container).exec(("python3", "-c", _SEND, said, host, str(port)))
            assert done.status == 0, done.stderr

        done = engine.node(container).exec(("sh", "-euc", _AIM, "sh", host, link))
        assert done.status == 0, done.stderr
        send("closed")
        on_the_host(engine, identity, "nft", "delete", "table", "netdev", f"tb{identity.id}")
        send("open")
        filters = [Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").read_text() for name in ("all", "default")]
        assert "1\n" not in filters, "strict rp_filter hides what the rule stops: set net.ipv4.conf.*.rp_filter to 2"
        heard = [listener.recv(100).decode()]
        while heard[-1] != "open":
            heard.append(listener.recv(100).decode())
    assert [said for said in heard if said.startswith("closed")] == []


# ------------------------------------------------------------------------------------------------------- left behind

_MAKE_AND_DIE = """
import json, os, signal, sys
from tests.integration import test_lab
facts = json.loads(sys.argv[1])
identity = test_lab.Identity(**{**facts, "kind": test_lab.Kind(facts["kind"])})
test_lab.make(test_lab.docker.connect(), identity, int(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_killed_process(identity: Identity, steps: int) -> None:
    facts = json.dumps(asdict(identity))
    done = subprocess.run(
        [sys.executable, "-c", _MAKE_AND_DIE, facts, str(steps)], check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == -signal.SIGKILL


class Confined:
    """An engine that shows one bed and the helpers: other people's beds are not for a test to clean."""

    def __init__(self, engine: Host, identity: Identity) -> None:
        self._engine, self._id = engine, identity.id

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._engine, verb)

    def find(self, labels: Mapping[str, str | None]) -> list[Found]:
        """List what is of that bed."""
        return [found for found in self._engine.find(labels) if found.labels.get("testbed.id") == self._id]


@pytest.mark.alone
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_two_cleans_at_once_leave_nothing_of_a_killed_run(engine: Host, identity: Identity, steps: int) -> None:
    left_by_a_killed_process(identity, steps)
    assert left(engine, identity)
    ours = cast("Host", Confined(engine, identity))
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(clean, ours, everything=False, say=silent) for _ in range(2)]:
            done.result()
    assert left(engine, identity) == []


def test_a_bed_that_is_up_outlives_its_command_and_every_clean(engine: Host) -> None:
    identity = an_identity(Kind.UP)
    ours = cast("Host", Confined(engine, identity))
    try:
        left_by_a_killed_process(identity, 5)
        cleaned = clean(ours, everything=False, say=silent)
        assert ([s.id for s in cleaned.kept], cleaned.removed) == ([identity.id], [])
        assert [s.state for s in deployed_beds(ours)] == ["running"]
        cleaned = clean(ours, everything=True, say=silent)
        assert [s.id for s in cleaned.removed] == [identity.id]
    finally:
        remove_id(engine, identity.id)
    assert left(engine, identity) == []
