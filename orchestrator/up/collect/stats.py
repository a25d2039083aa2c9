"""The engine's statistics of a container, in the same form for cgroup v1 and v2.

Source: Docker Engine API 1.41, ``GET /containers/{id}/stats``; the kernel's cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from orchestrator.errors import EngineFailed
from orchestrator.hosts import Host
from orchestrator.hosts.docker.api import unix
from orchestrator.hosts.ownership import NODE, REMOVED

if TYPE_CHECKING:  # up.bed imports the recorder, and the recorder this module
    from orchestrator.up.bed import RunningBed

_COLUMNS = (
    ("cores", 8, 2, 1),
    ("memory_b", 8, 0, 2**20),
    ("rx_b_per_s", 10, 1, 1e3),
    ("tx_b_per_s", 10, 1, 1e3),
    ("pids", 7, 0, 1),
)
"""Figures that ``rates`` returns, as columns of ``table``: name, width, digits, unit."""
FIGURES = tuple(name for name, *_ in _COLUMNS)
Point = dict[str, float | int | str | None]

_NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time: the reading time of a stopped container."""
_UNLIMITED = 1 << 60
"""A limit of at least this value means no limit: cgroup v1 writes the largest multiple of the page size."""


def point(node: str, raw: Mapping[str, Any]) -> Point | None:
    """Return one reading of a container; ``None`` if the container was not running.

    ``t``: Unix time of the reading. ``cpu_s``, ``cpu_user_s``, ``cpu_system_s``, ``throttled_s``: CPU seconds since
    the container's start. ``memory_b``: memory without inactive file cache; ``memory_max_b``: its limit. ``rx_*``,
    ``tx_*``: sums over the interfaces. ``read_b``, ``write_b``: block devices. ``pids``: processes and threads.
    Figures missing from the engine's reading are ``None``.
    """
    read = raw.get("read", _NEVER)
    if read == _NEVER:
        return None
    cpu = _map(raw, "cpu_stats")
    usage = _map(cpu, "cpu_usage")
    memory = _map(raw, "memory_stats")
    networks = [n for n in _map(raw, "networks").values() if isinstance(n, Mapping)]
    blocks = _map(raw, "blkio_stats").get("io_service_bytes_recursive") or ()
    return {
        "t": unix(read),
        "node": node,
        "cpu_s": _seconds(usage.get("total_usage")),
        "cpu_user_s": _seconds(usage.get("usage_in_usermode")),
        "cpu_system_s": _seconds(usage.get("usage_in_kernelmode")),
        "throttled_s": _seconds(_map(cpu, "throttling_data").get("throttled_time")),
        "memory_b": _resident(memory),
        "memory_max_b": limit if (limit := memory.get("limit") or _UNLIMITED) < _UNLIMITED else None,
        **{
            f"{way}_{unit}": _sum(networks, f"{way}_{field}")
            for way in ("rx", "tx")
            for unit, field in (("b", "bytes"), ("packets", "packets"), ("errors", "errors"), ("drops", "dropped"))
        },
        "read_b": _blocks(blocks, "read"),
        "write_b": _blocks(blocks, "write"),
        "pids": _map(raw, "pids_stats").get("current"),
    }


def _map(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, Mapping) else {}


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def _resident(memory: Mapping[str, Any]) -> int | None:
    """Return memory without inactive file cache, as ``docker stats`` does (cgroup v1: totals of the hierarchy)."""
    usage = memory.get("usage")
    if not isinstance(usage, int):
        return None
    details = _map(memory, "stats")
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return usage - cache if cache < usage else usage


def _sum(parts: Sequence[Mapping[str, Any]], key: str) -> int | None:
    return sum(part.get(key, 0) for part in parts) if parts else None


def _blocks(entries: Sequence[Mapping[str, Any]], operation: str) -> int | None:
    """Return the octets of an operation, over all devices; cgroup v1 calls it ``Read``, v2 ``read``."""
    return sum(e["value"] for e in entries if str(e.get("op", "")).lower() == operation) if entries else None


def rates(bed: "RunningBed") -> dict[str, dict[str, float | str | None]]:
    """Return state and resource use of each node, measured over one second: node -> figure -> value.

    Besides ``state``: ``cores`` of CPU, ``memory_b``, ``rx_b_per_s``, ``tx_b_per_s``, ``pids``; each ``None`` if the
    node does not run, or ended during that second.
    """
    ids = {name: node.container.id for name, node in bed.nodes.items()}
    with ThreadPoolExecutor(len(ids)) as pool:
        used = dict(zip(ids, pool.map(partial(_use, bed.host), ids.values()), strict=True))
    states = {found.id: found.state for found in bed.host.find({NODE: None})}
    return {
        node.name: {
            "state": states.get(ids.get(node.name, ""), REMOVED),
            **used.get(node.name, dict.fromkeys(FIGURES)),
        }
        for node in bed.plan.nodes
    }


def _use(host: Host, container: str) -> dict[str, float | None]:
    try:
        # For a stopped container the engine sends empty readings for ever.
        running = takewhile(lambda r: r is not None, (point("", raw) for raw in host.node(container).stats()))
        readings = list(islice((r for r in running if r and r["cpu_s"] is not None), 2))
    except EngineFailed:
        if any(node.id == container and node.state == "running" for node in host.find({NODE: None})):
            raise
        readings = []
    seconds = _figure(readings[1]["t"]) - _figure(readings[0]["t"]) if len(readings) == 2 else 0
    if seconds <= 0:
        return dict.fromkeys(FIGURES)
    first, last = readings
    cores, received, sent = ((_figure(last[key]) - _figure(first[key])) / seconds for key in ("cpu_s", "rx_b", "tx_b"))
    memory_b, pids = _figure(last["memory_b"]), _figure(last["pids"])
    return {"cores": cores, "memory_b": memory_b, "rx_b_per_s": received, "tx_b_per_s": sent, "pids": pids}


def table(used: Mapping[str, Mapping[str, float | str | None]]) -> str:
    """Render ``rates`` as text, one line for each node."""
    lines = [f"{'node':10}{'state':10}{'cores':>8}{'MiB':>8}{'in kB/s':>10}{'out kB/s':>10}{'pids':>7}"]
    for name, use in used.items():
        figures = [
            f"{'-':>{width}}" if (value := use[key]) is None else f"{_figure(value) / unit:{width}.{digits}f}"
            for key, width, digits, unit in _COLUMNS
        ]
        lines.append(f"{name:10}{use['state']:10}{''.join(figures)}")
    return "\n".join(lines)


def _figure(value: float | str | None) -> float:
    return float(value or 0)
