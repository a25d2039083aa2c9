"""Debian's tools on a bare machine: package installation (apt-get), root file systems (mmdebstrap)."""

import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from orchestrator.errors import EngineFailed

Say: TypeAlias = Callable[[str], None]
"""Reports progress in a few words; several threads may call it, but not at the same time."""

ARCHIVE = (
    "a release whose support has ended leaves the mirrors: set DEBIAN_MIRROR to the address of an archive of Debian"
)
"""Advice if no mirror has a release. An archive has only the component ``main`` of the release, without updates."""
_NOT_SERVED = re.compile(
    r"does(?:n't| not) have a Release file|no longer has a Release file|is expired|is not valid yet|is not signed"
    r"|Failed to fetch|Could not (?:resolve|connect|handshake)|Unable to (?:connect|locate package)"
    r"|Temporary failure resolving|Certificate verification failed|has no installation candidate"
)
_SLIM = (  # like the registry's slim images: no manuals, translations, package cache
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    '--aptopt=Dir::Cache::pkgcache ""',
    '--aptopt=Dir::Cache::srcpkgcache ""',
)


def not_served(printed: str) -> bool:
    """Whether apt's output reports a release as unreachable or unverifiable, or a package as missing."""
    return _NOT_SERVED.search(printed) is not None


def environment() -> dict[str, str]:
    """Return this process's environment with the sbin directories on PATH, which ``su`` omits."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"}


def tool(name: str) -> str | None:
    """Return the path of a program on PATH or in sbin; ``None`` if it is not installed."""
    return shutil.which(name, path=environment()["PATH"])


def as_root(command: Sequence[str]) -> list[str] | None:
    """Return ``command``, with sudo unless this user is root; ``None`` if sudo is missing or needs a password."""
    if os.geteuid() == 0:
        return list(command)
    sudo = ["sudo", "--non-interactive"]
    if tool("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return [*sudo, *command]
    return None


def install(packages: Sequence[str], *, needed: str, say: Say) -> None:
    """Install packages, without recommended ones; ``needed``: their purpose, for the error message.

    Raises:
        EngineFailed: apt-get is missing, the user has no root rights, or apt-get failed.
    """
    names = " ".join(packages)
    if tool("apt-get") is None:
        raise EngineFailed(needed, "no apt-get to install it", f"install the equivalent of the Debian packages {names}")
    apt = as_root(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--option=DPkg::Lock::Timeout=300"])
    if apt is None:
        raise EngineFailed(
            needed, "not root, and no sudo without a password", f"run this as root, or apt-get install {names}"
        )
    say(f"installing {names}")
    _run([*apt, "update"], needed)
    _run([*apt, "install", "--yes", "--no-install-recommends", *packages], needed)


def _run(command: Sequence[str], needed: str) -> None:
    """Run a command with its output in a file: a daemon that a package starts would hold a pipe open."""
    with tempfile.TemporaryFile() as output:
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(), check=False
        ).returncode
        if status != 0:
            output.seek(0)
            tail = "\n".join(output.read().decode(errors="replace").splitlines()[-15:])
            raise EngineFailed(needed, f"`{' '.join(command)}` ended with {status}:\n{tail}", "read its message above")


def bootstrap(release: str, tarball: Path, *, mirror: str | None, say: Say) -> None:
    """Write a minimal root file system of a Debian release as a tar file.

    Without ``mirror``, mmdebstrap uses the release's default mirror, and writes that mirror into the file system.

    Raises:
        EngineFailed: mmdebstrap cannot be installed, or failed.
    """
    needed = f"a base image of Debian {release}"
    if tool("mmdebstrap") is None:
        install(["mmdebstrap", "debian-archive-keyring", "ca-certificates"], needed=needed, say=say)
    plain = ["mmdebstrap", "--variant=minbase", *_SLIM, release, str(tarball), *([mirror] if mirror else [])]
    # Without root rights mmdebstrap uses a user namespace, if the host allows it.
    command = as_root(plain) or plain
    tail: deque[str] = deque(maxlen=15)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stderr or ():
                tail.append(line.rstrip())
                if line.startswith("I: "):
                    say(f"Debian {release}: {line[3:].rstrip()}")
        except BaseException:
            with suppress(PermissionError):
                process.terminate()
            raise
    if process.returncode != 0:
        raise EngineFailed(
            needed,
            f"mmdebstrap ended with {process.returncode}:\n" + "\n".join(tail),
            f"read its message above; {ARCHIVE}, or load an image called testbed/debian:{release} yourself",
        )
