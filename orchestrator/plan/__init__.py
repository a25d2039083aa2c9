"""The plan of a bed: every address, file, limit and container, the start order, and the resources needed.

Pure: the same bed, subnet and CPU count give the same plan, without a running engine.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from orchestrator import services
from orchestrator.bed import cpu_topology, wiring
from orchestrator.bed.addressing import V4, Delivery, lay_out, parse_slice, slice_prefix, twin, twin_network
from orchestrator.bed.model import Bed, Families, Limits, NodeSpec, Strict, checked
from orchestrator.errors import InvalidInput
from orchestrator.services import Rendered, Role, Service, Site

START_ORDER = (Role.RELAY, Role.DNS, Role.GATE, Role.SINK, Role.LOAD)
"""Slow services start first, as the engine starts containers one by one; no service needs another at its start."""
_MAIL = "mail"
"""The block that holds one delivery address for each domain."""

_PLAIN = ("name", "service", "role", "command", "capabilities", "sysctls", "fds", "fd_limit", "memory_mb", "detours")
"""Fields of ``NodePlan`` that are plain data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan(Rendered):
    """One container, ready to be created."""

    name: str
    service: str
    role: Role
    image: str
    release: str
    v4: IPv4Address
    families: Families
    addresses: tuple[IPv4Address, ...]
    """All real IPv4 addresses of the node, the service address first; each has an IPv6 twin."""
    capabilities: tuple[str, ...]
    """Capabilities of the service; the container also has those of the start script."""
    sysctls: Mapping[str, str]
    limits: Limits
    guests: bool
    """Whether the node is on the bed's guest network."""
    peers: int
    """Number of on-link addresses that the node talks to; each takes one neighbour-table entry per family."""

    @property
    def address(self) -> IPv4Address | IPv6Address:
        """The service address for other nodes: IPv4 unless the bed has IPv6 only."""
        return self.v4 if self.families.has_v4 else twin(self.v4)

    @property
    def tag(self) -> str:
        """The tag of the node's image."""
        return f"testbed/{self.image}:{self.release}"

    def to_dict(self) -> dict[str, Any]:
        """Return the node as plain data, with the size and SHA-256 of each file."""
        return {
            **{key: getattr(self, key) for key in _PLAIN},
            "publish": self.publish,
            "image": self.tag,
            "v4": str(self.v4),
            "v6": str(twin(self.v4)),
            "addresses": len(self.addresses),
            "limits": self.limits.model_dump(exclude_none=True),
            "neighbours": self.peers,
            "changes": [asdict(change) for change in self.changes],
            "files": {
                path: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for path, content in sorted(self.files.items())
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNeeds:
    """Resources needed on the host; each value is the total of all nodes, unless stated otherwise."""

    containers: int
    addresses: int
    """Number of real addresses, all families of the bed together."""
    ipv6: bool
    """Whether the kernel must support IPv6."""
    macvlan: bool
    """Whether the kernel must support macvlan, and rules at the ingress of a device."""
    neighbour_entries: int
    """Entries in the kernel's IPv4 neighbour table, which all network namespaces share."""
    fds: int
    """Open files of the busiest process, or the highest limit of a node if that is higher."""
    memory_mb: int
    cpus: float
    """The highest CPU limit of a node; 0 if no node has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a bed in one subnet."""

    bed: Bed
    subnet: IPv4Network
    mail: IPv4Network
    """The prefix whose first addresses are the delivery addresses of the domains."""
    deliveries: tuple[Delivery, ...]
    nodes: tuple[NodePlan, ...]
    """In start order."""
    needs: HostNeeds

    @property
    def destinations(self) -> IPv4Network | IPv6Network:
        """The prefix whose first addresses receive the mail: IPv4 unless the bed has IPv6 only."""
        return self.mail if self.bed.families.has_v4 else twin_network(self.mail)

    def node(self, role: Role) -> NodePlan:
        """Return the first node that fills a role; raises InvalidInput if none does."""
        for node in self.nodes:
            if node.role is role:
                return node
        raise InvalidInput(f"a node that fills the role {role}", f"none in bed {self.bed.name}", "add one to the bed")

    def named(self, name: str) -> NodePlan:
        """Return a node by name; raises KeyError."""
        return {node.name: node for node in self.nodes}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "bed": self.bed.name,
            "families": str(self.bed.families),
            "subnet": str(self.subnet),
            "subnet6": str(twin_network(self.subnet)),
            "mail": str(self.mail),
            "mail6": str(twin_network(self.mail)),
            "domains": len(self.deliveries),
            "parent": self.bed.parent,
            "needs": asdict(self.needs),
            "nodes": [node.to_dict() for node in self.nodes],
        }


def subnet_prefix(bed: Bed) -> int:
    """Return the prefix length of the bed's slice; raises InvalidInput if the bed does not fit in the range."""
    return slice_prefix(len(bed.nodes), _blocks(bed).values())


def make_plan(bed: Bed, *, subnet: IPv4Network | None = None, cpus: int) -> Plan:
    """Return the plan of a bed; raises InvalidInput if the bed cannot be built.

    ``subnet``: the slice; by default the bed's own, or the first that fits. ``cpus``: number of CPUs of the host; by
    default a daemon starts one thread for each.
    """
    kinds = {name: services.service(node.service) for name, node in bed.nodes.items()}
    _refuse(bed, kinds)
    if subnet is None:
        subnet = parse_slice(bed.subnet) if bed.subnet else next(V4.subnets(new_prefix=subnet_prefix(bed)))
    layout = lay_out(subnet, bed.nodes, _blocks(bed))
    mail = layout.blocks[_MAIL]
    deliveries = tuple(
        Delivery(domain=name, v4=mail.network_address + i, v6=twin(mail.network_address + i))
        for i, name in enumerate(bed.domain_names)
    )
    by_role = {role: name for name in reversed(bed.nodes) for role in [kinds[name].role]}
    first = {role: layout.nodes[name] for role, name in by_role.items()}
    dns, gate = first.get(Role.DNS), first.get(Role.GATE)
    sink = next((name for name, kind in kinds.items() if kind.takes_mail), None)
    routes: list[tuple[str, IPv4Network | IPv6Network, IPv4Address]] = [
        (name, twin_network(block), layout.nodes[name]) for name, block in layout.blocks.items() if name != _MAIL
    ]
    if sink:
        prefixes = (twin_network(mail),) if bed.on_link else (mail, twin_network(mail))
        routes += [(sink, prefix, layout.nodes[sink]) for prefix in prefixes]

    planned = []
    for name, node in sorted(bed.nodes.items(), key=lambda item: START_ORDER.index(kinds[item[0]].role)):
        kind = kinds[name]
        v4 = layout.nodes[name]
        further = tuple(layout.blocks[name])[: node.addresses - 1] if name in layout.blocks else ()
        site = Site(
            node=name,
            release=node.release,
            settings=checked(kind.settings, node.settings, f"valid settings of node {name} ({kind.name})"),
            v4=v4,
            v6=twin(v4),
            addresses=(v4, *further),
            lab=subnet,
            lab6=twin_network(subnet),
            block=mail if name == sink else None,
            nodes=layout.nodes,
            first=first,
            relays={relay: layout.nodes[relay] for relay, kind in kinds.items() if kind.role is Role.RELAY},
            families=bed.families,
            deliveries=deliveries,
            records=bed.records,
            zones=bed.zones,
            workers=_workers(node, cpus),
            files=node.files,
        )
        rendered = kind.render(site)
        wire = wiring.Wire(
            v4=v4,
            lab=subnet,
            families=bed.families,
            further=further,
            enumerated6=rendered.enumerates6,
            anyip=mail if name == sink else None,
            routes=[(prefix, via) for owner, prefix, via in routes if owner != name],
            resolver=dns if kind.role is Role.GATE else gate or dns,
            attempts=1 if gate else 3,  # a rule of the gate counts questions, so no question is repeated
            publish=rendered.publish,
            guests=bed.guests and bool(rendered.publish),
        )
        on_link = len(deliveries) if bed.on_link and kind.role in {Role.RELAY, Role.LOAD} else 0
        files = {**rendered.files, **wiring.files(wire, rendered.command, kind.capabilities)}
        start = {
            "command": (f"{wiring.DIRECTORY}/enter",),
            "files": _laid_over(name, node, rendered) | files,
        }
        planned.append(
            NodePlan(
                **{field.name: getattr(rendered, field.name) for field in fields(Rendered)} | start,
                name=name,
                service=kind.name,
                role=kind.role,
                image=kind.image,
                release=node.release,
                v4=v4,
                families=bed.families,
                addresses=site.addresses,
                capabilities=kind.capabilities,
                sysctls=wiring.sysctls(bed.families),
                limits=node.limits,
                guests=wire.guests,
                peers=len(bed.nodes) - 1 + on_link,
            )
        )

    needs = HostNeeds(
        containers=len(planned),
        addresses=(bed.families.has_v4 + bed.families.has_v6) * sum(len(node.addresses) for node in planned),
        ipv6=bed.families.has_v6,
        macvlan=bed.lab == "macvlan",
        neighbour_entries=sum(node.peers for node in planned),
        fds=max(max(node.fds, node.limits.nofile or 0) for node in planned),
        memory_mb=sum(node.memory_mb for node in planned),
        cpus=max(node.limits.cpus or 0 for node in planned),
    )
    return Plan(bed=bed, subnet=subnet, mail=mail, deliveries=deliveries, nodes=tuple(planned), needs=needs)


def _laid_over(name: str, node: NodeSpec, rendered: Rendered) -> dict[str, bytes]:
    """Return the user's own files that go to the node unchanged; raises InvalidInput if the service writes it."""
    own = {path: text.encode() for path, text in node.files.items() if path not in rendered.taken}
    if written := sorted(own.keys() & rendered.files.keys()):
        raise InvalidInput(
            f"own files for node {name} that its service does not write",
            f"the service writes {', '.join(written)}",
            "remove these",
        )
    return own


def _blocks(bed: Bed) -> dict[str, int]:
    further = {name: node.addresses - 1 for name, node in bed.nodes.items() if node.addresses > 1}
    return {_MAIL: len(bed.domain_names), **further}


def _workers(node: NodeSpec, cpus: int) -> int:
    """Return the number of CPUs that a node may use: those of its cpuset, up to its CPU limit."""
    if node.limits.cpuset:
        cpus = min(cpus, len(cpu_topology.parse(node.limits.cpuset)))
    if node.limits.cpus:
        cpus = min(cpus, max(1, round(node.limits.cpus)))
    return max(1, cpus)


def _refuse(bed: Bed, kinds: Mapping[str, Service[Strict]]) -> None:
    """Raise InvalidInput if a bed cannot be built although its model is valid."""
    if _MAIL in bed.nodes:
        raise InvalidInput(f"a node name other than {_MAIL!r}", "it is the name of the delivery addresses", "rename it")
    if bed.on_link and not bed.families.has_v4:
        raise InvalidInput("IPv4 for `on_link`", "families: v6", "take `families: both` or `v4`, or leave on_link out")
    takers = [name for name, kind in kinds.items() if kind.takes_mail]
    if len(takers) > 1:
        raise InvalidInput(
            "one node that takes the mail of every domain", f"{len(takers)}: {', '.join(takers)}", "keep one of them"
        )
