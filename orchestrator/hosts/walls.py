"""The walls of beds that are up: looked at again, and put back after a flush of the host's or of a node's rules.

A bed has a wall on the host (``lab``: nothing from its lab enters the host) and one in each node (``wiring``: nothing
leaves the bed). A firewall that is restarted, or `nft flush ruleset`, removes them without a word.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.bed import wiring
from orchestrator.errors import EngineFailed, Problem
from orchestrator.hosts import ContainerSpec, Found, Host, networks
from orchestrator.hosts.ownership import NODE, Identity, Standing, standing

_MEND = "`testbed up` of the same bed mends it"
_AT_ONCE = 8
"""Nodes that are asked at the same time."""
_NONE, _OTHER = 3, 4
_LOOK = f"""
test -s {wiring.WALL_LOADED} || exit 0
now=$(nft --stateless list table inet bed 2>/dev/null) || exit {_NONE}
test "$now" = "$(cat {wiring.WALL_LOADED})" || exit {_OTHER}
"""
"""A node that has no rules yet is at its start."""
_LOAD = f"nft --file {wiring.WALL}"
_CLOSED = re.compile(
    r"table netdev tb(\w+) \{\s+chain ends \{\s+"
    r'type filter hook ingress device "tb\1q" priority [^;]+; policy drop;\s+\}\s+\}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A wall that is missing or differs from the rules loaded at the start of its bed."""

    bed: Standing
    container: Found | None
    """The node; ``None``: the wall on the host."""
    found: str
    do: str = _MEND

    @property
    def needed(self) -> str:
        """Name the rules and their purpose."""
        if self.container is None:
            return f"table netdev tb{self.bed.id} in the host's nftables, which keeps the lab out of the host"
        return f"table inet bed in the nftables of node {self.container.labels[NODE]}, which keeps it in its bed"

    def to_dict(self) -> dict[str, str]:
        """Return plain data for a script."""
        return {"needed": self.needed, "found": self.found, "do": self.do}


def gaps(engine: Host, beds: Sequence[Standing]) -> list[Gap]:
    """Look at the walls of these beds: one helper on the host for all, one command in each running node.

    Beds that are not complete are left out: one that is being made or removed has only a part of its walls.

    Raises:
        EngineFailed: the engine cannot be reached.
    """
    whole = [bed for bed in beds if bed.complete and not bed.abandoned]
    nodes = [(bed, c) for bed in whole for c in bed.containers if NODE in c.labels and c.state == "running"]
    private = [bed for bed in whole if bed.private]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        host = pool.submit(_host_gaps, engine, private)
        found = [gap for gap in pool.map(lambda node: _node_gap(engine, *node), nodes) if gap]
        found = [*host.result(), *found]
    return _still_there(engine, found) if found else []


def mend(engine: Host, say: Callable[[str], None]) -> list[Standing]:
    """Put back every wall of every bed that is up, and return the beds whose walls are whole again.

    A wall that cannot be put back is named, and the rest goes on.

    Raises:
        EngineFailed: the engine cannot be reached.
    """
    open_beds: dict[str, list[Gap]] = {}
    for gap in gaps(engine, standing(engine)):
        open_beds.setdefault(gap.bed.id, []).append(gap)
    mended = []
    for wanting in open_beds.values():
        bed = wanting[0].bed
        try:
            for gap in wanting:
                _mend(engine, gap)
        except Problem as problem:
            say(f"warning: bed {bed.bed} {bed.id} stays open: {problem}")
        else:
            say(f"warning: bed {bed.bed} {bed.id} was open, and is closed again: {_named(wanting)}")
            mended.append(bed)
    return mended


def _named(wanting: Iterable[Gap]) -> str:
    return "; ".join(f"{gap.needed}: {gap.found}" for gap in wanting)


def _host_gaps(engine: Host, beds: Sequence[Standing]) -> list[Gap]:
    if not beds:
        return []
    try:
        closed = set(_CLOSED.findall(_host_rules(engine)))
    except EngineFailed as problem:
        return [Gap(bed=bed, container=None, found=f"unknown: {problem.found}", do=problem.do) for bed in beds]
    return [Gap(bed=bed, container=None, found="none that drops everything") for bed in beds if bed.id not in closed]


def _host_rules(engine: Host) -> str:
    identity = Identity.reading()
    listed = engine.run(
        ContainerSpec(
            name=identity.name(f"walls-{secrets.token_hex(3)}"),
            image=networks.HELPER,
            command=("nft", "list", "ruleset", "netdev"),
            labels=identity.labels(),
            host_network=True,
            capabilities=("NET_ADMIN",),
        )
    )
    if listed.status != 0:
        raise EngineFailed("the host's nftables", listed.failure, "see `testbed setup`")
    return listed.stdout


def _node_gap(engine: Host, bed: Standing, container: Found) -> Gap | None:
    try:
        looked = engine.node(container.id).exec(("sh", "-c", _LOOK))
    except EngineFailed as problem:
        return Gap(bed=bed, container=container, found=f"unknown: {problem.found}", do=problem.do)
    if looked.status == 0:
        return None
    found = {_NONE: "none", _OTHER: "other rules in it"}.get(looked.status, f"unknown: {looked.failure}")
    return Gap(bed=bed, container=container, found=found)


def _still_there(engine: Host, found: Iterable[Gap]) -> list[Gap]:
    """Leave out what has been taken down since."""
    now = {bed.id: bed for bed in standing(engine) if bed.complete}
    running = {c.id for bed in now.values() for c in bed.containers if c.state == "running"}
    return [gap for gap in found if gap.bed.id in now and (gap.container is None or gap.container.id in running)]


def _mend(engine: Host, gap: Gap) -> None:
    """Put one wall back.

    Raises:
        EngineFailed: the kernel or the engine refused.
    """
    if gap.container is None:
        networks.close_parent(engine, gap.bed.identity)
        return
    for script in (_LOAD, _LOOK):
        done = engine.node(gap.container.id).exec(("sh", "-euc", script))
        if done.status != 0:
            raise EngineFailed(gap.needed, done.failure, "take the bed down, and up again")
