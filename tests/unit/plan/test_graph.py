"""The graph of a bed, as Mermaid, DOT and JSON, and the command that prints it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.bed import builtin
from orchestrator.bed.model import parse_bed
from orchestrator.hosts import docker
from orchestrator.plan import graph, make_plan
from orchestrator.plan.graph import DrawnNetwork, DrawnNode, DrawnPort, Graph
from tests.unit.cli import test_errors as test_cli_errors
from tests.unit.cli.test_errors import Command
from tests.unit.cli.test_nodes import HalfUp

testbed = test_cli_errors.testbed
HOSTILE = 'end"]; subgraph <b>\\ #quot; | } -->\n%% x'
ODD = Graph(
    bed=HOSTILE,
    published_at=HOSTILE,
    networks=(DrawnNetwork(name="lab", subnets=(HOSTILE,), parent=HOSTILE), DrawnNetwork(name="control", subnets=())),
    nodes=(
        DrawnNode(
            name=HOSTILE,
            service=HOSTILE,
            role="",
            addresses=(HOSTILE,),
            networks=("lab", "control"),
            ports=(DrawnPort(port=HOSTILE, host_port=7),),
        ),
    ),
)
RELAY = graph.of_plan(make_plan(builtin.bed("relay"), cpus=2))

QUOTED = r'"(?:[^"\\]|\\.)*"'
DOT = re.compile(
    rf"digraph bed \{{\n    rankdir=LR;\n"
    rf"(?:    \w+ \[shape=\w+, label={QUOTED}\];\n)+"
    rf"(?:    \w+ -> \w+ \[dir=\w+, label={QUOTED}\];\n)*\}}\n"
)
TEXT = r'"(?:[\w .,:/()-]|#\d+;|<br/>)*"'
MERMAID = re.compile(
    rf"flowchart LR\n(?:    \w+(?:\(\[{TEXT}\]\)|\[{TEXT}\])\n)+(?:    \w+ --[->](?:\|{TEXT}\|)? \w+\n)*"
)


def test_a_plan_has_networks_roles_address_ranges_and_published_ports() -> None:
    lab, control = RELAY.networks
    assert lab == DrawnNetwork(name="lab", subnets=("198.18.0.0/19", "2001:2::c612:0/115"))
    assert control.name == "control"
    nodes = {node.name: node for node in RELAY.nodes}
    assert {name: node.role for name, node in nodes.items()} == {
        "relay": "relay",
        "dns": "dns",
        "sink": "sink",
        "load": "load",
    }
    assert nodes["relay"].ports == (DrawnPort(port="25/tcp", host_port=None),)
    assert nodes["sink"].addresses[2:] == (
        "198.18.16.0 to 198.18.25.255, one for each domain",
        "2001:2::c612:1000 to 2001:2::c612:19ff, one for each domain",
    )


@pytest.mark.parametrize(("families", "versions"), [("v4", {"."}), ("v6", {":"}), ("both", {".", ":"})])
def test_addresses_are_of_the_families_of_the_bed(families: str, versions: set[str]) -> None:
    nodes = {"dns": {"service": "bind", "addresses": 3}, "sink": {"service": "blackhole"}}
    found = graph.of_plan(make_plan(parse_bed({"name": "x", "families": families, "nodes": nodes}, "bed"), cpus=2))
    addresses = [a for node in found.nodes for a in node.addresses] + list(found.networks[0].subnets)
    assert {":" if ":" in address else "." for address in addresses} == versions
    dns = next(node for node in found.nodes if node.name == "dns")
    assert len([a for a in dns.addresses if " to " in a]) == len(versions)


def test_guests_are_drawn_with_the_nodes_that_they_reach() -> None:
    bed = parse_bed(
        {"name": "x", "guests": True, "nodes": {"load": {"service": "smtp-load"}, "relay": {"service": "postfix"}}},
        "bed",
    )
    drawn = graph.of_plan(make_plan(bed, cpus=2))
    assert [network["name"] for network in drawn.to_dict()["networks"]] == ["lab", "control", "guests"]
    networks = {node["name"]: node["networks"] for node in drawn.to_dict()["nodes"]}
    assert networks == {"load": ("lab", "control"), "relay": ("lab", "control", "guests")}
    relay = next(f"n{number}" for number, node in enumerate(drawn.nodes) if node.name == "relay")
    edges = [line.strip() for line in (graph.mermaid(drawn) + graph.dot(drawn)).splitlines() if "guests" in line]
    assert edges == [
        'guests(["guests of bed x"])',
        f"{relay} --- guests",
        'guests [shape=ellipse, label="guests of bed x"];',
        f'{relay} -> guests [dir=none, label=""];',
    ]
    assert [network.name for network in RELAY.networks] == ["lab", "control"]


def test_ports_are_drawn_at_the_address_where_they_are_published() -> None:
    drawn = graph.of_plan(make_plan(builtin.bed("relay"), cpus=2), {"relay": {"25/tcp": 2525}}, "2001:db8::1")
    for text in (graph.mermaid(drawn), graph.dot(drawn)):
        assert "2001:db8::1 of the host" in text
        assert "2525 to 25/tcp" in text
        assert "127.0.0.1" not in text
    assert (drawn.to_dict()["published_at"], RELAY.published_at) == ("2001:db8::1", "127.0.0.1")


@pytest.mark.parametrize("drawn", [RELAY, ODD])
def test_every_name_stays_within_its_label(drawn: Graph) -> None:
    assert DOT.fullmatch(graph.dot(drawn))
    assert MERMAID.fullmatch(graph.mermaid(drawn))


@pytest.mark.skipif(shutil.which("dot") is None, reason="no Graphviz here")
@pytest.mark.parametrize("drawn", [RELAY, ODD])
def test_graphviz_reads_it(drawn: Graph) -> None:
    plain = subprocess.run(["dot", "-Tplain"], input=graph.dot(drawn), capture_output=True, text=True, check=True)
    kinds = [line.split()[0] for line in plain.stdout.splitlines()]
    assert (plain.stderr, kinds.count("node")) == ("", len(drawn.nodes) + 3)


@pytest.mark.parametrize("written", [("relay",), ("small.yaml",)], ids=" ".join)
def test_the_command_takes_a_built_in_bed_or_a_file(testbed: Command, written: tuple[str]) -> None:
    Path("small.yaml").write_text("name: small\nnodes: {dns: {service: bind}}\n")
    told = testbed("graph", *written)
    assert told.code == 0
    assert MERMAID.fullmatch(told.out)
    assert DOT.fullmatch(testbed("graph", *written, "--format", "dot").out)


def test_the_command_takes_a_bed_that_is_up(testbed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made = HalfUp()
    monkeypatch.setattr(docker, "connect", lambda: made)
    told = json.loads(testbed("graph", "x", "--format", "json").out)
    assert told["bed"] == "x"
    assert sorted((node["name"], node["role"]) for node in told["nodes"]) == [
        ("dns", "dns"),
        ("relay", "relay"),
        ("sink", "sink"),
    ]


def test_a_bed_that_is_neither_is_named(testbed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "connect", HalfUp)
    assert testbed("graph", "nothing").names("nothing")
