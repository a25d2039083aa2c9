"""A container of a Docker Engine: start, pause, commands with a time limit, log, statistics, files, end."""

import io
import math
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import docker.errors
import requests

from orchestrator.bed.wiring import without_setup_rights
from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerGone, LogLine, Output, Overdue
from orchestrator.hosts.docker import api
from orchestrator.hosts.docker.client import TIMEOUT_S, Clients, translated
from orchestrator.interrupts import Interrupted, shielded

_LOOK_S = 0.02
"""Polling interval of a command's status."""
_KILL_AFTER_S = 5.0
"""Time from SIGTERM, sent at the time limit, to SIGKILL."""
_FREEZES = 5
"""Attempts to pause a container: on a busy machine with cgroup v1, runc may fail with "unable to freeze"."""
_END = """
for process in /proc/[0-9]*; do
    case $(tr '\\0' ' ' < "$process/cmdline") in
        "timeout --verbose "*" $1 "*) kill "${process#/proc/}" ;;
    esac
done
"""


class DockerNode:
    """``hosts.Node`` for a Docker Engine."""

    def __init__(self, clients: Clients, container: str) -> None:
        self.id = container
        self._clients = clients

    def start(self) -> None:
        with translated(f"container {self.id[:12]} started"):
            self._clients.here.start(self.id)

    def pin(self, cpus: str) -> None:
        with translated(f"container {self.id[:12]} on CPUs {cpus}"):
            self._clients.here.update_container(self.id, cpuset_cpus=cpus)

    def pause(self) -> None:
        with translated(f"container {self.id[:12]} paused"):
            for further in reversed(range(_FREEZES)):
                try:
                    self._clients.here.pause(self.id)
                    break
                except docker.errors.APIError as error:
                    if not further or "unable to freeze" not in str(error):
                        raise

    def unpause(self) -> None:
        with translated(f"container {self.id[:12]} continued"), suppress(docker.errors.NotFound):
            try:
                self._clients.here.unpause(self.id)
            except docker.errors.APIError as error:
                if not re.search("is not (paused|running)", str(error)):
                    raise

    def exec(self, command: Sequence[str], *, capabilities: Sequence[str] | None = None, timeout: float = 60) -> Output:
        pieces: tuple[list[bytes], list[bytes]] = ([], [])
        limited, late_mark = api.limited(_with(capabilities, command), timeout, kill_after=_KILL_AFTER_S)
        with translated(f"an answer of {command[0]} in container {self.id[:12]}"):
            run = self._clients.here.exec_create(self.id, limited)["Id"]
            try:
                for outputs in self._clients.here.exec_start(run, stream=True, demux=True):
                    for kept, piece in zip(pieces, outputs, strict=True):
                        kept.append(piece or b"")
                status = self._exec_status(run)
            except Interrupted as signal:
                with shielded():
                    if not self._ended(run, late_mark):
                        signal.add_note(f"{' '.join(command)[:200]} may still run in container {self.id[:12]}")
                raise
        out, err = (b"".join(kept).decode(errors="replace") for kept in pieces)
        if late_mark in err:
            own = "".join(line for line in err.splitlines(keepends=True) if late_mark not in line)
            raise Overdue(command, timeout, stdout=out, stderr=own)
        return Output(status=status, stdout=out, stderr=err)

    def exec_lines(
        self, command: Sequence[str], *, capabilities: Sequence[str] | None = None, timeout: float
    ) -> Iterator[str]:
        rest, errors, late = b"", b"", False
        limited, late_mark = api.limited(_with(capabilities, command), timeout, kill_after=_KILL_AFTER_S)
        with translated(f"{command[0]} in container {self.id[:12]}"):
            run = self._clients.here.exec_create(self.id, limited)["Id"]
            for out, err in self._clients.here.exec_start(run, stream=True, demux=True):
                errors += err or b""
                late = late or late_mark.encode() in errors
                errors = errors[-4096:]
                *lines, rest = (rest + (out or b"")).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            status = self._exec_status(run)
        if rest:
            yield rest.decode(errors="replace")
        if late:
            raise Overdue(command, timeout)
        if status:
            raise EngineFailed(
                f"{' '.join(command)[:200]} to succeed",
                f"status {status}: {errors.decode(errors='replace').strip()[-1500:]}",
                "read the node's log",
            )

    def _ended(self, run: str, mark: str) -> bool:
        """End a command that runs under timeout(1), found by the argument ``mark``; return whether it has ended.

        timeout(1) passes SIGTERM to its process group, and sends SIGKILL after ``_KILL_AFTER_S`` seconds.
        """
        client, until = self._clients.here, time.monotonic() + _KILL_AFTER_S + 1
        try:
            with translated(f"the end of a command in container {self.id[:12]}"):
                client.exec_start(client.exec_create(self.id, ["sh", "-c", _END, "sh", mark])["Id"])
                while client.exec_inspect(run)["Running"]:
                    if time.monotonic() > until:
                        return False
                    time.sleep(_LOOK_S)
        except EngineFailed:
            return False
        return True

    def _exec_status(self, run: str) -> int:
        """Wait for a command's exit status; a command may still run after it has closed its outputs."""
        while (status := self._clients.here.exec_inspect(run).get("ExitCode")) is None:
            time.sleep(_LOOK_S)  # the event exec_die would need one more stream for each command
        return int(status)

    def logs(self, *, follow: bool) -> Iterator[LogLine]:
        with translated(f"the log of container {self.id[:12]}"):
            yield from api.lines(api.once(self._followed()) if follow else self._frames())

    def _followed(self) -> Iterator[tuple[int, bytes]]:
        """Yield the frames of the log until the container ends; the last frames may be repeated.

        Engine 20.10 omits the last lines if the container ends while the engine sends earlier lines; so read twice.
        """
        last = b""
        for stream, piece in self._frames(follow=1):
            last = max(last, piece.partition(b" ")[0])
            yield stream, piece
        try:
            yield from self._frames(since=f"{api.unix(last.decode()) - 1e-6:.6f}" if last else "0")
        except docker.errors.APIError as error:
            if not error.is_client_error():  # the container was removed
                raise

    def output(self, timeout: float) -> Output:
        """Wait for the container's end and return its output.

        Raises:
            TimeoutError: the container runs longer than ``timeout`` seconds.
        """
        with translated(f"container {self.id[:12]} to end"):
            try:
                status = int(self._clients.here.wait(self.id, timeout=math.ceil(timeout))["StatusCode"])
            except (requests.ReadTimeout, requests.ConnectionError) as error:
                if "timed out" not in str(error):  # the engine has stopped
                    raise
                status = None
            printed: dict[int, bytes] = {api.STDOUT: b"", api.STDERR: b""}
            for stream, frame in () if status is None else self._frames(timestamps=0):
                printed[stream] += frame
        if status is None:
            raise TimeoutError
        out, err = (printed[stream].decode(errors="replace") for stream in (api.STDOUT, api.STDERR))
        return Output(status=status, stdout=out, stderr=err)

    def _frames(self, **options: int | str) -> Iterator[tuple[int, bytes]]:
        """Yield the frames of the container's log; ``APIClient.logs`` does not separate the streams.

        ``options``: parameters of ``GET /containers/{id}/logs``; by default time stamps and both streams.
        """
        client = self._clients.here
        url = f"{client.base_url}/v{client.api_version}/containers/{self.id}/logs"
        query: dict[str, int | str] = {"stdout": 1, "stderr": 1, "timestamps": 1, **options}
        with client.get(url, params=query, stream=True, timeout=(TIMEOUT_S, None)) as response:
            try:
                response.raise_for_status()
            except requests.HTTPError as error:
                raise docker.errors.create_api_error_from_http_exception(error) from error
            yield from api.frames(response.raw.read)

    def stats(self) -> Iterator[dict[str, Any]]:
        with translated(f"statistics of container {self.id[:12]}"):
            yield from self._clients.here.stats(self.id, decode=True, stream=True)

    def wait(self) -> int:
        with translated(f"the end of container {self.id[:12]}"):
            try:
                return int(self._clients.here.wait(self.id, timeout=None)["StatusCode"])
            except docker.errors.NotFound as error:
                raise ContainerGone(self.id) from error

    def remove(self) -> None:
        with translated(f"container {self.id[:12]} removed"), suppress(docker.errors.NotFound):
            try:
                self._clients.here.remove_container(self.id, force=True, v=True)
            except docker.errors.APIError as error:
                if "already in progress" not in str(error):
                    raise
                with suppress(requests.RequestException):
                    self._clients.here.wait(self.id, timeout=10, condition="removed")

    def read_file(self, path: str) -> bytes | None:
        with translated(f"{path} of container {self.id[:12]}"):
            try:
                pieces, _ = self._clients.here.get_archive(self.id, path)
            except docker.errors.NotFound as error:
                if "no such container" in str(error).lower():
                    raise
                return None
            with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
                file = archive.extractfile(archive.getmembers()[0])
                if file is None:
                    raise EngineFailed(f"{path} of container {self.id[:12]}", "it is not a file", "report it")
                return file.read()


def _with(capabilities: Sequence[str] | None, command: Sequence[str]) -> Sequence[str]:
    return command if capabilities is None else without_setup_rights(command, capabilities)
