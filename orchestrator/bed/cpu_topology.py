"""CPU topology of the host (threads of a core, cores of a socket), and the sets of CPUs that a run compares.

Pure. Sources: /sys/devices/system/cpu/cpu*/topology (Documentation/admin-guide/cputopology.rst); lists of CPUs have
the format of cpuset(7), ``0-3,8``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

Cpus = tuple[int, ...]
"""Numbers of CPUs (threads of the hardware), ascending."""

CPUS = r"^(\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*)?$"
"""Pattern of a list of CPUs."""
HARNESS_SHARE = 4
"""One of every N cores is reserved for the harness (generator, sink), whose CPU use is about a sixth of the relay's."""
HARNESS_MOST = 4
"""Maximum number of cores for the harness, whose two programs have one thread each."""


def parse(text: str) -> Cpus:
    """Read a list of CPUs.

    >>> parse("0-2,8")
    (0, 1, 2, 8)
    """
    spans = [part.partition("-") for part in text.strip().split(",") if part]
    return tuple(sorted({n for first, _, last in spans for n in range(int(first), int(last or first) + 1)}))


def write(cpus: Iterable[int]) -> str:
    """Write a list of CPUs.

    >>> write([8, 2, 1, 0])
    '0-2,8'
    """
    spans: list[list[int]] = []
    for n in sorted(cpus):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The CPUs available to containers, by core and by socket."""

    cores: tuple[Cpus, ...]
    """The threads of each core, socket by socket."""
    sockets: tuple[Cpus, ...]
    """The threads of each socket."""
    known: bool
    """False if the kernel reports no topology; each CPU then counts as a core, and all CPUs as one socket."""

    @classmethod
    def read(cls, reported: str, allowed: str) -> Self:
        """Work out the topology from the kernel's report.

        Args:
            reported: for each CPU ``number siblings package``, separated by ``;``: thread_siblings_list and
                physical_package_id. An offline CPU has no values.
            allowed: the CPUs available to containers (Cpus_allowed_list, proc(5)).
        """
        usable = parse(allowed)
        online = {int(words[0]): words[1:] for part in reported.split(";") if len(words := part.split()) == 3}
        packages = {n: int(online[n][1]) if n in online else -1 for n in usable}
        threads = {tuple(s for s in parse(online[n][0]) if s in packages) if n in online else (n,) for n in usable}
        return cls(
            cores=tuple(sorted(threads, key=lambda core: (packages[core[0]], core))),
            sockets=tuple(
                tuple(n for n in usable if packages[n] == package) for package in sorted(set(packages.values()))
            ),
            known=bool(usable) and all(n in online for n in usable),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from ``to_dict``."""
        return cls(
            cores=tuple(map(parse, data["cores"])), sockets=tuple(map(parse, data["sockets"])), known=data["known"]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for run.json."""
        return {
            "cores": [write(core) for core in self.cores],
            "sockets": [write(socket) for socket in self.sockets],
            "known": self.known,
        }

    @property
    def threads(self) -> Cpus:
        """Every available CPU."""
        return tuple(sorted(n for core in self.cores for n in core))

    @property
    def siblings(self) -> bool:
        """Whether some core has more than one thread (hyper-threading, SMT)."""
        return any(len(core) > 1 for core in self.cores)


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSet:
    """CPUs of the relay, and CPUs of the harness."""

    name: str
    cpus: Cpus
    harness: Cpus

    @property
    def shared(self) -> bool:
        """Whether the harness runs on CPUs of the relay."""
        return not set(self.cpus).isdisjoint(self.harness)


ALL, ONE_EACH, SOCKET, CORE, THREAD = "all threads", "one thread per core", "one socket", "one core", "one thread"
"""Names of the sets, from the largest to the smallest."""


def cpu_sets(topology: Topology) -> tuple[list[CpuSet], dict[str, str]]:
    """Return the distinct sets, and a mapping: name of a set left out -> name of the set with the same CPUs.

    With four cores or more, the last cores are reserved for the harness and are in no set, so that the harness runs on
    the same cores for every set. With fewer cores, the harness runs on the cores outside the set, or on all cores if
    no core is outside.
    """
    kept = min(len(topology.cores) // HARNESS_SHARE, HARNESS_MOST)
    cores = topology.cores[: len(topology.cores) - kept]
    apart = tuple(sorted(n for core in topology.cores[len(cores) :] for n in core))
    candidates = {
        ALL: tuple(sorted(n for core in cores for n in core)),
        ONE_EACH: tuple(sorted(core[0] for core in cores)),
        SOCKET: tuple(n for n in topology.sockets[0] if n not in apart),
        CORE: cores[0],
        THREAD: cores[0][:1],
    }
    sets: dict[Cpus, CpuSet] = {}
    same: dict[str, str] = {}
    for name, cpus in candidates.items():
        if cpus in sets:
            same[name] = sets[cpus].name
        else:
            free = tuple(sorted(n for core in cores if set(core).isdisjoint(cpus) for n in core))
            sets[cpus] = CpuSet(name=name, cpus=cpus, harness=apart or free or topology.threads)
    return list(sets.values()), same
