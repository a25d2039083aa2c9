"""The graph of a bed: its networks, nodes, addresses and published ports as Mermaid, DOT or JSON."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator import services
from orchestrator.bed.addressing import twin, twin_network
from orchestrator.plan import NodePlan, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnNetwork:
    """One network of a bed."""

    name: str
    """``lab``, ``control`` or ``guests``."""
    subnets: tuple[str, ...]
    """Empty if the engine has not chosen them yet."""
    parent: str = ""
    """Real interface of the host that carries the network; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPort:
    """One published port of a node."""

    port: str
    """Port and protocol, such as ``25/tcp``."""
    host_port: int | None
    """Port on the host's ``published_at``; ``None`` if the engine will choose a free one at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnNode:
    """One node."""

    name: str
    service: str
    role: str
    """Empty if this version does not know the service."""
    addresses: tuple[str, ...]
    """On the lab network: single addresses, and ranges ``FIRST to LAST``."""
    networks: tuple[str, ...]
    """Names of its networks."""
    ports: tuple[DrawnPort, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Content of a picture of a bed."""

    bed: str
    published_at: str
    """Address of the host on which ports are published."""
    networks: tuple[DrawnNetwork, ...]
    nodes: tuple[DrawnNode, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a script."""
        return asdict(self)


def of_plan(
    plan: Plan, published: Mapping[str, Mapping[str, int]] | None = None, published_at: str = "127.0.0.1"
) -> Graph:
    """Return a bed's graph.

    ``published``: node -> ``25/tcp`` -> port of the host, for a bed that is up. ``published_at``: address of the host
    on which these ports are published.
    """
    ports = published or {}
    families = plan.bed.families
    subnets = [plan.subnet] * families.has_v4 + [twin_network(plan.subnet)] * families.has_v6
    networks = [
        DrawnNetwork(name="lab", subnets=tuple(map(str, subnets)), parent=plan.bed.parent or ""),
        DrawnNetwork(name="control", subnets=()),
    ]
    if plan.bed.guests:
        networks.append(DrawnNetwork(name="guests", subnets=()))
    nodes = tuple(
        DrawnNode(
            name=node.name,
            service=node.service,
            role=node.role,
            addresses=_addresses(plan, node),
            networks=("lab", "control", *(["guests"] if node.guests else [])),
            ports=tuple(DrawnPort(port=p, host_port=ports.get(node.name, {}).get(p)) for p in node.publish),
        )
        for node in plan.nodes
    )
    return Graph(bed=plan.bed.name, published_at=published_at, networks=tuple(networks), nodes=nodes)


def _addresses(plan: Plan, node: NodePlan) -> tuple[str, ...]:
    first, *further = node.addresses
    kinds: list[Callable[[Any], Any]] = []
    kinds += [lambda address: address] if plan.bed.families.has_v4 else []
    kinds += [twin] if plan.bed.families.has_v6 else []
    result = [str(kind(first)) for kind in kinds]
    result += [f"{kind(further[0])} to {kind(further[-1])}" for kind in kinds if further]
    if services.service(node.service).takes_mail:
        ends = plan.deliveries[0].v4, plan.deliveries[-1].v4
        result += ["{} to {}, one for each domain".format(*map(kind, ends)) for kind in kinds]
    return tuple(result)


def mermaid(graph: Graph) -> str:
    """Render a flowchart; characters with a meaning in Mermaid or HTML become entity codes (``#35;``)."""

    def label(lines: tuple[str, ...]) -> str:
        return '"' + "<br/>".join(re.sub(r"[^\w .,:/()-]", lambda c: f"#{ord(c[0])};", line) for line in lines) + '"'

    rows = ["flowchart LR"]
    rows += [f"    {id_}([{label(lines)}])" for id_, lines in _network_labels(graph).items()]
    rows += [f"    {id_}[{label(lines)}]" for id_, lines in _node_labels(graph).items()]
    for edge in _edges(graph):
        arrow, text = "-->" if edge.directed else "---", f"|{label(edge.label)}|" if edge.label else ""
        rows.append(f"    {edge.tail} {arrow}{text} {edge.head}")
    return "\n".join(rows) + "\n"


def dot(graph: Graph) -> str:
    """Render a digraph for Graphviz; every label is a quoted string (DOT language, ID)."""

    def label(lines: tuple[str, ...]) -> str:
        return '"' + "\\n".join(line.translate(_DOT) for line in lines) + '"'

    rows = ["digraph bed {", "    rankdir=LR;"]
    rows += [f"    {id_} [shape=ellipse, label={label(lines)}];" for id_, lines in _network_labels(graph).items()]
    rows += [f"    {id_} [shape=box, label={label(lines)}];" for id_, lines in _node_labels(graph).items()]
    for edge in _edges(graph):
        direction = "forward" if edge.directed else "none"
        rows.append(f"    {edge.tail} -> {edge.head} [dir={direction}, label={label(edge.label)}];")
    return "\n".join([*rows, "}"]) + "\n"


_DOT = str.maketrans({"\\": r"\\", '"': r"\"", "\n": " ", "\r": " ", "\0": " "})


@dataclass(frozen=True, slots=True)
class _Edge:
    tail: str
    head: str
    label: tuple[str, ...]
    directed: bool


def _network_labels(graph: Graph) -> Mapping[str, tuple[str, ...]]:
    """Return a network's id in the drawing -> the lines of its label."""
    return {
        network.name: (
            f"{network.name} of bed {graph.bed}",
            *network.subnets,
            *([f"on {network.parent}"] if network.parent else []),
        )
        for network in graph.networks
    }


def _node_labels(graph: Graph) -> Mapping[str, tuple[str, ...]]:
    """Return the id of a node or the host -> the lines of its label; a node's id is numbered, never a keyword."""
    host = {"host": (f"{graph.published_at} of the host",)} if any(node.ports for node in graph.nodes) else {}
    nodes = {
        f"n{number}": (node.name, f"{node.service}, role {node.role}" if node.role else node.service)
        for number, node in enumerate(graph.nodes)
    }
    return host | nodes


def _edges(graph: Graph) -> list[_Edge]:
    edges = []
    for number, node in enumerate(graph.nodes):
        labels = {name: node.addresses if name == "lab" else () for name in node.networks}
        edges += [_Edge(f"n{number}", network, label, directed=False) for network, label in labels.items()]
        if node.ports:
            lines = tuple(f"{port.host_port or 'a free port'} to {port.port}" for port in node.ports)
            edges.append(_Edge("host", f"n{number}", lines, directed=True))
    return edges
