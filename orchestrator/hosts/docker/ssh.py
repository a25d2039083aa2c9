"""An engine on another machine, reached by ssh(1): ssh forwards a local Unix socket to the engine's socket.

One ssh serves a whole command, because a bed of four nodes has a dozen connections, and sshd limits logins and sessions
(MaxStartups, MaxSessions) but not forwarded connections. The program is the system's ssh with the user's settings.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import EngineFailed
from orchestrator.interrupts import shielded

SOCKET = "/var/run/docker.sock"
"""Default path of the engine's socket."""
_OPTIONS = (
    # No password prompts: ssh has no terminal, so that Ctrl-C does not end ssh before the bed is down.
    "BatchMode=yes", "ConnectTimeout=30", "ServerAliveInterval=15", "ServerAliveCountMax=4",
    # No shared connection (ControlMaster): its forwards would outlive this process.
    "ControlMaster=no", "ControlPath=none", "ForwardAgent=no", "ForwardX11=no", "RemoteCommand=none", "LogLevel=INFO",
)  # fmt: skip
_FORWARD = (
    # A forward from the user's configuration may fail: another ssh of the user may hold its port.
    "ClearAllForwardings=no", "ForkAfterAuthentication=no", "ExitOnForwardFailure=no",
    # ssh runs LocalCommand after the login, when the socket exists (ssh_config(5)).
    "PermitLocalCommand=yes", "LocalCommand=echo ready",
)  # fmt: skip
_KEEPER = """\
trap '' HUP INT TERM
"$@" 2> "$0/said" < /dev/null &
exec > /dev/null
read -r _
kill -KILL $!
wait
rm -rf -- "$0"
"""
"""Ends ssh and removes ssh's folder once standard input is closed: by ``close``, or by this process's death."""
_LOOK = 'if [ ! -e "$0" ]; then echo missing; elif [ ! -w "$0" ]; then echo closed; fi'
_LOOK_S = 60.0
_END_S = 10.0
_LONGEST_PATH = 90
"""Longest path of a socket's folder: 107 bytes (unix(7)) minus the socket's name and ssh's temporary suffix."""
_READ_BY_SSH = re.compile(r"[][:%$\\]")
"""Characters that ssh interprets in a forward's path: separators, tokens, variables (ssh_config(5))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Machine in an address ``ssh://[user@]host[:port][/socket]``."""

    host: str
    user: str | None = None
    port: int | None = None
    socket: str = SOCKET

    @property
    def words(self) -> list[str]:
        """Arguments of ssh(1) that name the destination."""
        return [*(["-p", str(self.port)] if self.port else []), f"{self.user}@{self.host}" if self.user else self.host]


def parse(url: str) -> Target:
    """Parse an address.

    Raises:
        EngineFailed: the address is malformed, holds a password, or has a path with characters that ssh interprets.
    """
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^-:\[\]][^:\[\]]*))(?::([0-9]{1,5}))?", place)
    port = int(match[3]) if match and match[3] else None
    possible = match and port != 0 and (port or 1) < 1 << 16 and not _READ_BY_SSH.search(parts.path)
    if not match or not possible or ":" in user or user.startswith("-") or parts.query or parts.fragment:
        shown = re.sub(r":[^:@/]*@", ":...@", url)
        raise EngineFailed("an engine's address ssh://[user@]host[:port][/socket]", shown, "correct DOCKER_HOST")
    socket = parts.path if parts.path not in {"", "/"} else SOCKET
    return Target(host=match[1] or match[2], user=unquote(user) or None, port=port, socket=socket)


def way_to(target: Target, ports: Iterable[int]) -> str:
    """Return the ssh command that forwards ports on this machine's 127.0.0.1 to the same ports on the target's."""
    forwards = [word for port in ports for word in ("-L", f"{port}:127.0.0.1:{port}")]
    return shlex.join(["ssh", "-nNT", "-o", "ClearAllForwardings=no", *forwards, *target.words])


class Forward:
    """A local socket, ``socket``, forwarded to the target's engine until ``close`` or the end of this process.

    Raises:
        EngineFailed: ssh is not installed, or the login failed.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        if shutil.which("ssh") is None:
            needed = f"an SSH client, to reach the engine on {target.host}"
            raise EngineFailed(needed, "no ssh on PATH", "install openssh-client (its name in Debian)")
        with shielded():  # a signal before Popen would leave the folder: ``keeper`` removes it
            self._folder = Path(tempfile.mkdtemp(prefix="testbed-ssh-"))
            if len(os.fsencode(self._folder)) > _LONGEST_PATH or _READ_BY_SSH.search(str(self._folder)):
                self._folder.rmdir()
                self._folder = Path(tempfile.mkdtemp(prefix="testbed-ssh-", dir="/tmp"))
            self.socket = f"{self._folder}/engine"
            keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, self._folder, *self._ssh(*_FORWARD), "-nNT",
                 "-L", f"{self.socket}:{target.socket}", *target.words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
                env=os.environ | {"SHELL": "/bin/sh"},
            )  # fmt: skip
        self._end = weakref.finalize(self, _end, keeper)
        with ExitStack() as unless_ready:
            unless_ready.callback(self.close)
            if not (keeper.stdout and keeper.stdout.readline()):
                raise self._login_error()
            unless_ready.pop_all()

    def close(self) -> None:
        """End ssh and remove the socket; idempotent."""
        self._end()

    def refused(self) -> EngineFailed | None:
        """Return an error if ssh reports a refused connection to the engine's socket; otherwise ``None``."""
        where = self.target
        if "open failed" not in self._output():
            return None
        look = shlex.join(["sh", "-c", _LOOK, where.socket])
        command = [*self._ssh("ClearAllForwardings=yes"), "-nT", *where.words, look]
        seen = ""
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_LOOK_S)
            seen = done.stdout.decode(errors="replace")
        if "closed" in seen:
            return EngineFailed(
                f"permission to use the container engine on {where.host}",
                f"its socket {where.socket} is closed to the user who logs in",
                "add that user to the group docker there, or log in as another one",
            )
        needed = f"a container engine on {where.host} that answers (Docker 20.10 or later)"
        if "missing" in seen:
            found, do = f"no {where.socket} there", "start it there, or name its socket: ssh://host/path/to/docker.sock"
        else:  # sshd's answer is the same for a missing engine and a forbidden forward
            found = f"no answer at {where.socket} there, or its sshd forwards no socket"
            do = "start it there; its sshd_config must allow it: AllowStreamLocalForwarding yes"
        return EngineFailed(needed, found, do)

    def _ssh(self, *options: str) -> list[str]:
        return ["ssh", *(word for option in (*_OPTIONS, *options) for word in ("-o", option))]

    def _output(self) -> str:
        try:
            return (self._folder / "said").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _login_error(self) -> EngineFailed:
        output, by_hand = self._output(), f"`{shlex.join(['ssh', *self.target.words, 'true'])}`"
        needed, do = f"a connection to {self.target.host} by ssh", f"let {by_hand} succeed first"
        if "Host key verification failed" in output or "host key is known" in output:
            needed = f"the host key of {self.target.host} known to ssh"
            do = f"run {by_hand} once, and compare the fingerprint that it shows with the host's"
        elif "Permission denied" in output or "Too many authentication failures" in output:
            needed = f"an ssh login to {self.target.host} without a prompt"
            do = f"add your key to ssh-agent, or name it in ~/.ssh/config: {by_hand} must ask for no password"
        end = "\n".join(line.strip() for line in output.splitlines()[-10:] if line.strip())
        return EngineFailed(needed, end or "ssh ended without a message", do)


def _end(keeper: "subprocess.Popen[bytes]") -> None:
    if keeper.stdin and keeper.stdout:
        keeper.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            keeper.wait(_END_S)
        keeper.stdout.close()
