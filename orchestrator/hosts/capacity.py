"""Readings of the machine under the engine, taken through the engine, so that a remote one is read as well."""

import hashlib
import shutil
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from orchestrator.bed.cpu_topology import Topology
from orchestrator.errors import EngineFailed, HostCannot, usable
from orchestrator.hosts import LOG_FILE_MB, LOG_FILES, ContainerSpec, Host, HostInfo, ownership
from orchestrator.hosts.networks import ENABLE_IPV6, HELPER
from orchestrator.hosts.ownership import Identity
from orchestrator.plan import HostNeeds

_READ = r"""
say() { printf '%s\t%s\n' "$1" "$(cat "$2" 2>/dev/null | tr '\n' ' ')"; }
for name in gc_thresh1 gc_thresh2 gc_thresh3; do say $name /proc/sys/net/ipv4/neigh/default/$name; done
say ip_local_port_range /proc/sys/net/ipv4/ip_local_port_range
say nf_conntrack_max /proc/sys/net/netfilter/nf_conntrack_max
say neighbours /proc/net/stat/arp_cache
say meminfo /proc/meminfo
[ -e /proc/sys/net/ipv6/conf ] || printf 'ipv6\tno\n'
printf 'nofile\t%s\n' "$(ulimit -Hn)"
printf 'disk\t%s\n' "$(stat -f -c '%a %S' /)"
printf 'cpu\t%s\n' "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2)"
printf 'allowed\t%s\n' "$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)"
printf 'topology\t'
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    set -- "${cpu##*/cpu}" $(cat "$cpu/topology/thread_siblings_list" "$cpu/topology/physical_package_id" 2>/dev/null)
    printf '%s ' "$@"
    printf ';'
done
echo
"""

_TRY = """
try() { what=$1; shift; "$@" > /dev/null 2>&1 || printf 'lacks\\t%s\\n' "$what"; }
try veth ip link add tb0 type veth peer name tb1
try macvlan ip link add link tb0 name tb2 type macvlan mode bridge
try 'nf_tables (nat, notrack, conntrack, reject)' nft '
    add table inet bed
    add chain inet bed raw { type filter hook prerouting priority raw; }
    add chain inet bed nat { type nat hook prerouting priority dstnat; }
    add chain inet bed out { type filter hook output priority filter; }
    add rule inet bed raw notrack
    add rule inet bed nat tcp dport 25 dnat ip to 192.0.2.1
    add rule inet bed out ct state established accept
    add rule inet bed out reject'
try 'nf_tables (ingress)' nft '
    add table netdev bed
    add chain netdev bed in { type filter hook ingress device tb1 priority 0; policy drop; }'
"""
"""What beds ask of the kernel, tried out in a network namespace that ends with its container."""
_LACKS = "lacks\t"
_DISK = "disk for "
FLOOR_MB = 256
"""With less room than this the engine starts no container of a bed: layers, configuration, first lines of logs."""
RUN_MB = 256
"""Of one run: its page (5 MiB), series and packed logs; a long run at full speed writes some 100 MiB an hour."""
NEIGHBOURS = "entries in the kernel's neighbour table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What was found on the host."""

    engine: HostInfo
    cpu: str
    topology: Topology
    memory_available_b: int
    nofile: int
    """Open files that a process in a container may have at most (RLIMIT_NOFILE, hard)."""
    ipv6: bool
    """Its kernel has IPv6: it was not booted with ``ipv6.disable=1``."""
    lacks: tuple[str, ...]
    """What a bed needs of the kernel and it has not."""
    neighbour_limit: int | None
    """Most entries of the neighbour table, of all network namespaces (gc_thresh3, arp(7)); ``None`` when it is hidden
    (an engine in a user namespace)."""
    neighbours: int
    """Entries in it now."""
    neighbours_planned: int
    """Entries that the beds of this engine may need at the same time, whatever they have now."""
    sysctls: dict[str, str]
    disk_free_b: int | None = None
    """Free bytes where the engine keeps its containers and their logs; ``None``: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that a bed needs, held against the host."""

    name: str
    needed: str
    found: str
    do: str
    """What to do about it; empty when it is enough."""
    state: Literal["ok", "warn", "fail", "wanted"]
    """``wanted``: it is not enough, and what happens then is the question."""
    share: float | None = None
    """Needed for each unit that was found: 1 and the last of it is taken; ``None`` when it is no figure."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a script."""
        return asdict(self)


def read(engine: Host) -> Readings:
    """Read the host through one-shot helpers: one in its network namespace, with no capability at all, one in none.

    Raises:
        EngineFailed: a helper could not run.
    """
    with ThreadPoolExecutor(2) as pool:
        tried = pool.submit(_helper, engine, "try", _TRY, host_network=False, capabilities=("NET_ADMIN",))
        info = engine.info()
        beds = engine.find({ownership.NEIGHBOURS: None})
        said = _helper(engine, "reading", _READ, host_network=True, capabilities=())
    facts = dict(line.split("\t", 1) for line in said.splitlines() if "\t" in line)
    sysctls = {
        name: " ".join(facts[name].split())
        for name in ("gc_thresh1", "gc_thresh2", "gc_thresh3", "ip_local_port_range", "nf_conntrack_max")
        if facts.get(name, "").strip()
    }
    return Readings(
        engine=info,
        cpu=facts.get("cpu", "").strip(),
        topology=Topology.read(facts.get("topology", ""), facts.get("allowed", "").strip() or f"0-{info.cpus - 1}"),
        memory_available_b=_available(facts.get("meminfo", "")),
        nofile=1 << 30 if facts["nofile"].strip() == "unlimited" else int(facts["nofile"]),
        ipv6="ipv6" not in facts,
        lacks=tuple(line.removeprefix(_LACKS) for line in tried.result().splitlines() if line.startswith(_LACKS)),
        neighbour_limit=int(sysctls["gc_thresh3"]) if "gc_thresh3" in sysctls else None,
        neighbours=_entries(facts.get("neighbours", "")),
        neighbours_planned=sum(
            int(count) for found in beds if (count := found.labels[ownership.NEIGHBOURS]).isdecimal()
        ),
        sysctls=sysctls,
        disk_free_b=_free_disk(facts.get("disk", "")),
    )


def _helper(engine: Host, name: str, script: str, *, host_network: bool, capabilities: tuple[str, ...]) -> str:
    identity = Identity.reading()
    done = engine.run(
        ContainerSpec(
            name=identity.name(name),
            image=HELPER,
            command=("sh", "-c", script),
            labels=identity.labels(),
            host_network=host_network,
            capabilities=capabilities,
        )
    )
    if done.status != 0:
        raise EngineFailed("a reading of the host", done.failure, "see the engine's log")
    return done.stdout


def check(readings: Readings, needs: HostNeeds) -> list[Check]:
    """Hold what a bed needs against what the host can give."""
    limit = readings.neighbour_limit
    raise_limit = "raise net.ipv4.neigh.default.gc_thresh3 on the host, or take other beds down"
    memory = readings.memory_available_b // 2**20
    checks = [
        Check(
            name="features of the kernel",
            needed="veth, macvlan, nf_tables",
            found=f"missing: {', '.join(readings.lacks)}" if readings.lacks else "all of them",
            do="load the modules, or take a kernel of the distribution" if readings.lacks else "",
            state="fail" if readings.lacks else "ok",
        ),
        _check(
            "open files of one process",
            needs.fds,
            readings.nofile,
            "raise the limit of the engine's service (LimitNOFILE=), or ask for fewer addresses or workers",
        ),
        Check(
            name=NEIGHBOURS,
            needed=f"{needs.neighbour_entries:,}",
            found="unknown: the engine hides net.ipv4.neigh.default.gc_thresh3",
            do=raise_limit,
            state="warn",
        )
        if limit is None
        else _check(NEIGHBOURS, needs.neighbour_entries, _free(readings), raise_limit),
        _check("memory, MiB", needs.memory_mb, memory, "free some memory, or ask for less", warn=True),
        _room("the engine's data", needs.containers * LOG_FILE_MB * LOG_FILES, readings.disk_free_b),
    ]
    if needs.ipv6:
        checks.append(
            Check(
                name="IPv6 in the kernel",
                needed="yes",
                found="yes" if readings.ipv6 else "no: /proc/sys/net/ipv6 is not there",
                do="" if readings.ipv6 else ENABLE_IPV6,
                state="ok" if readings.ipv6 else "fail",
            )
        )
    if needs.cpus:
        enough = needs.cpus <= readings.engine.cpus
        checks.append(
            Check(  # without a share: a limit that is all of the CPUs is no shortage of them
                name="CPUs of one node",
                needed=f"{needs.cpus:g}",
                found=f"{readings.engine.cpus}",
                do="" if enough else "lower the node's limit, cpus",
                state="ok" if enough else "fail",
            )
        )
    return checks


def admit(
    readings: Readings,
    needs: HostNeeds,
    runs: Path,
    *,
    provoked: AbstractSet[str],
    smaller: str | None,
    say: Callable[[str], None],
) -> None:
    """Let a run begin that the host can carry; say where disk space may run out.

    Raises:
        HostCannot: with the first thing that is not enough and is not ``provoked``.
    """
    checks = [*check(readings, needs), room_for_runs(runs)]
    require([found for found in checks if found.name not in provoked], smaller)
    for low in (found for found in checks if found.state == "warn" and found.name.startswith(_DISK)):
        say(f"warning: {low.name}: needed {low.needed}, found {low.found}; {low.do}")


def room_for_runs(folder: Path) -> Check:
    """Hold what a run writes against the free space where run directories are kept, on this machine."""
    with usable(folder):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free_b = shutil.disk_usage(there).free
    found = _room(f"runs in {folder}", RUN_MB, free_b)
    # Not refused: the figure is a run's at most, and a run that finds its disk full ends with that reason.
    return replace(found, state="warn") if found.state == "fail" else found


def _room(what: str, needed_mb: int, free_b: int | None) -> Check:
    """Hold the disk space that may be needed at most against what is free; too little to begin with is a failure."""
    do = "free some space there (`testbed clean`, `docker system df`)"
    if free_b is None:
        return Check(name=f"{_DISK}{what}, MiB", needed=f"{needed_mb:,} at most", found="unknown", do="", state="ok")
    enough = free_b >> 20 >= needed_mb
    return Check(
        name=f"{_DISK}{what}, MiB",
        needed=f"{needed_mb:,} at most",
        found=f"{free_b >> 20:,}",
        do="" if enough else do,
        state="ok" if enough else "fail" if free_b >> 20 < FLOOR_MB else "warn",
    )


def _free(readings: Readings) -> int:
    """Return how many neighbour entries are free: a bed that is up may have none now, and all that it needs soon."""
    taken = max(readings.neighbours, readings.neighbours_planned)
    return max(0, (readings.neighbour_limit or 0) - taken)


def require(checks: list[Check], smaller: str | None = None) -> None:
    """Refuse to go on where the host cannot; ``smaller`` says what it can be asked instead.

    Raises:
        HostCannot: with the first thing that is not enough.
    """
    for found in checks:
        if found.state == "fail":
            do = f"{found.do}; or {smaller}" if smaller else found.do
            raise HostCannot(f"{found.name}: {found.needed}", found.found, do)


def environment(readings: Readings) -> dict[str, Any]:
    """Return what belongs into run.json, so that runs of different machines are never mixed up."""
    facts = asdict(readings) | {"topology": readings.topology.to_dict()}
    facts["versions"] = {name: version(name) for name in ("testbed", "docker", "uvloop", "hdrhistogram")}
    facts["source"] = _source()
    return facts


@cache
def _source() -> str:
    """Return a digest of this program's own files: two checkouts of one version are told apart."""
    package = Path(str(files("orchestrator")))
    digest = hashlib.sha256()
    for path in sorted(p for kind in ("*.py", "*.yaml", "*.j2") for p in package.rglob(kind)):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _check(name: str, needed: int, found: int, do: str, *, warn: bool = False) -> Check:
    enough = needed <= found
    return Check(
        name=name,
        needed=f"{needed:,}",
        found=f"{found:,}",
        do="" if enough else do,
        state="ok" if enough else "warn" if warn else "fail",
        share=needed / max(found, 1),
    )


def _free_disk(said: str) -> int | None:
    """Read free blocks and their size, as stat(1) says them of a file system."""
    words = said.split()
    return int(words[0]) * int(words[1]) if len(words) == 2 and all(word.isdecimal() for word in words) else None


def _available(meminfo: str) -> int:
    words = meminfo.split()
    return int(words[words.index("MemAvailable:") + 1]) * 1024 if "MemAvailable:" in words else 0


def _entries(table: str) -> int:
    """Read /proc/net/stat/arp_cache: a heading, then a hex row for each CPU, its first figure the entries of all."""
    words = table.split()
    columns = next((i for i, word in enumerate(words) if word.strip("0123456789abcdef") == ""), len(words))
    return int(words[columns], 16) if columns < len(words) else 0
