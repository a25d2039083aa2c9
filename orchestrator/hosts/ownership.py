"""Labels of a bed's objects, and liveness of the process that made them.

An object is known by its labels alone, so that any later command finds what a killed one left behind. A veth pair has
no labels: its name and its alias carry the id of its bed.
"""

import hashlib
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.bed.model import Bed
from orchestrator.hosts import Found, Host

ID, BED, NODE, SERVICE, KIND, OWNER, CREATED, EXPIRES, NODES, PRIVATE, NEIGHBOURS, DEFINITION = (
    f"testbed.{name}"
    for name in (
        "id", "bed", "node", "service", "kind", "owner", "created", "expires", "nodes", "private", "neighbours",
        "definition",
    )
)  # fmt: skip
REMOVED = "removed"
"""State of a node whose container is gone."""


class Kind(StrEnum):
    """How long a bed is meant to live."""

    RUN = "run"
    """As long as the command that made it."""
    UP = "up"
    """Until somebody takes it down."""


class Owner(StrEnum):
    """Whether the process that made a bed still runs."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """It ran on another machine, or in a container of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A bed about to be made: what its objects are called and labelled."""

    id: str
    """Eight hex digits."""
    bed: str
    kind: Kind
    nodes: tuple[str, ...]
    """Planned names of the nodes."""
    private: bool
    """Its lab stands on a veth pair of its own, not on a real interface."""
    definition: str = ""
    """Digest of what its author wrote."""
    expires: str = ""
    """End of its time (ISO 8601); empty: none."""

    @classmethod
    def new(cls, bed: Bed, kind: Kind, life: timedelta | None = None) -> "Identity":
        """Give a bed an id of its own."""
        return cls(
            id=secrets.token_hex(4),
            bed=bed.name,
            kind=kind,
            nodes=tuple(bed.nodes),
            private=bed.parent is None,
            definition=definition(bed),
            expires=(datetime.now(UTC) + life).isoformat(timespec="seconds") if life else "",
        )

    @classmethod
    def reading(cls) -> "Identity":
        """Give a one-shot container that belongs to no bed an id of its own."""
        return cls(id=secrets.token_hex(4), bed="helper", kind=Kind.RUN, nodes=(), private=False)

    def labels(self, **further: str) -> dict[str, str]:
        """Return the labels of one of its objects; ``further`` are named without ``testbed.``."""
        return {
            ID: self.id,
            BED: self.bed,
            KIND: self.kind,
            NODES: ",".join(self.nodes),
            OWNER: _owner(),
            **({PRIVATE: "yes"} if self.private else {}),
            **({DEFINITION: self.definition} if self.definition else {}),
            **({EXPIRES: self.expires} if self.expires else {}),
            CREATED: datetime.now(UTC).isoformat(timespec="seconds"),
            **{f"testbed.{name}": value for name, value in further.items()},
        }

    def name(self, part: str) -> str:
        """Return what one of its containers or networks is called."""
        return f"tb-{self.id}-{part}"

    @property
    def veth(self) -> tuple[str, str]:
        """The two ends of its veth pair; the lab stands on the first (15 characters at most, if(4) IFNAMSIZ)."""
        return f"tb{self.id}p", f"tb{self.id}q"


def definition(bed: Bed) -> str:
    """Return a digest of what the author of a bed wrote: beds with the same one are the same."""
    return hashlib.sha256(bed.model_dump_json().encode()).hexdigest()[:16]


@cache
def _machine() -> tuple[str, str, str]:
    """Name what a process id belongs to: this machine, this boot of it, this PID namespace (pid_namespaces(7))."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        machine = ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()}.{machine}", boot, str(Path("/proc/self/ns/pid").stat().st_ino)


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the boot (proc(5), stat, field 22); ``None``: it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _owner() -> str:
    return "/".join((*_machine(), str(os.getpid()), str(_started(os.getpid()))))


def owner_state(label: str) -> Owner:
    """Say whether the process that a label names still runs."""
    machine, boot, namespace = _machine()
    match label.split("/"):
        case [where, when, _, _, _] if where == machine and when != boot:
            return Owner.DEAD
        case [where, _, inside, pid, started] if (where, inside) == (machine, namespace) and pid.isdecimal():
            return Owner.ALIVE if _started(int(pid)) == started else Owner.DEAD
    return Owner.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedBed:
    """State of a deployed bed, read from its objects' labels."""

    id: str
    bed: str
    kind: Kind
    owner: Owner
    created: str
    expires: str
    private: bool
    nodes: tuple[str, ...]
    """Planned names of its nodes; empty for a one-shot container or a lock."""
    definition: str
    """Digest of what its author wrote."""
    containers: tuple[Found, ...]
    networks: tuple[Found, ...]

    @property
    def made(self) -> bool:
        """Every node was started once; nodes may have ended or lost their containers since.

        All containers of a bed are created before the first one starts (``bringup``).
        """
        states = [c.state for c in self.containers if NODE in c.labels]
        return bool(states) and "created" not in states

    @property
    def lost(self) -> tuple[str, ...]:
        """Nodes whose containers were removed."""
        return tuple(name for name in self.nodes if self.made and not self.node(name))

    @property
    def abandoned(self) -> bool:
        """Nobody will take it down: its run was killed, it was never finished, or its time is over."""
        if self.expired:
            return self.owner is not Owner.ALIVE
        return self.owner is Owner.DEAD and (self.kind == Kind.RUN or not self.made)

    @property
    def expired(self) -> bool:
        """Its time is over, by the clock of this machine."""
        try:
            return datetime.fromisoformat(self.expires) <= datetime.now(UTC)
        except (ValueError, TypeError):  # none, or a label of somebody else
            return False

    @property
    def state(self) -> str:
        """In a word."""
        if self.abandoned:
            return "abandoned"
        running = {c.labels[NODE] for c in self.containers if NODE in c.labels and c.state == "running"}
        return "running" if running >= {*self.nodes} else "incomplete"

    @property
    def identity(self) -> Identity:
        """Return what its objects are called."""
        return Identity(id=self.id, bed=self.bed, kind=self.kind, nodes=self.nodes, private=self.private)

    @property
    def ports(self) -> dict[str, Mapping[str, int]]:
        """Node -> ``25/tcp`` -> the port of the host's 127.0.0.1."""
        return {c.labels[NODE]: c.ports for c in self.containers if NODE in c.labels}

    def node(self, name: str) -> Found | None:
        """Return the container of a node."""
        return next((c for c in self.containers if c.labels.get(NODE) == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a script."""
        return {
            "id": self.id,
            "bed": self.bed,
            "kind": self.kind,
            "state": self.state,
            "created": self.created,
            "expires": self.expires or None,
            "subnet": next((n.subnet for n in self.networks if n.subnet and n.name.endswith("-lab")), None),
            "nodes": [
                {
                    "name": c.labels[NODE],
                    "service": c.labels.get(SERVICE, ""),
                    "state": c.state,
                    "container": c.name,
                    "ports": dict(c.ports),
                }
                for c in self.containers
                if NODE in c.labels
            ]
            + [{"name": n, "service": "", "state": REMOVED, "container": None, "ports": {}} for n in self.lost],
        }


def deployed_beds(engine: Host) -> list[DeployedBed]:
    """Return every bed with at least one remaining object, oldest first."""
    groups: dict[str, list[Found]] = {}
    for found in engine.find({ID: None}):
        groups.setdefault(found.labels[ID], []).append(found)
    return sorted((_deployed(id_, group) for id_, group in groups.items()), key=lambda s: s.created)


def _deployed(id_: str, group: Sequence[Found]) -> DeployedBed:
    labels: Mapping[str, str] = group[0].labels
    containers = sorted((f for f in group if f.kind == "container"), key=lambda f: f.name)
    return DeployedBed(
        id=id_,
        bed=labels.get(BED, ""),
        kind=Kind.UP if labels.get(KIND) == Kind.UP else Kind.RUN,
        private=PRIVATE in labels,
        owner=owner_state(labels.get(OWNER, "")),
        created=labels.get(CREATED, ""),
        expires=labels.get(EXPIRES, ""),
        nodes=tuple(filter(None, labels.get(NODES, "").split(","))),
        definition=labels.get(DEFINITION, ""),
        containers=tuple(containers),
        networks=tuple(f for f in group if f.kind == "network"),
    )
