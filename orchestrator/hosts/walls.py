"""Firewall rules of beds that are up: checked, and restored after a flush.

A wall is a set of nftables rules. A bed has one on the host (``networks``: no frame of its lab enters the host) and one
in each node (``wiring``: no packet leaves the bed). A restart of the firewall, or `nft flush ruleset`, removes both.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.bed import wiring
from orchestrator.errors import EngineFailed, Problem
from orchestrator.hosts import Found, Host, images, networks
from orchestrator.hosts.helper import on_the_host
from orchestrator.hosts.ownership import NODE, REMOVED, DeployedBed, deployed_beds

_MEND = "`testbed up` of the same bed mends it"
_PARTLY = ("its bed is being made or removed", "look again when that has ended")
_AT_ONCE = 8
"""Nodes checked in parallel."""
_NONE, _OTHER, _STARTS = 3, 4, 5
_LOOK = f"""
test -s {wiring.WALL_LOADED} || exit {_STARTS}
now=$(nft --stateless list table inet bed 2>/dev/null) || exit {_NONE}
test "$now" = "$(cat {wiring.WALL_LOADED})" || exit {_OTHER}
"""
_LOAD = f"nft --file {wiring.WALL}"
_CLOSED = re.compile(
    r"table netdev tb(\w+) \{\s+chain ends \{\s+"
    r'type filter hook ingress device "tb\1q" priority [^;]+; policy drop;\s+\}\s+\}'
)


class State(StrEnum):
    """Result of the check of one wall."""

    CLOSED = "closed"
    OPEN = "open"
    """The rules are missing, or differ from those loaded at the start of the bed."""
    UNSEEN = "not looked at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """One wall of a bed."""

    bed: DeployedBed
    node: str | None
    """``None``: the wall on the host."""
    state: State
    found: str = ""
    """Rules found in place of the wall's rules, or the reason why the wall was not checked."""
    do: str = ""

    @property
    def place(self) -> str:
        """Where the rules are: ``host`` or ``node <name>``."""
        return "host" if self.node is None else f"node {self.node}"

    @property
    def needed(self) -> str:
        """Name of the nftables table, and the purpose of its rules."""
        if self.node is None:
            return f"table netdev tb{self.bed.id} in the host's nftables, which keeps the lab out of the host"
        return f"table inet bed in the nftables of node {self.node}, which keeps the node's packets in its bed"

    def to_dict(self) -> dict[str, str]:
        """Return plain data for a script."""
        return {"needed": self.needed, "found": self.found, "do": self.do}


def look(host: Host, beds: Iterable[DeployedBed]) -> list[Wall]:
    """Check the walls of these beds: one helper container for all walls on the host, one command in each running node.

    Walls of unfinished beds and of nodes that do not run are UNSEEN, with the reason.
    """
    places = [(bed, node) for bed in beds if bed.nodes for node in ((None, *bed.nodes) if bed.private else bed.nodes)]
    result = [hidden for place in places if (hidden := _hidden(*place))]
    visible = [place for place in places if not _hidden(*place)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        on_host = pool.submit(_host_walls, host, [bed for bed, node in visible if node is None])
        nodes = [(bed, container) for bed, node in visible if node and (container := bed.node_containers.get(node))]
        looked = pool.map(lambda at: _node_wall(host, *at), nodes)
        result += [*on_host.result(), *looked]
    return result if all(wall.state is State.CLOSED for wall in result) else _still_there(host, result)


def summary(walls: Sequence[Wall]) -> str:
    """Return one line that lists the open, closed and UNSEEN walls of all beds, with reasons."""
    lacks = [f"{w.bed.bed} {w.bed.id} lacks {w.needed}: {w.found}" for w in walls if w.state is State.OPEN]
    closed = [f"{bed} ({places})" for bed, places, *_ in grouped(walls, State.CLOSED)]
    hidden = [f"{bed} ({places}: {found})" for bed, places, found, _ in grouped(walls, State.UNSEEN)]
    parts = ("closed", closed), ("not looked at", hidden)
    return "; ".join([*lacks, *(f"{state}: {', '.join(names)}" for state, names in parts if names)])


def grouped(walls: Iterable[Wall], state: State) -> list[tuple[str, str, str, str]]:
    """Group the walls in this state by bed and reason: (bed, places, ``found``, ``do``)."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for wall in walls:
        if wall.state is state:
            groups.setdefault((f"{wall.bed.bed} {wall.bed.id}", wall.found, wall.do), []).append(wall.place)
    return [(bed, ", ".join(places), found, do) for (bed, found, do), places in groups.items()]


def mend(host: Host, say: Callable[[str], None]) -> list[Wall]:
    """Restore every open wall of every bed that is up; return the walls that stay open or UNSEEN.

    If the walls of one bed cannot be restored, report this, and restore the walls of the other beds.

    Raises:
        EngineFailed: the helper's image is missing and cannot be built.
    """
    beds = deployed_beds(host)
    if any(bed.private and bed.made for bed in beds):
        images.ensure_helper(host, say)
    walls = look(host, beds)
    stay = [wall for wall in walls if wall.state is State.UNSEEN]
    open_beds: dict[str, list[Wall]] = {}
    for wall in walls:
        if wall.state is State.OPEN:
            open_beds.setdefault(wall.bed.id, []).append(wall)
    for wanting in open_beds.values():
        bed = wanting[0].bed
        try:
            for wall in wanting:
                _mend(host, wall)
        except Problem as problem:
            say(f"warning: bed {bed.bed} {bed.id} stays open: {problem}")
            stay += wanting
        else:
            lacked = "; ".join(f"{wall.needed}: {wall.found}" for wall in wanting)
            say(f"warning: bed {bed.bed} {bed.id} was open, and is closed again: {lacked}")
    return stay


def _hidden(bed: DeployedBed, node: str | None) -> Wall | None:
    """Return an UNSEEN wall with its reason; ``None`` if the wall can be checked."""
    container = bed.node_containers.get(node) if node else None
    if not bed.made:
        found, do = ("its bed is abandoned", "`testbed clean` removes it") if bed.abandoned else _PARTLY
    elif node and (container is None or container.state != "running"):
        found = f"it is {container.state if container else REMOVED}"
        do = f"`testbed down {bed.id}`, then `testbed up` again"
    else:
        return None
    return Wall(bed=bed, node=node, state=State.UNSEEN, found=found, do=do)


def _host_walls(host: Host, beds: Sequence[DeployedBed]) -> list[Wall]:
    if not beds:
        return []
    needed, do = "the host's nftables", "see `testbed setup`"
    try:
        rules = on_the_host(host, "nft list ruleset netdev", needed=needed, do=do, capabilities=("NET_ADMIN",))
        closed = set(_CLOSED.findall(rules))
    except EngineFailed as problem:
        return [Wall(bed=bed, node=None, state=State.UNSEEN, found=problem.found, do=problem.do) for bed in beds]
    return [
        Wall(bed=bed, node=None, state=State.CLOSED)
        if bed.id in closed
        else Wall(bed=bed, node=None, state=State.OPEN, found="no rule that drops every frame", do=_MEND)
        for bed in beds
    ]


def _node_wall(host: Host, bed: DeployedBed, container: Found) -> Wall:
    node = container.labels[NODE]
    try:
        looked = host.node(container.id).exec(("sh", "-c", _LOOK))
    except EngineFailed as problem:
        return Wall(bed=bed, node=node, state=State.UNSEEN, found=problem.found, do=problem.do)
    if looked.status == 0:
        return Wall(bed=bed, node=node, state=State.CLOSED)
    if found := {_NONE: "none", _OTHER: "different rules in it"}.get(looked.status):
        return Wall(bed=bed, node=node, state=State.OPEN, found=found, do=_MEND)
    found = "the node is still starting" if looked.status == _STARTS else looked.failure
    return Wall(bed=bed, node=node, state=State.UNSEEN, found=found, do="look again")


def _still_there(host: Host, walls: Iterable[Wall]) -> list[Wall]:
    """Leave out walls of beds removed during the check; mark an open wall UNSEEN if its bed's containers changed."""
    now = {bed.id: bed.containers for bed in deployed_beds(host)}
    return [
        wall
        if wall.state is State.CLOSED or now[wall.bed.id] == wall.bed.containers or _hidden(wall.bed, wall.node)
        else replace(wall, state=State.UNSEEN, found="its bed changed during the check", do="look again")
        for wall in walls
        if wall.bed.id in now
    ]


def _mend(host: Host, wall: Wall) -> None:
    container = wall.bed.node_containers.get(wall.node) if wall.node else None
    if container is None:
        networks.close_parent(host, wall.bed)
        return
    for script in (_LOAD, _LOOK):
        done = host.node(container.id).exec(("sh", "-euc", script))
        if done.status != 0:
            raise EngineFailed(wall.needed, done.failure, "take the bed down, and up again")
