"""A Docker engine of the tests' own: networks that others must not see, and address pools that this machine has not.

It runs in network, mount, host-name and process namespaces of its own. Its published ports are on the 127.0.0.1 of its
network namespace. All of it ends with its first process.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.hosts import docker
from orchestrator.hosts.docker import DockerHost

POOL = "172.80.0.0/16"
"""Where it puts its bridges: no private range (RFC 1918), and no neighbour of one."""
READY_S = 30.0
END_S = 30.0
POLL_S = 0.02
CGROUPS = Path("/sys/fs/cgroup")

_START = """
mkdir -p /etc/docker
mount --bind "$1/etc" /etc/docker
hostname testbed-engine
exec "$2" -c '
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # netdevice(7)
with socket.socket() as s:
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
home = sys.argv[1]
os.execvp("dockerd", ["dockerd", "--data-root", home + "/data", "--exec-root", home + "/exec",
                      "--pidfile", home + "/pid", "--host", "unix://" + home + "/docker.sock"])
' "$1"
"""
"""An /etc/docker of its own (key.json is an engine's identity), the loopback device up, then the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnEngine:
    """The engine, up."""

    engine: DockerHost
    host: str
    """For DOCKER_HOST."""
    pid: int

    @property
    def client(self) -> Any:
        """The SDK's client, for objects that `testbed` does not make."""
        return self.engine._clients.here

    def call(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a program in its network namespace, to the end."""
        inside = ("nsenter", "--target", str(self.pid), "--net", "--", *command)
        return subprocess.run(inside, check=False, text=True, capture_output=True, timeout=timeout)


@contextmanager
def own_engine(images: tuple[str, ...]) -> Iterator[OwnEngine]:
    """Start an engine that has these images of this machine's engine; nothing of it is left at the end."""
    home = Path(tempfile.mkdtemp(prefix="tbe-", dir="/tmp"))  # a socket's path is short: unix(7)
    group = home.name
    for part in ("etc", "data", "exec"):
        (home / part).mkdir()
    options = {
        "cgroup-parent": f"/{group}",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "default-address-pools": [{"base": POOL, "size": 24}],
        "bip": "172.81.0.1/24",
    }
    (home / "etc" / "daemon.json").write_text(json.dumps(options), encoding="utf-8")
    log = home / "log"
    with log.open("wb") as said:
        namespaces = ("--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        unshare = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-euc", _START, "sh", home, sys.executable],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        host = f"unix://{home}/docker.sock"
        own = OwnEngine(engine=_connect(unshare, host, log), host=host, pid=_child(unshare.pid))
        _copy(images, own)
        yield own
    finally:
        _end(unshare)
        for folder in sorted(CGROUPS.glob(f"**/{group}/**/"), reverse=True):
            with suppress(FileNotFoundError):
                folder.rmdir()
        shutil.rmtree(home)


def _connect(unshare: subprocess.Popen[bytes], host: str, log: Path) -> DockerHost:
    deadline = time.monotonic() + READY_S
    while not Path(host.removeprefix("unix://")).exists():
        assert unshare.poll() is None, log.read_text(encoding="utf-8")[-3000:]
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")[-3000:]
        time.sleep(POLL_S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        return docker.connect()  # the engine answers once it is ready


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0])


def _copy(images: tuple[str, ...], own: OwnEngine) -> None:
    if images:
        own.engine.images.load(docker.connect().images.save(images))
    assert all(own.engine.images.find(image) for image in images)


def _end(unshare: subprocess.Popen[bytes]) -> None:
    """End the engine, and with it whatever it has started."""
    with suppress(OSError, IndexError):
        os.kill(_child(unshare.pid), signal.SIGTERM)
    try:
        unshare.wait(END_S)
    except subprocess.TimeoutExpired:
        unshare.kill()  # its child with it: --kill-child
        unshare.wait(END_S)
        raise
