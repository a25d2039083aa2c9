"""Our words and the Docker Engine API's (1.41 and later), one put into the other: nothing here calls an engine."""

import io
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Network
from typing import Any

from orchestrator.engine import ContainerSpec, Endpoint, EngineInfo, Found, LogLine

STDOUT, STDERR = 1, 2
"""Numbers of the streams."""
_HEADER = struct.Struct(">BxxxL")
"""Before each piece of output: which stream it is of, how many bytes it has."""
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger")
"""What an engine makes read-only in a container, without ``/proc/sys``."""
_NO_PROFILE = ("apparmor=unconfined", "label=disable")
"""The engines' profiles for AppArmor and SELinux deny writes to ``/proc/sys/net`` to any container."""


def host_config(spec: ContainerSpec) -> dict[str, Any]:
    """Return the ``HostConfig`` of a container to make (``POST /containers/create``)."""
    limits = spec.limits
    asked = {
        "NetworkMode": "host" if spec.host_network else spec.networks[0].network if spec.networks else "none",
        "CapDrop": ["ALL"],
        "CapAdd": list(spec.capabilities),
        "SecurityOpt": ["no-new-privileges", *(_NO_PROFILE if spec.writes_sysctls else ())],
        "ReadonlyPaths": list(_READ_ONLY) if spec.writes_sysctls else None,
        "Sysctls": dict(spec.sysctls),
        "PortBindings": {port: [{"HostIp": "127.0.0.1", "HostPort": ""}] for port in spec.publish},
        # No rotation: an engine's default may drop lines that have not been read yet.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1000g"}},
        "Ulimits": [{"Name": "nofile", "Soft": limits.nofile, "Hard": limits.nofile}] if limits.nofile else None,
        "Memory": limits.memory_b,
        "MemorySwap": limits.memory_b,
        "NanoCpus": int(limits.cpus * 1e9) if limits.cpus else None,
        "CpusetCpus": limits.cpuset,
        "PidsLimit": limits.pids,
    }
    return {word: value for word, value in asked.items() if value}


def endpoint(wanted: Endpoint) -> dict[str, Any]:
    """Return the ``EndpointSettings`` of a network that a container is on."""
    return {"IPAMConfig": {"IPv4Address": wanted.v4}} if wanted.v4 else {}


def archive(files: Mapping[str, bytes]) -> bytes:
    """Pack files as a tar, the same bytes for the same files; the engine makes the folders that they need.

    All are from 1970: of a main.cf that was changed just now, Postfix waits up to a second for the next change
    (dict_load_file_xt in its util/dict.c).
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.size = len(content)
            entry.mode = 0o755 if content.startswith(b"#!") else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def frames(read: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield what a container printed as the engine sends it: number of the stream, piece of a line.

    ``read`` reads so many bytes of the answer (framing: ``POST /containers/{id}/attach``).
    """
    while header := read(_HEADER.size):
        stream, length = _HEADER.unpack(header)
        yield stream, read(length)


def lines(stamped: Iterable[tuple[int, bytes]]) -> Iterator[LogLine]:
    """Put pieces with a time before them together: the engine cuts lines at 16 KiB, both streams at once."""
    begun: dict[int, tuple[bytes, list[bytes]]] = {}
    for stream, frame in stamped:
        stamp, _, text = frame.partition(b" ")
        stamp, pieces = begun.setdefault(stream, (stamp, []))
        pieces.append(text)
        if text.endswith(b"\n"):
            del begun[stream]
            yield _line(stamp, pieces)
    yield from (_line(stamp, pieces) for stamp, pieces in begun.values())


def _line(stamp: bytes, pieces: Sequence[bytes]) -> LogLine:
    return LogLine(t=unix(stamp.decode()), text=b"".join(pieces).rstrip(b"\r\n").decode(errors="replace"))


def unix(stamp: str) -> float:
    """Read RFC 3339 in UTC, with any number of fractional digits: the engine drops trailing zeros of its nine."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def engine_info(facts: Mapping[str, Any], version: str) -> EngineInfo:
    """Read ``GET /info``; ``version`` is the API's."""
    return EngineInfo(
        version=facts["ServerVersion"],
        api=version,
        kernel=facts["KernelVersion"],
        operating_system=facts["OperatingSystem"],
        cpus=facts["NCPU"],
        memory_b=facts["MemTotal"],
        cgroup=facts.get("CgroupVersion", "1"),
        storage=facts["Driver"],
        architecture=facts["Architecture"],
    )


def found_container(facts: Mapping[str, Any]) -> Found:
    """Read one entry of ``GET /containers/json``; a missing field is an empty one."""
    names = facts.get("Names") or ("",)
    return Found(
        kind="container",
        id=facts["Id"],
        name=names[0].lstrip("/"),
        labels=facts.get("Labels") or {},
        state=facts.get("State") or "",
        ports={
            f"{port['PrivatePort']}/{port['Type']}": port["PublicPort"]
            for port in facts.get("Ports") or ()
            if port.get("PublicPort")
        },
    )


def found_network(facts: Mapping[str, Any]) -> Found:
    """Read one entry of ``GET /networks``; a missing field is an empty one."""
    pools = (facts.get("IPAM") or {}).get("Config") or ()
    return Found(
        kind="network",
        id=facts["Id"],
        name=facts.get("Name") or "",
        labels=facts.get("Labels") or {},
        subnets=tuple(subnet for pool in pools if (subnet := _v4_subnet(pool.get("Subnet") or ""))),
    )


def _v4_subnet(text: str) -> IPv4Network | None:
    """Read a subnet as an engine keeps it, host bits included (10.100.50.0/22); ``None`` if it is no IPv4 subnet."""
    try:
        return IPv4Network(text, strict=False)
    except ValueError:
        return None
