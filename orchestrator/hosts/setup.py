"""Set-up of a bare machine: a container engine and the images of the default release. Idempotent."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import EngineFailed
from orchestrator.hosts import Host, docker, images
from orchestrator.hosts.debian import Say, as_root, environment, install, tool

NEEDED = "a container engine (Docker 20.10 or later)"
LOG = Path("/var/log/dockerd.log")
"""Log of an engine started without systemd."""
SOCKET = Path("/var/run/docker.sock")

_SYSTEMD = Path("/run/systemd/system")
"""This folder exists if systemd runs (sd_booted(3))."""
_APPARMOR = Path("/sys/module/apparmor")
_START_S = 60.0
"""Time limit for an engine's first answer after its start."""
_LOOK_S = 0.1


def setup(say: Say) -> Host:
    """Prepare this machine for runs and return its engine.

    Raises:
        EngineFailed: no engine or base image is available, or the build of an image failed.
    """
    host = ensure_engine(say)
    images.ensure(host, [(image, images.DEFAULT_RELEASE) for image in images.names()], say)
    return host


def ensure_engine(say: Say) -> Host:
    """Return the engine; if no engine answers, install and start the distribution's engine.

    Raises:
        EngineFailed: the engine does not answer or refuses this user, or no engine can be installed or started.
    """
    try:
        return docker.connect()
    except EngineFailed:
        if chosen() is not None or closed(SOCKET):
            raise
    if tool("dockerd") is None:
        # dockerd needs iptables to start; on a kernel with AppArmor, a container needs AppArmor's parser to start.
        packages = ["docker.io", "iptables", *(["apparmor"] if _APPARMOR.is_dir() else [])]
        install(packages, needed=NEEDED, say=say)
    say("starting the container engine")
    if _SYSTEMD.is_dir():
        return answering(start(["systemctl", "start", "docker"], None), None, docker.connect)
    return answering(start(["dockerd"], LOG), LOG, docker.connect)


def chosen() -> str | None:
    """Return the engine that DOCKER_HOST or a Docker context names; ``None`` for this machine's default engine."""
    named = os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT") or docker.current_context()
    return None if named in {"default", f"unix://{SOCKET}"} else named


def closed(socket: Path) -> bool:
    """Whether an engine's socket exists, but this user may not use it."""
    return socket.exists() and not os.access(socket, os.R_OK | os.W_OK, effective_ids=True)


def start(command: list[str], log: Path | None) -> "subprocess.Popen[bytes]":
    """Start a daemon as root, in its own session; it inherits no open file.

    Raises:
        EngineFailed: the user has no root rights.
    """
    wrapped = command if log is None else ["sh", "-c", 'exec "$@" </dev/null >>"$0" 2>&1', str(log), *command]
    allowed = as_root(wrapped)
    if allowed is None:
        raise EngineFailed(
            NEEDED, "it does not run, and this user may not start it", f"as root, run: {' '.join(command)}"
        )
    return subprocess.Popen(
        allowed,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env=environment(),
    )


def answering(started: "subprocess.Popen[bytes]", log: Path | None, connect: Callable[[], Host]) -> Host:
    """Wait at most 60 s until the started engine answers; return the engine.

    Raises:
        EngineFailed: the engine ended (the error holds the end of its log), did not answer, or refuses this user.
    """
    deadline = time.monotonic() + _START_S
    while True:
        status = started.poll()  # read before connect(): the end of an engine that has answered does not matter
        try:
            return connect()
        except EngineFailed as error:
            if closed(SOCKET):
                raise
            late = time.monotonic() > deadline
            if not late and status in {None, 0}:
                time.sleep(_LOOK_S)  # dockerd reports its readiness to systemd only
                continue
            end = f"no answer within {_START_S:.0f} s" if late else f"it ended with {status}"
            raise EngineFailed(NEEDED, f"it does not start: {end}{_tail(log)}", "correct the error above") from error


def _tail(log: Path | None) -> str:
    if log is None:
        return "; `journalctl -u docker` shows its log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return "; the end of " + "\n".join([f"{log}:", *lines[-10:]])
