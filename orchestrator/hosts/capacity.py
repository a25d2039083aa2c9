"""Capacity of the engine's machine, read through the engine, local or remote; checks of a bed's needs against it."""

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
from typing import Any, Literal, Self, TypeAlias

from orchestrator.bed.cpu_topology import Topology
from orchestrator.errors import HostCannot, usable
from orchestrator.hosts import LOG_FILE_MB, LOG_FILES, Host, HostInfo, ownership
from orchestrator.hosts.helper import on_the_host
from orchestrator.hosts.networks import ENABLE_IPV6
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
"""Script that tries out a bed's kernel features in a container's own network namespace."""
_LACKS = "lacks\t"
_OF_MACVLAN = ("veth", "macvlan", "nf_tables (ingress)")
_DISK = "disk for "
FLOOR_MB = 256
"""Minimum disk space to start a bed: image layers, configuration, first log lines."""
RUN_MB = 256
"""Size of one run: report (5 MiB), series and packed logs; a run at full speed writes about 100 MiB an hour."""
Short: TypeAlias = Literal["warn", "fail"]
NEIGHBOURS = "entries in the kernel's neighbour table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Facts and free resources of the host."""

    engine: HostInfo
    cpu: str
    topology: Topology
    memory_available_b: int
    nofile: int
    """Open files of a process in a container, hard limit (RLIMIT_NOFILE)."""
    ipv6: bool
    """Whether the kernel supports IPv6: it was booted without ``ipv6.disable=1``."""
    lacks: tuple[str, ...]
    """Missing kernel features that beds need."""
    neighbour_limit: int | None
    """Limit of the neighbour table, all network namespaces together (gc_thresh3, arp(7)); ``None``: hidden (engine in a
    user namespace)."""
    neighbours: int
    """Entries in the neighbour table now."""
    neighbours_planned: int
    """Sum of the neighbour table entries that this engine's beds may need."""
    sysctls: dict[str, str]
    disk_free_b: int | None = None
    """Free bytes on the engine's disk for containers and logs; ``None``: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One need of a bed, compared with the host."""

    name: str
    needed: str
    found: str
    do: str
    """Cure; empty if the host has enough."""
    state: Literal["ok", "warn", "fail", "wanted"]
    """``wanted``: the host has too little, and the scenario examines this shortage."""
    share: float | None = None
    """Needed amount divided by the found amount; 1: nothing remains. ``None``: the check compares no amounts."""

    @classmethod
    def of(cls, name: str, needed: str, found: str, do: str, *, enough: bool, short: Short = "fail") -> Self:
        """Return a check; its state is ``short`` if the host has too little."""
        return cls(name=name, needed=needed, found=found, do="" if enough else do, state="ok" if enough else short)

    @classmethod
    def figure(cls, name: str, needed: int, found: int, do: str, *, short: Short = "fail", of: str = "") -> Self:
        """Compare two figures; ``of``: text after the needed figure."""
        compared = cls.of(name, f"{needed:,}{of}", f"{found:,}", do, enough=needed <= found, short=short)
        return replace(compared, share=needed / max(found, 1))


def read(host: Host, *, features: bool = True) -> Readings:
    """Read the host with two helpers: one, without capabilities, in the host's network namespace; one in its own.

    ``features``: try out the kernel's features, in the second helper; otherwise ``lacks`` is empty.
    """
    needed, do = "a reading of the host", "see the engine's log"
    with ThreadPoolExecutor(1) as pool:
        tried = (
            pool.submit(on_the_host, host, _TRY, needed=needed, do=do, host_network=False, capabilities=("NET_ADMIN",))
            if features
            else None
        )
        info = host.info()
        beds = host.find({ownership.NEIGHBOURS: None})
        output = on_the_host(host, _READ, needed=needed, do=do)
    facts = dict(line.split("\t", 1) for line in output.splitlines() if "\t" in line)
    lines = tried.result().splitlines() if tried else []
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
        lacks=tuple(line.removeprefix(_LACKS) for line in lines if line.startswith(_LACKS)),
        neighbour_limit=int(sysctls["gc_thresh3"]) if "gc_thresh3" in sysctls else None,
        neighbours=_entries(facts.get("neighbours", "")),
        neighbours_planned=sum(int(count) for bed in beds if (count := bed.labels[ownership.NEIGHBOURS]).isdecimal()),
        sysctls=sysctls,
        disk_free_b=_free_disk(facts.get("disk", "")),
    )


def check(readings: Readings, needs: HostNeeds) -> list[Check]:
    """Compare a bed's needs with the host's readings."""
    limit = readings.neighbour_limit
    taken = max(readings.neighbours, readings.neighbours_planned)
    raise_limit = "raise net.ipv4.neigh.default.gc_thresh3 on the host, or take other beds down"
    memory = readings.memory_available_b // 2**20
    lacks = [feature for feature in readings.lacks if needs.macvlan or feature not in _OF_MACVLAN]
    checks = [
        Check.of(
            "features of the kernel",
            "veth, macvlan, nf_tables" if needs.macvlan else "nf_tables",
            f"missing: {', '.join(lacks)}" if lacks else "all of them",
            "load the modules, or take a kernel of the distribution" + (", or `lab: bridge`" if needs.macvlan else ""),
            enough=not lacks,
        ),
        Check.figure(
            "open files of one process",
            needs.fds,
            readings.nofile,
            "raise the limit of the engine's service (LimitNOFILE=), or ask for fewer addresses or workers",
        ),
        Check.of(
            NEIGHBOURS,
            f"{needs.neighbour_entries:,}",
            "unknown: the engine hides net.ipv4.neigh.default.gc_thresh3",
            raise_limit,
            enough=False,
            short="warn",
        )
        if limit is None
        else Check.figure(NEIGHBOURS, needs.neighbour_entries, max(0, limit - taken), raise_limit),
        Check.figure("memory, MiB", needs.memory_mb, memory, "free some memory, or ask for less", short="warn"),
        _room("the engine's data", needs.containers * LOG_FILE_MB * LOG_FILES, readings.disk_free_b),
    ]
    if needs.ipv6:
        found = "yes" if readings.ipv6 else "no: /proc/sys/net/ipv6 is not there"
        checks.append(Check.of("IPv6 in the kernel", "yes", found, ENABLE_IPV6, enough=readings.ipv6))
    if needs.cpus:  # no share: a CPU limit equal to all CPUs is no shortage
        cpus, do = readings.engine.cpus, "lower the node's limit, cpus"
        checks.append(Check.of("CPUs of one node", f"{needs.cpus:g}", f"{cpus}", do, enough=needs.cpus <= cpus))
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
    """Check that the host can carry a run; warn if disk space may run out.

    Raises:
        HostCannot: a check outside ``provoked`` failed; the error describes the first failed check.
    """
    checks = [*check(readings, needs), room_for_runs(runs)]
    require([result for result in checks if result.name not in provoked], smaller)
    for low in (result for result in checks if result.state == "warn" and result.name.startswith(_DISK)):
        say(f"warning: {low.name}: needed {low.needed}, found {low.found}; {low.do}")


def room_for_runs(folder: Path) -> Check:
    """Compare a run's size with the free space for run directories on this machine."""
    with usable(folder):
        present = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free_b = shutil.disk_usage(present).free
    result = _room(f"runs in {folder}", RUN_MB, free_b)
    # A warning only: the needed size is an upper bound, and a run on a full disk ends with the full disk as its reason.
    return replace(result, state="warn") if result.state == "fail" else result


def _room(place: str, needed_mb: int, free_b: int | None) -> Check:
    """Compare the needed disk space (upper bound) with the free space; fail below ``FLOOR_MB``."""
    name, needed = f"{_DISK}{place}, MiB", f"{needed_mb:,} at most"
    if free_b is None:
        return Check.of(name, needed, "unknown", "", enough=True)
    free_mb = free_b >> 20
    do = "free some space there (`testbed clean`, `docker system df`)"
    short: Short = "warn" if free_mb >= FLOOR_MB else "fail"
    return Check.of(name, needed, f"{free_mb:,}", do, enough=free_mb >= needed_mb, short=short)


def require(checks: list[Check], smaller: str | None = None) -> None:
    """Refuse a bed beyond the host's capacity; ``smaller``: advice that names a smaller bed.

    Raises:
        HostCannot: a check failed; the error describes the first failed check.
    """
    for failed in (result for result in checks if result.state == "fail"):
        do = f"{failed.do}; or {smaller}" if smaller else failed.do
        raise HostCannot(f"{failed.name}: {failed.needed}", failed.found, do)


def environment(readings: Readings) -> dict[str, Any]:
    """Return the readings and versions for run.json; they distinguish runs on different machines."""
    facts = asdict(readings) | {"topology": readings.topology.to_dict()}
    facts["versions"] = {name: version(name) for name in ("testbed", "docker", "uvloop", "hdrhistogram")}
    facts["source"] = _source()
    return facts


@cache
def _source() -> str:
    """Return a digest of this program's files; two checkouts of one version may have different digests."""
    package = Path(str(files("orchestrator")))
    digest = hashlib.sha256()
    for path in sorted(p for kind in ("*.py", "*.yaml", "*.j2") for p in package.rglob(kind)):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _free_disk(output: str) -> int | None:
    """Return free bytes from stat(1)'s ``%a %S``: free blocks and block size."""
    words = output.split()
    return int(words[0]) * int(words[1]) if len(words) == 2 and all(word.isdecimal() for word in words) else None


def _available(meminfo: str) -> int:
    words = meminfo.split()
    return int(words[words.index("MemAvailable:") + 1]) * 1024 if "MemAvailable:" in words else 0


def _entries(table: str) -> int:
    """Return the total of entries from /proc/net/stat/arp_cache: the first column, equal in the hex row of each CPU."""
    words = table.split()
    columns = next((i for i, word in enumerate(words) if word.strip("0123456789abcdef") == ""), len(words))
    return int(words[columns], 16) if columns < len(words) else 0
