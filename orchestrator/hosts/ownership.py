"""Labels of a bed's objects, and state of their owner: the process of a run, or the bring-up of a bed that stays up.

Objects are identified by labels alone, so that any command finds the objects of a killed command. A veth pair has no
labels: its name and its alias hold the id of its bed.
"""

import hashlib
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from orchestrator.bed.model import Bed
from orchestrator.errors import EngineFailed
from orchestrator.hosts import LOOPBACK, Found, Host

ID, BED, NODE, SERVICE, KIND, OWNER, CREATED, EXPIRES, NODES, PRIVATE, NEIGHBOURS, DEFINITION, PUBLISHED_AT = (
    f"testbed.{name}"
    for name in (
        "id", "bed", "node", "service", "kind", "owner", "created", "expires", "nodes", "private", "neighbours",
        "definition", "published-at",
    )
)  # fmt: skip
REMOVED = "removed"
"""State of a node without a container."""


class Kind(StrEnum):
    """Intended lifetime of a bed."""

    RUN = "run"
    """The bed lives as long as the command that made it."""
    UP = "up"
    """The bed lives until ``testbed down``, or until it expires."""


class Owner(StrEnum):
    """Whether the process or thread that made a bed still runs."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """The owner was started on another machine or in another container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Id of a bed, and the names and labels of its objects."""

    id: str = field(default_factory=partial(secrets.token_hex, 4))
    """Eight hex digits."""
    bed: str
    kind: Kind = Kind.RUN
    nodes: tuple[str, ...] = ()
    """Planned names of the nodes; empty for a one-shot container or a lock."""
    private: bool = False
    """Whether the lab network has its own veth pair; otherwise it is on a real interface or a bridge."""
    definition: str = ""
    """Digest of the bed's definition."""
    expires: str = ""
    """Time of expiry (ISO 8601); empty: the bed does not expire."""
    owner: str = ""
    """Label of the owner; empty: this process."""
    published_at: str = LOOPBACK
    """Address of the host on which the bed's ports are published."""
    foreign: Mapping[str, str] = field(default_factory=dict)
    """Labels that another tool needs on the bed's objects."""

    @classmethod
    def new(
        cls,
        bed: Bed,
        kind: Kind,
        life: timedelta | None = None,
        *,
        owner: str = "",
        published_at: str = LOOPBACK,
        foreign: Mapping[str, str] | None = None,
    ) -> "Identity":
        """Return the identity of a new bed."""
        return cls(
            bed=bed.name,
            kind=kind,
            nodes=tuple(bed.nodes),
            private=bed.private,
            definition=definition(bed),
            expires=(datetime.now(UTC) + life).isoformat(timespec="seconds") if life else "",
            owner=owner,
            published_at=published_at,
            foreign=foreign or {},
        )

    def labels(self, **further: str) -> dict[str, str]:
        """Return the labels of an object; ``further``: labels to add, named without the prefix ``testbed.``."""
        return {
            **self.foreign,
            ID: self.id,
            BED: self.bed,
            KIND: self.kind,
            NODES: ",".join(self.nodes),
            OWNER: self.owner or this_process(),
            **({PRIVATE: "yes"} if self.private else {}),
            **({DEFINITION: self.definition} if self.definition else {}),
            **({EXPIRES: self.expires} if self.expires else {}),
            **({PUBLISHED_AT: self.published_at} if self.published_at != LOOPBACK else {}),
            CREATED: datetime.now(UTC).isoformat(timespec="microseconds"),
            **{f"testbed.{name}": value for name, value in further.items()},
        }

    def name(self, part: str) -> str:
        """Return the name of a container or network."""
        return f"tb-{self.id}-{part}"

    @property
    def guests(self) -> str:
        """Name of the guest network. A bed that stays up leaves out its id, so that the name is predictable."""
        return f"testbed-{self.bed}-guests" if self.kind is Kind.UP else self.name("guests")

    @property
    def veth(self) -> tuple[str, str]:
        """Names of the veth pair's ends, the lab's first; at most 15 characters (IFNAMSIZ)."""
        return f"tb{self.id}p", f"tb{self.id}q"


def in_url(address: str) -> str:
    """Return an address as the host of a URL (RFC 3986, 3.2.2)."""
    return f"[{address}]" if ":" in address else address


def definition(bed: Bed) -> str:
    """Return a digest of a bed's definition; equal beds have equal digests."""
    return hashlib.sha256(bed.model_dump_json().encode()).hexdigest()[:16]


@cache
def _machine() -> tuple[str, str, str]:
    """Return the scope in which this process's id is unique: machine, boot, PID namespace (pid_namespaces(7))."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        machine = ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()}.{machine}", boot, str(Path("/proc/self/ns/pid").stat().st_ino)


def _started(pid: int) -> str | None:
    """Return the start of a process or thread in clock ticks since the boot; ``None`` if it has ended.

    Source: field 22 of /proc/<id>/stat (proc(5)); every thread has this file, too.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def owner_label(pid: int) -> str:
    """Return the OWNER label of a process or thread of this machine."""
    return "/".join((*_machine(), str(pid), str(_started(pid))))


def this_process() -> str:
    """Return the OWNER label of objects that this process makes."""
    return owner_label(os.getpid())


def scratch(owner: str) -> str:
    """Return the prefix of the names of an owner's temporary folders."""
    return f"testbed-{hashlib.sha256(owner.encode()).hexdigest()[:16]}-"


@contextmanager
def bringing_up() -> Iterator[str]:
    """Yield the OWNER label of a thread that ends with the block: this process may outlive the bring-up."""
    over = Event()
    thread = Thread(target=over.wait, name="bring-up", daemon=True)
    thread.start()
    pid = thread.native_id or 0
    try:
        yield owner_label(pid)
    finally:
        over.set()
        thread.join()
        while _started(pid):  # join() returns a moment before the thread ends
            os.sched_yield()


def owner_state(label: str) -> Owner:
    """Return whether the process or thread in an OWNER label is still running."""
    machine, boot, namespace = _machine()
    match label.split("/"):
        case [where, when, _, _, _] if where == machine and when != boot:
            return Owner.DEAD
        case [where, _, inside, pid, started] if (where, inside) == (machine, namespace) and pid.isdecimal():
            return Owner.ALIVE if _started(int(pid)) == started else Owner.DEAD
    return Owner.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedBed(Identity):
    """State of a deployed bed, read from its objects' labels."""

    owner_state: Owner
    created: str
    containers: tuple[Found, ...]
    networks: tuple[Found, ...]

    @property
    def node_containers(self) -> dict[str, Found]:
        """Name of a node -> its container; nodes without a container are left out."""
        return {c.labels[NODE]: c for c in self.containers if NODE in c.labels}

    @property
    def made(self) -> bool:
        """Whether every node was started once, even if a node has ended or its container was removed.

        ``bringup`` creates all containers before it starts the first one.
        """
        states = [c.state for c in self.node_containers.values()]
        return bool(states) and "created" not in states

    @property
    def lost(self) -> tuple[str, ...]:
        """Nodes whose container was removed."""
        return tuple(name for name in self.nodes if self.made and name not in self.node_containers)

    @property
    def abandoned(self) -> bool:
        """Whether the bed expired, its run was killed, or its bring-up was never finished."""
        if self.expired:
            return self.owner_state is not Owner.ALIVE
        return self.owner_state is Owner.DEAD and (self.kind == Kind.RUN or not self.made)

    @property
    def expired(self) -> bool:
        """Whether the time of expiry is past, by this machine's clock."""
        try:
            return datetime.fromisoformat(self.expires) <= datetime.now(UTC)
        except (ValueError, TypeError):  # no expiry, or not our label
            return False

    @property
    def state(self) -> str:
        """``abandoned``, ``running`` or ``incomplete``."""
        if self.abandoned:
            return "abandoned"
        running = {name for name, c in self.node_containers.items() if c.state == "running"}
        return "running" if running >= {*self.nodes} else "incomplete"

    @property
    def ports(self) -> dict[str, Mapping[str, int]]:
        """Node -> ``25/tcp`` -> port of the host's ``published_at``."""
        return {name: c.ports for name, c in self.node_containers.items()}

    @property
    def guest_network(self) -> Found | None:
        """The guest network; ``None`` if there is none."""
        return next((n for n in self.networks if n.name == self.guests), None)

    def check_kept(self, name: str) -> None:
        """Raise EngineFailed if the container of a node was removed."""
        if name in self.lost:
            do = f"`testbed down {self.id}`, then `testbed up` again"
            raise EngineFailed(f"node {name} of bed {self.bed}", "its container was removed", do)

    def check_running(self, name: str) -> None:
        """Raise EngineFailed if a node has ended, or its container was removed."""
        self.check_kept(name)
        container = self.node_containers.get(name)
        if container and container.state != "running":
            do = f"see `testbed logs --bed {self.id} {name}`"
            raise EngineFailed(f"node {name} running", f"it is {container.state}", do)

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
            "published_at": self.published_at,
            "guests": {
                "network": self.guests,
                "aliases": sorted(name for name, ports in self.ports.items() if ports),
            }
            if self.guest_network
            else None,
            "nodes": [
                {
                    "name": name,
                    "service": c.labels.get(SERVICE, ""),
                    "state": c.state,
                    "container": c.name,
                    "ports": dict(c.ports),
                }
                for name, c in self.node_containers.items()
            ]
            + [{"name": n, "service": "", "state": REMOVED, "container": None, "ports": {}} for n in self.lost],
        }


def deployed_beds(host: Host) -> list[DeployedBed]:
    """Return every bed with at least one remaining object, oldest first."""
    groups: dict[str, list[Found]] = {}
    for item in host.find({ID: None}):
        groups.setdefault(item.labels[ID], []).append(item)
    return sorted((_deployed(id_, group) for id_, group in groups.items()), key=lambda bed: (bed.created, bed.id))


def kept_beds(host: Host, name: str) -> list[DeployedBed]:
    """Return the beds of this name that are meant to stay up, also during their bring-up; oldest first."""
    return [bed for bed in deployed_beds(host) if bed.kind is Kind.UP and bed.bed == name and not bed.abandoned]


def _deployed(id_: str, group: Sequence[Found]) -> DeployedBed:
    labels: Mapping[str, str] = group[0].labels
    containers = sorted((f for f in group if f.kind == "container"), key=lambda f: f.name)
    return DeployedBed(
        id=id_,
        bed=labels.get(BED, ""),
        kind=Kind.UP if labels.get(KIND) == Kind.UP else Kind.RUN,
        private=PRIVATE in labels,
        owner=labels.get(OWNER, ""),
        owner_state=owner_state(labels.get(OWNER, "")),
        created=min(item.labels.get(CREATED, "") for item in group),
        expires=labels.get(EXPIRES, ""),
        nodes=tuple(filter(None, labels.get(NODES, "").split(","))),
        definition=labels.get(DEFINITION, ""),
        published_at=labels.get(PUBLISHED_AT, LOOPBACK),
        containers=tuple(containers),
        networks=tuple(f for f in group if f.kind == "network"),
    )
