"""Thousands of addresses on one node, both families: how long they take, and that they answer."""

import json
import random
import statistics
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from orchestrator.addressing import twin
from orchestrator.engine import Engine
from orchestrator.model import read_bed
from orchestrator.plan import NodePlan, Plan, make_plan
from orchestrator.services.agents import PYTHON
from orchestrator.wiring import DIRECTORY
from tests.integration.beds import Up, bring_down, bring_up

pytestmark = pytest.mark.docker

REAL, REAL_S = 2560, 0.5
ANYIP, ANYIP_S = 32_768, 0.3
REPEATS = 3

BED = f"""
name: addresses
domains: {ANYIP}
nodes:
  sink: {{service: blackhole, addresses: {REAL + 1}}}
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

_GREETED = """
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


@pytest.fixture(scope="module")
def bed(real_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    path = tmp_path_factory.mktemp("beds") / "addresses.yaml"
    path.write_text(BED)
    made = bring_up(path)
    yield made
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


def seconds(engine: Engine, bed: Up, sink: NodePlan, pattern: str) -> float:
    """Time what the start of the node does with these of its addresses: median of a few times."""
    container = bed.container("sink")  # with NET_ADMIN, which `testbed exec` gives nobody
    taken = [engine.exec(container, ("sh", "-euc", _TIMED, "sh", str(sink.v4), pattern)) for _ in range(REPEATS)]
    assert [t.stderr for t in taken if t.status] == []
    return statistics.median(int(t.stdout) for t in taken) / 1e6


def greeted(bed: Up, addresses: Sequence[IPv4Address]) -> dict[str, bool]:
    """Connect to addresses and their IPv6 twins from another node: who is greeted by the address that was dialled?"""
    both = [str(a) for a in addresses] + [str(twin(a)) for a in addresses]
    done = bed.exec("load", *PYTHON, "-c", _GREETED, *both)
    assert done.status == 0, done.stderr
    answers: dict[str, bool] = json.loads(done.stdout)
    return answers


def first_last_and_some(addresses: Sequence[IPv4Address]) -> list[IPv4Address]:
    return [addresses[0], addresses[-1], *random.sample(addresses, 20)]


def test_real_addresses_are_quick_and_answer(real_engine: Engine, bed: Up, sink: NodePlan) -> None:
    further = sink.addresses[1:]
    assert len(further) == REAL
    assert sink.files[f"{DIRECTORY}/addresses"].decode().count("/32 dev") == REAL
    took = seconds(real_engine, bed, sink, "^address add .*/(32|128) ")
    assert took < REAL_S
    assert set(greeted(bed, first_last_and_some(further)).values()) == {True}
    # They are single addresses, not a prefix: nobody is at the next one.
    assert set(greeted(bed, [further[-1] + 1]).values()) == {False}


def test_anyip_is_quick_and_answers(real_engine: Engine, bed: Up, sink: NodePlan, plan: Plan) -> None:
    delivery = [d.v4 for d in plan.deliveries]
    assert (len(delivery), plan.mail.prefixlen) == (ANYIP, 17)
    took = seconds(real_engine, bed, sink, "^route add local ")
    assert took < ANYIP_S
    assert set(greeted(bed, first_last_and_some(delivery)).values()) == {True}
