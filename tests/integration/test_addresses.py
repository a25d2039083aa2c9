"""Thousands of addresses on one node, both families: how long they take, and that they answer."""

import json
import random
import re
import statistics
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from orchestrator.bed.addressing import twin
from orchestrator.bed.model import read_bed
from orchestrator.bed.wiring import DIRECTORY, SETUP_CAPABILITIES
from orchestrator.hosts import ContainerSpec, Host
from orchestrator.hosts.ownership import Identity
from orchestrator.plan import NodePlan, Plan, make_plan
from orchestrator.services.agents import PYTHON
from tests.integration.beds import Up, bring_down, bring_up

pytestmark = [pytest.mark.docker, pytest.mark.alone]

REAL, REAL_S = 2560, 0.5
ANYIP, ANYIP_S = 32_768, 0.3
MANY, MANY_S = 20_000, 4.0
REPEATS = 3

BED = f"""
name: addresses
domains: {ANYIP}
nodes:
  sink: {{service: blackhole, addresses: {REAL + 1}}}
  load: {{service: smtp-load}}
"""

MANY_BED = f"""
name: many
domains: 1
nodes:
  sink: {{service: blackhole, addresses: {MANY + 1}}}
  load: {{service: smtp-load}}
"""

_TIMED = """
batch() { sed "s/@lab$/$lab/" | ip -batch -; }
set -- $(ip -oneline -4 address show to "$1") "$2"; lab=$2; for pattern; do :; done
chosen() { grep -E "$pattern" /testbed/addresses; }
chosen | sed 's/ add / del /; s/ nodad / /' | batch
before=$(date +%s%N)
chosen | batch
after=$(date +%s%N)
echo $(( (after - before) / 1000 ))
"""
"""Take those of a node's addresses that match away, and add them again as at its start; prints microseconds."""

ADDED = f"""
ip link add lab type veth peer name far
for device in lab far; do ip link set dev $device up; done
before=$(date +%s%N)
grep -E '^(link|address|route add local) ' {DIRECTORY}/addresses | sed 's/@lab$/lab/' | ip -batch -
echo $(( ($(date +%s%N) - before) / 1000 ))
times
"""
"""Add the addresses of a node that the engine gives no networks; prints microseconds, and CPU time (POSIX, times)."""

GREETED = """
import asyncio, json, sys
async def greeted(address):
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, 25), 3)
        answer = await asyncio.wait_for(reader.readline(), 3)
        return writer.get_extra_info("peername")[0] == address and answer.startswith(b"220")
    except (OSError, asyncio.TimeoutError):
        return False
async def main(addresses):
    print(json.dumps(dict(zip(addresses, await asyncio.gather(*map(greeted, addresses))))))
asyncio.run(main(sys.argv[1:]))
"""


OUT_OF = """
import socket, sys
with socket.socket() as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
    client.settimeout(2)
    client.connect((sys.argv[2], 25))
"""


@pytest.fixture(scope="module")
def bed(real_engine: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    path = tmp_path_factory.mktemp("beds") / "addresses.yaml"
    path.write_text(BED)
    made = bring_up(path)
    yield made
    bring_down(real_engine, made)


@pytest.fixture  # gone before the other bed is made: each takes a half of the range
def many(real_engine: Host, tmp_path: Path) -> Iterator[tuple[Up, NodePlan]]:
    path = tmp_path / "many.yaml"
    path.write_text(MANY_BED)
    made = bring_up(path)
    yield made, make_plan(read_bed(path), subnet=made.subnet, cpus=2).named("sink")
    bring_down(real_engine, made)


@pytest.fixture(scope="module")
def plan(bed: Up, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Work the same bed out again, for the subnet that it got."""
    path: Path = tmp_path_factory.mktemp("plan") / "addresses.yaml"
    path.write_text(BED)
    return make_plan(read_bed(path), subnet=bed.subnet, cpus=2)


@pytest.fixture(scope="module")
def sink(plan: Plan) -> NodePlan:
    return next(node for node in plan.nodes if node.name == "sink")


def seconds(engine: Host, bed: Up, sink: NodePlan, pattern: str) -> float:
    """Time what the start of the node does with these of its addresses: median of a few times."""
    container = bed.container("sink")  # with NET_ADMIN, which `testbed exec` gives nobody
    taken = [engine.node(container).exec(("sh", "-euc", _TIMED, "sh", str(sink.v4), pattern)) for _ in range(REPEATS)]
    assert [t.stderr for t in taken if t.status] == []
    return statistics.median(int(t.stdout) for t in taken) / 1e6


def added_in(engine: Host, node: NodePlan) -> tuple[float, float]:
    """Add the addresses of a node in a network namespace of their own; return seconds: elapsed, and of CPU time."""
    identity = Identity(bed="helper")
    done = engine.run(
        ContainerSpec(
            name=identity.name("addresses"),
            image=node.tag,
            command=("sh", "-euc", ADDED),
            labels=identity.labels(),
            capabilities=SETUP_CAPABILITIES,
            sysctls=node.sysctls,
            files=node.files,
        )
    )
    assert done.status == 0, done.stderr
    elapsed, _, children = done.stdout.splitlines()
    cpu = [float(minutes) * 60 + float(seconds) for minutes, seconds in re.findall(r"(\d+)m([\d.]+)s", children)]
    return int(elapsed) / 1e6, sum(cpu)


def greeted(bed: Up, addresses: Sequence[IPv4Address]) -> dict[str, bool]:
    """Connect to addresses and their IPv6 twins from another node: who is greeted by the address that was dialled?"""
    both = [str(a) for a in addresses] + [str(twin(a)) for a in addresses]
    done = bed.exec("load", *PYTHON, "-c", GREETED, *both)
    assert done.status == 0, done.stderr
    answers: dict[str, bool] = json.loads(done.stdout)
    return answers


def first_last_and_some(addresses: Sequence[IPv4Address]) -> list[IPv4Address]:
    return [addresses[0], addresses[-1], *random.sample(addresses, 20)]


def test_many_real_addresses_take_a_time_that_grows_linearly_and_answer(
    real_engine: Host, many: tuple[Up, NodePlan]
) -> None:
    bed, sink = many
    _, cpu = added_in(real_engine, sink)
    assert cpu < MANY_S  # elapsed time is the bench's: it says as much of who else works on this machine
    assert int(bed.shell("sink", "ip -oneline -4 address show to 198.18.0.0/15 | wc -l")) == MANY + 1
    assert set(greeted(bed, first_last_and_some(sink.addresses)).values()) == {True}
    assert set(greeted(bed, [sink.addresses[-1] + 1]).values()) == {False}
    tried = bed.exec("sink", *PYTHON, "-c", OUT_OF, "further0", "203.0.113.1")  # RFC 5737
    assert "ConnectionRefusedError" in tried.stderr, "the rules refuse what leaves by a device other than the lab's"


def test_real_addresses_are_quick_and_answer(real_engine: Host, bed: Up, sink: NodePlan) -> None:
    further = sink.addresses[1:]
    assert len(further) == REAL
    assert sink.files[f"{DIRECTORY}/addresses"].decode().count("/32 dev") == REAL
    took = seconds(real_engine, bed, sink, "^address add .*/(32|128) ")
    assert took < REAL_S
    assert set(greeted(bed, first_last_and_some(further)).values()) == {True}
    # They are single addresses, not a prefix: nobody is at the next one.
    assert set(greeted(bed, [further[-1] + 1]).values()) == {False}


def test_anyip_is_quick_and_answers(real_engine: Host, bed: Up, sink: NodePlan, plan: Plan) -> None:
    delivery = [d.v4 for d in plan.deliveries]
    assert (len(delivery), plan.mail.prefixlen) == (ANYIP, 17)
    took = seconds(real_engine, bed, sink, "^route add local ")
    assert took < ANYIP_S
    assert set(greeted(bed, first_last_and_some(delivery)).values()) == {True}
