"""Conversion to and from Docker Engine API JSON (1.41 and later); calls no engine."""

import io
import secrets
import struct
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any

from orchestrator.errors import EngineFailed
from orchestrator.hosts import LOG_FILE_MB, LOG_FILES, ContainerSpec, Found, HostInfo, LogLine

STDOUT, STDERR = 1, 2
"""Stream numbers in the framing of a container's output."""
_HEADER = struct.Struct(">BxxxL")
"""Header of each piece of output: number of the stream, length of the piece in bytes."""
_REMEMBERED = 20_000
"""Number of time stamps that ``once`` remembers; with a fast reader, the engine repeats a line after few new lines."""
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger")
"""The engine's default read-only paths of a container, except ``/proc/sys``, which stays writable."""
_NO_PROFILE = ("apparmor=unconfined", "label=disable")
"""Turns off the default AppArmor and SELinux profiles: they deny writes to ``/proc/sys/net``."""


def host_config(spec: ContainerSpec) -> dict[str, Any]:
    """Return the ``HostConfig`` of ``POST /containers/create``."""
    limits = spec.limits
    config = {
        "NetworkMode": "host" if spec.host_network else spec.networks[0].network if spec.networks else "none",
        "CapDrop": ["ALL"],
        "CapAdd": list(spec.capabilities),
        "SecurityOpt": ["no-new-privileges", *(_NO_PROFILE if spec.writes_sysctls else ())],
        "ReadonlyPaths": list(_READ_ONLY) if spec.writes_sysctls else None,
        "Sysctls": dict(spec.sysctls),
        "PortBindings": {port: [{"HostIp": spec.publish_at, "HostPort": ""}] for port in spec.publish},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": f"{LOG_FILE_MB}m", "max-file": str(LOG_FILES), "compress": "false"},
        },
        "Ulimits": [{"Name": "nofile", "Soft": limits.nofile, "Hard": limits.nofile}] if limits.nofile else None,
        "Memory": limits.memory_b,
        "MemorySwap": limits.memory_b,
        "NanoCpus": int(limits.cpus * 1e9) if limits.cpus else None,
        "CpusetCpus": limits.cpuset,
        "PidsLimit": limits.pids,
    }
    return {key: value for key, value in config.items() if value}


def network_options(driver: str, *, parent: str | None = None, internal: bool = False) -> dict[str, str]:
    """Return the driver's options of a network, as in ``NetworkSpec``."""
    if driver == "macvlan":
        return {"parent": parent} if parent else {}
    if internal:
        return {"com.docker.network.bridge.inhibit_ipv4": "true"}
    return {
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
    }


def limited(command: Sequence[str], seconds: float, *, kill_after: float) -> tuple[list[str], str]:
    """Return a command with a time limit, and a marker that appears in standard error if and only if time ran out.

    timeout(1)'s exit status is ambiguous: 124 may be the command's own, 137 any SIGKILL. But its --verbose line quotes
    the program's path. The path is ``/bin/sh`` in a random spelling (64 bits), which no command prints by chance.
    """
    shell = "/bin" + "".join(secrets.choice(("/", "/.")) for _ in range(64)) + "/sh"
    limit = ["timeout", "--verbose", f"--kill-after={kill_after:g}", f"{seconds:g}"]
    return [*limit, shell, "-c", 'exec "$@"', "sh", *command], shell


def archive(files: Mapping[str, bytes]) -> bytes:
    """Pack files as a tar; equal files give equal bytes. The engine makes the folders.

    The files' date is 1970: Postfix waits up to 1 s after a change of main.cf (dict_load_file_xt in util/dict.c).
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
    """Yield a container's output in the pieces that the engine sends: number of the stream, (part of) a line.

    ``read(n)`` reads n bytes of the answer (framing: ``POST /containers/{id}/attach``).
    """
    while header := read(_HEADER.size):
        stream, length = _HEADER.unpack(header)
        yield stream, read(length)


def once(stamped: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of a followed log without those that the engine repeats.

    After a log rotation, Engines 19.03 to 20.10 mistake the new, shorter file for a truncated file, and send it again
    from its start (followLogs, daemon/logger/loggerutils/follow.go). A repeated piece repeats an earlier time stamp.
    """
    order: deque[tuple[int, bytes]] = deque()
    seen: set[tuple[int, bytes]] = set()
    last: dict[int, tuple[tuple[int, bytes], bytes, bool]] = {}
    repeating = False
    for stream, piece in stamped:
        key = (stream, piece.partition(b" ")[0])
        if key in seen:
            before, first, ended = last[stream]
            repeating = repeating or key != before or (ended and piece == first)
            if repeating:
                continue
            first = first if not ended else piece  # the pieces of one long line have the same stamp
        else:
            repeating, first = False, piece
            order.append(key)
            seen.add(key)
            if len(order) > _REMEMBERED:
                seen.remove(order.popleft())
        last[stream] = (key, first, piece.endswith(b"\n"))
        yield stream, piece


def lines(stamped: Iterable[tuple[int, bytes]]) -> Iterator[LogLine]:
    """Join the pieces of each stream into lines: the engine splits lines at 16 KiB."""
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
    """Convert an RFC 3339 time to Unix time, to the microsecond; any zone (UTC if it has none), any fractional digits.

    Raises:
        ValueError: ``stamp`` is not a time.
    """
    time = datetime.fromisoformat(stamp.replace("z", "Z"))
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def refusal(part: Mapping[str, Any]) -> str | None:
    """Return the reason if a progress report of a pull, an import or a build reports a failure."""
    reason = part.get("error") or (part.get("errorDetail") or {}).get("message")
    return str(reason).strip() if reason else None


def engine_info(facts: Mapping[str, Any], version: str) -> HostInfo:
    """Read ``GET /info``; ``version`` is the API's.

    Raises:
        EngineFailed: the engine is Podman's, or a Docker Engine in rootless mode.
    """
    found = ""
    if "Rootless" in facts:  # only Podman has this key
        found = f"Podman {facts.get('ServerVersion')}: its limits and names of images differ from Docker's"
    elif any("name=rootless" in option for option in facts.get("SecurityOptions") or ()):
        found = f"Docker {facts.get('ServerVersion')} in rootless mode, whose networks are not the machine's"
    if found:
        do = "use an engine that root has started: `testbed setup` installs one, DOCKER_HOST names another"
        raise EngineFailed("a Docker Engine (20.10 or later) that runs as root", found, do)
    return HostInfo(
        version=facts.get("ServerVersion") or "",
        api=version,
        kernel=facts.get("KernelVersion") or "",
        operating_system=facts.get("OperatingSystem") or "",
        cpus=int(facts["NCPU"]),
        memory_b=int(facts["MemTotal"]),
        cgroup=facts.get("CgroupVersion") or "1",
        storage=facts.get("Driver") or "",
        architecture=facts.get("Architecture") or "",
    )


def found_image(facts: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Read one entry of ``GET /images/json``: each of its tags, and its labels plus ``id`` and ``size``."""
    further = {"id": facts["Id"], "size": str(facts.get("Size") or 0)}
    return [(tag, {**(facts.get("Labels") or {}), **further}) for tag in facts.get("RepoTags") or ()]


def found_container(facts: Mapping[str, Any]) -> Found:
    """Read one entry of ``GET /containers/json``; a missing field becomes an empty one."""
    return Found(
        kind="container",
        id=facts["Id"],
        name=next(iter(facts.get("Names") or ("",))).lstrip("/"),
        labels=facts.get("Labels") or {},
        state=facts.get("State") or "",
        ports={
            f"{port['PrivatePort']}/{port.get('Type') or 'tcp'}": port["PublicPort"]
            for port in facts.get("Ports") or ()
            if port.get("PublicPort") and port.get("PrivatePort")
        },
    )


def found_network(facts: Mapping[str, Any]) -> Found:
    """Read one entry of ``GET /networks``; a missing field becomes an empty one."""
    pools = (facts.get("IPAM") or {}).get("Config") or ()
    return Found(
        kind="network",
        id=facts["Id"],
        name=facts.get("Name") or "",
        labels=facts.get("Labels") or {},
        subnets=tuple(subnet for pool in pools if (subnet := _v4_subnet(pool.get("Subnet") or ""))),
    )


def _v4_subnet(text: str) -> IPv4Network | None:
    """Parse an engine's subnet, which may have host bits (10.100.50.0/22); ``None`` if it is not IPv4."""
    try:
        return IPv4Network(text, strict=False)
    except ValueError:
        return None
