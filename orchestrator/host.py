"""What the machine under the engine can give, read through the engine, so that a remote one is read as well."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

from orchestrator.engine import ContainerSpec, Engine, EngineInfo
from orchestrator.errors import EngineFailed, HostCannot
from orchestrator.lab import HELPER
from orchestrator.ownership import Identity
from orchestrator.plan import HostNeeds

_READ = r"""
say() { printf '%s\t%s\n' "$1" "$(cat "$2" 2>/dev/null | tr '\n' ' ')"; }
for name in gc_thresh1 gc_thresh2 gc_thresh3; do say $name /proc/sys/net/ipv4/neigh/default/$name; done
say ip_local_port_range /proc/sys/net/ipv4/ip_local_port_range
say nf_conntrack_max /proc/sys/net/netfilter/nf_conntrack_max
say neighbours /proc/net/stat/arp_cache
say meminfo /proc/meminfo
printf 'nofile\t%s\n' "$(ulimit -Hn)"
printf 'cpu\t%s\n' "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2)"
printf 'topology\t%s\n' "$(cat /sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list 2>/dev/null | sort -u | tr '\n' ';')"
printf 'sockets\t%s\n' "$(cat /sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id 2>/dev/null | sort -u | wc -l)"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What was found on the host."""

    engine: EngineInfo
    cpu: str
    cores: int
    """Physical cores; 0 when the kernel does not tell."""
    sockets: int
    memory_available_b: int
    nofile: int
    """Open files that a process in a container may have at most (RLIMIT_NOFILE, hard)."""
    neighbour_limit: int
    """Most entries of the neighbour table, of all network namespaces (gc_thresh3, arp(7))."""
    neighbours: int
    """Entries in it now."""
    sysctls: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that a bed needs, held against the host."""

    name: str
    needed: str
    found: str
    do: str
    """What to do about it; empty when it is enough."""
    state: Literal["ok", "warn", "fail"]

    def to_dict(self) -> dict[str, str]:
        """Return plain data for a script."""
        return asdict(self)


def read(engine: Engine) -> Readings:
    """Read the host through a one-shot helper in its network namespace, with no capability at all.

    Raises:
        EngineFailed: the helper could not run.
    """
    info = engine.info()
    identity = Identity.reading()
    done = engine.run(
        ContainerSpec(
            name=identity.name("reading"),
            image=HELPER,
            command=("sh", "-c", _READ),
            labels=identity.labels(),
            host_network=True,
        )
    )
    if done.status != 0:
        raise EngineFailed(
            "a reading of the host", done.stderr.strip() or f"status {done.status}", "see the engine's log"
        )
    facts = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    sysctls = {
        name: facts[name].strip()
        for name in ("gc_thresh1", "gc_thresh2", "gc_thresh3", "ip_local_port_range", "nf_conntrack_max")
        if facts.get(name, "").strip()
    }
    return Readings(
        engine=info,
        cpu=facts.get("cpu", "").strip(),
        cores=len([c for c in facts.get("topology", "").split(";") if c]),
        sockets=int(facts.get("sockets") or 0),
        memory_available_b=_available(facts.get("meminfo", "")),
        nofile=1 << 30 if facts["nofile"].strip() == "unlimited" else int(facts["nofile"]),
        neighbour_limit=int(sysctls.get("gc_thresh3", "0")),
        neighbours=_entries(facts.get("neighbours", "")),
        sysctls=sysctls,
    )


def check(readings: Readings, needs: HostNeeds) -> list[Check]:
    """Hold what a bed needs against what the host can give."""
    free = readings.neighbour_limit - readings.neighbours
    memory = readings.memory_available_b // 2**20
    return [
        _check(
            "open files of one process",
            needs.fds,
            readings.nofile,
            "raise the limit of the engine's service (LimitNOFILE=), or ask for fewer addresses or workers",
        ),
        _check(
            "entries in the kernel's neighbour table",
            needs.neighbour_entries,
            free,
            "raise net.ipv4.neigh.default.gc_thresh3 on the host, or take other beds down",
        ),
        _check("memory, MiB", needs.memory_mb, memory, "free some memory, or ask for less", warn=True),
    ]


def require(checks: list[Check]) -> None:
    """Refuse to go on where the host cannot.

    Raises:
        HostCannot: with the first thing that is not enough.
    """
    for found in checks:
        if found.state == "fail":
            raise HostCannot(f"{found.name}: {found.needed}", found.found, found.do)


def environment(readings: Readings) -> dict[str, Any]:
    """Return what belongs into run.json, so that runs of different machines are never mixed up."""
    facts = asdict(readings)
    facts["versions"] = {name: version(name) for name in ("testbed", "docker", "uvloop", "hdrhistogram")}
    return facts


def _check(name: str, needed: int, found: int, do: str, *, warn: bool = False) -> Check:
    enough = needed <= found
    return Check(
        name=name,
        needed=f"{needed:,}",
        found=f"{found:,}",
        do="" if enough else do,
        state="ok" if enough else "warn" if warn else "fail",
    )


def _available(meminfo: str) -> int:
    words = meminfo.split()
    return int(words[words.index("MemAvailable:") + 1]) * 1024 if "MemAvailable:" in words else 0


def _entries(table: str) -> int:
    """Read /proc/net/stat/arp_cache: a heading, then a row of hex figures for each CPU, the first the entries of all."""
    words = table.split()
    columns = next((i for i, word in enumerate(words) if word.strip("0123456789abcdef") == ""), len(words))
    return int(words[columns], 16) if columns < len(words) else 0
