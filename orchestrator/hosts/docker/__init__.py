"""A real Docker Engine, 20.10 and later. The only module that imports docker."""

import io
import json
import math
import os
import re
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import docker
import docker.errors
import requests
import urllib3.exceptions
from docker.context import ContextAPI
from docker.utils import kwargs_from_env

from orchestrator.errors import EngineFailed
from orchestrator.hosts import (
    ContainerGone,
    ContainerSpec,
    EngineInfo,
    Found,
    LogLine,
    NetworkSpec,
    Output,
    SubnetTaken,
)
from orchestrator.hosts.docker import api, ssh
from orchestrator.interrupts import shielded

_TIMEOUT_S = 120
_POOL = 64
"""Connections kept for one thread's streams and calls."""
_LOOK_S = 0.02
"""Between two looks for the status of a command: the engine announces it in no stream of ours."""
_KILL_AFTER_S = 5.0
"""After the end of its time: until a command that ignores SIGTERM gets SIGKILL."""


def connect() -> "DockerEngine":
    """Return the engine that the environment or the current Docker context names.

    Raises:
        EngineFailed: none answers, or we may not use it.
    """
    forward, host = None, None
    try:
        options = _options()
        address = urlsplit(options.get("base_url") or "")
        if address.scheme == "ssh":
            forward = ssh.Forward(host := ssh.parse(options["base_url"]))
            options = {"base_url": f"unix://{forward.socket}"}
        elif address.hostname and address.hostname not in {"localhost", "127.0.0.1", "::1"}:
            host = ssh.Target(host=address.hostname)
        client = docker.APIClient(**options, version="auto", timeout=_TIMEOUT_S)
    except (ValueError, TypeError, AttributeError) as error:  # of an address or a configuration that cannot be read
        if forward:
            forward.close()
        if isinstance(error, requests.RequestException):
            raise _no_engine(error) from error
        raise EngineFailed(
            "an address of a container engine (DOCKER_HOST, or the current Docker context)",
            f"{os.environ.get('DOCKER_HOST') or 'a configuration of Docker that cannot be read'}: {error}",
            "correct it, or leave it out",
        ) from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        refused = forward.refused() if forward else None
        if forward:
            forward.close()
        raise refused or _no_engine(error) from error
    return DockerEngine(client, options, forward=forward, host=host)


def _options() -> dict[str, Any]:
    """Where the engine is: DOCKER_HOST, else DOCKER_CONTEXT, else the current context, as docker(1) has it."""
    options: dict[str, Any] = {**kwargs_from_env()}
    if not os.environ.get("DOCKER_HOST"):
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT") or None)
        if context is None:
            raise EngineFailed(
                "the Docker context that is chosen", "there is none of that name", "see `docker context ls`"
            )
        if context.Host:
            options |= {"base_url": context.Host, **({"tls": context.TLSConfig} if context.TLSConfig else {})}
    return options


def _no_engine(error: Exception) -> EngineFailed:
    if "PermissionError" in repr(error) or "Permission denied" in str(error):
        return EngineFailed(
            "permission to use the container engine",
            "its socket is closed to this user",
            "use sudo, or add yourself to the group docker and log in again",
        )
    return EngineFailed(
        "a container engine that answers (Docker 20.10 or later)",
        f"none at {os.environ.get('DOCKER_HOST') or 'its usual place'}: {_reason(error)}",
        "`testbed setup` installs and starts one; DOCKER_HOST names another",
    )


class DockerEngine:
    """The verbs of ``engine.Engine``, by the Docker Engine API; safe to use from several threads."""

    def __init__(
        self,
        client: docker.APIClient,
        options: Mapping[str, Any],
        *,
        forward: ssh.Forward | None = None,
        host: ssh.Target | None = None,
    ) -> None:
        self.host = host
        """The machine whose 127.0.0.1 published ports are on; ``None``: this one's."""
        self._forward = forward  # ends with us
        self._options = {**options, "version": client.api_version, "timeout": _TIMEOUT_S, "max_pool_size": _POOL}
        self._local = threading.local()
        self._local.client = client

    @property
    def _client(self) -> docker.APIClient:
        """The client of this thread: a connection pool is not shared between threads."""
        if not hasattr(self._local, "client"):
            self._local.client = docker.APIClient(**self._options)
        client: docker.APIClient = self._local.client
        return client

    def info(self) -> EngineInfo:
        """Ask the engine about itself."""
        with _translated("what the engine is"):
            return api.engine_info(self._client.info(), self._client.api_version)

    def image(self, tag: str) -> Mapping[str, str] | None:
        """Return the labels of a local image and its id under ``id``; ``None`` when there is none."""
        with _translated(f"image {tag}"):
            try:
                facts = self._client.inspect_image(tag)
            except docker.errors.NotFound:
                return None
            return {**((facts.get("Config") or {}).get("Labels") or {}), "id": facts["Id"]}

    def images(self, label: str) -> list[tuple[str, Mapping[str, str]]]:
        """List local images that carry ``label``: tag, and labels plus ``id``, ``size`` (bytes), ``created``."""
        with _translated("the list of images"):
            return [
                found for facts in self._client.images(filters={"label": label}) for found in api.found_image(facts)
            ]

    def pull(self, tag: str) -> None:
        """Fetch an image from its registry."""
        with _translated(f"image {tag} from its registry"):
            for part in self._client.pull(tag, stream=True, decode=True):
                if reason := api.refusal(part):
                    raise EngineFailed(f"image {tag} from its registry", reason, "see whether it is there")
            if self.image(tag) is None:
                raise EngineFailed(f"image {tag} from its registry", "the engine has none after the pull", "try again")

    def load_root(self, tarball: str, tag: str) -> None:
        """Make an image of a tar of a root file system."""
        repository, _, release = tag.partition(":")
        with _translated(f"image {tag} from a root file system"):
            printed = self._client.import_image_from_file(tarball, repository=repository, tag=release)
            reason = next((r for line in printed.splitlines() if (r := api.refusal(json.loads(line)))), None)
            if reason or self.image(tag) is None:
                found = f"the engine did not take the root file system: {reason or printed[-300:]}"
                raise EngineFailed(f"image {tag}", found, "read its log")

    def build(self, context: bytes, tag: str, args: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[str]:
        """Build an image from a tar with a Dockerfile at its top; yields what the build prints."""
        with _translated(f"image {tag}"):
            said = self._client.build(
                fileobj=io.BytesIO(context),
                custom_context=True,
                tag=tag,
                buildargs=dict(args),
                labels=dict(labels),
                rm=True,
                forcerm=True,
                decode=True,
            )
            for part in said:
                if reason := api.refusal(part):
                    raise EngineFailed(f"image {tag} built", reason, "read what the build printed")
                yield from (part.get("stream") or "").splitlines()

    def discard_image(self, image: str) -> None:
        """Remove an image that no tag names and nothing uses: what a build left behind. Any other stays."""
        with _translated(f"image {image} removed"), suppress(docker.errors.NotFound):
            if self._client.inspect_image(image).get("RepoTags"):
                return
            try:
                self._client.remove_image(image)
            except docker.errors.APIError as error:
                if error.status_code != requests.codes.conflict:
                    raise

    def create_network(self, spec: NetworkSpec) -> str:
        """Make a network and return its id.

        Raises:
            SubnetTaken: its subnet overlaps with another network's.
        """
        options = {
            "macvlan": {"parent": spec.parent} if spec.parent else {},
            "bridge": {
                "com.docker.network.bridge.enable_icc": "false",
                "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
            },
        }[spec.driver]
        pools = [docker.types.IPAMPool(subnet=spec.subnet)] if spec.subnet else []
        with _translated(f"network {spec.name}"):
            try:
                made = self._client.create_network(
                    spec.name,
                    driver=spec.driver,
                    options=options,
                    ipam=docker.types.IPAMConfig(pool_configs=pools),
                    labels=dict(spec.labels),
                    check_duplicate=True,
                )
            except docker.errors.APIError as error:
                if re.search("overlaps|invalid pool request", str(error)):
                    raise SubnetTaken(spec.subnet) from error
                if "already using parent interface" in str(error):
                    raise EngineFailed(
                        f"interface {spec.parent} for network {spec.name} alone",
                        f"another network stands on it: {_short(error)}",
                        "remove that one, or name another interface (an engine before 27 gives each to one network)",
                    ) from error
                raise
            return str(made["Id"])

    def create(self, spec: ContainerSpec) -> str:
        """Make a container with its networks and files, not yet started, and return its id."""
        client = self._client
        first, *others = spec.networks or (None,)
        with _translated(f"container {spec.name}"):
            made = client.create_container(
                spec.image,
                name=spec.name,
                entrypoint=list(spec.command),
                command=[],
                hostname=spec.hostname,
                labels=dict(spec.labels),
                ports=[tuple(port.split("/")) for port in spec.publish],
                host_config=api.host_config(spec),
                networking_config={"EndpointsConfig": {first.network: api.endpoint(first)}} if first else None,
            )["Id"]
            try:
                for endpoint in others:
                    client.connect_container_to_network(made, endpoint.network, ipv4_address=endpoint.v4)
                if spec.files:
                    client.put_archive(made, "/", api.archive(spec.files))
            except BaseException:
                self.remove_container(made)
                raise
            return str(made)

    def start(self, container: str) -> None:
        """Start a container."""
        with _translated(f"container {container[:12]} started"):
            self._client.start(container)

    def pin(self, container: str, cpus: str) -> None:
        """Let a container run on these CPUs only, from now on; a list as in cpuset(7)."""
        with _translated(f"container {container[:12]} on CPUs {cpus}"):
            self._client.update_container(container, cpuset_cpus=cpus)

    def run(self, spec: ContainerSpec, timeout: float = 60) -> Output:
        """Run a one-shot container to its end and remove it."""
        made = ""
        try:
            with shielded():  # a signal must not come between the container and its name
                made = self.create(spec)
            with _translated(f"container {spec.name} to end"):
                self._client.start(made)
                try:
                    status = int(self._client.wait(made, timeout=math.ceil(timeout))["StatusCode"])
                except (requests.ReadTimeout, requests.ConnectionError) as error:
                    if "timed out" not in str(error):  # the engine went away
                        raise
                    raise EngineFailed(
                        f"{' '.join(spec.command)[:200]} to end within {timeout:g} s", "it did not", "try again"
                    ) from error
                said: dict[int, bytes] = {api.STDOUT: b"", api.STDERR: b""}
                for stream, frame in self._frames(made, follow=False, timestamps=False):
                    said[stream] += frame
                out, err = (said[stream].decode(errors="replace") for stream in (api.STDOUT, api.STDERR))
                return Output(status=status, stdout=out, stderr=err)
        finally:
            if made:
                with shielded():
                    self.remove_container(made)

    def exec(self, container: str, command: tuple[str, ...], *, timeout: float = 60) -> Output:
        """Run a command in a running container to its end."""
        pieces: tuple[list[bytes], list[bytes]] = ([], [])
        limited, at_its_end = api.limited(command, timeout, kill_after=_KILL_AFTER_S)
        with _translated(f"an answer of {command[0]} in container {container[:12]}"):
            run = self._client.exec_create(container, limited)["Id"]
            for outputs in self._client.exec_start(run, stream=True, demux=True):
                for kept, piece in zip(pieces, outputs, strict=True):
                    kept.append(piece or b"")
            status = self._exec_status(run)
        out, err = (b"".join(kept).decode(errors="replace") for kept in pieces)
        if at_its_end in err:
            raise EngineFailed(
                f"{' '.join(command)[:200]} to end within {timeout:g} s", "it did not", "look at its log"
            )
        return Output(status=status, stdout=out, stderr=err)

    def exec_lines(self, container: str, command: tuple[str, ...]) -> Iterator[str]:
        """Run a command in a running container and yield its standard output line by line.

        Raises:
            EngineFailed: at the end, when its status was not 0, with the end of its standard error.
        """
        rest, errors = b"", b""
        with _translated(f"{command[0]} in container {container[:12]}"):
            run = self._client.exec_create(container, list(command))["Id"]
            for out, err in self._client.exec_start(run, stream=True, demux=True):
                errors = (errors + (err or b""))[-4096:]
                *lines, rest = (rest + (out or b"")).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            status = self._exec_status(run)
        if rest:
            yield rest.decode(errors="replace")
        if status:
            raise EngineFailed(
                f"{' '.join(command)[:200]} to succeed",
                f"status {status}: {errors.decode(errors='replace').strip()[-1500:]}",
                "read the node's log",
            )

    def _exec_status(self, run: str) -> int:
        """Return the exit status of a command, once it has one: it may go on after its outputs are closed."""
        while (status := self._client.exec_inspect(run).get("ExitCode")) is None:
            time.sleep(_LOOK_S)
        return int(status)

    def logs(self, container: str, *, follow: bool) -> Iterator[LogLine]:
        """Yield what a container printed since its start; with ``follow`` until it ends.

        (With ``follow``, Engine 20.10 often omits a last line without a newline.)
        """
        with _translated(f"the log of container {container[:12]}"):
            frames = self._frames(container, follow=follow, timestamps=True)
            yield from api.lines(api.once(frames) if follow else frames)

    def _frames(self, container: str, *, follow: bool, timestamps: bool) -> Iterator[tuple[int, bytes]]:
        """Yield the frames of what a container printed: ``APIClient.logs`` does not tell the streams apart."""
        client = self._client
        url = f"{client.base_url}/v{client.api_version}/containers/{container}/logs"
        asked = {"stdout": 1, "stderr": 1, "follow": int(follow), "timestamps": int(timestamps)}
        with client.get(url, params=asked, stream=True, timeout=(_TIMEOUT_S, None)) as response:
            try:
                response.raise_for_status()
            except requests.HTTPError as error:
                raise docker.errors.create_api_error_from_http_exception(error) from error
            yield from api.frames(response.raw.read)

    def stats(self, container: str) -> Iterator[dict[str, Any]]:
        """Yield the engine's raw statistics about once a second until the container ends."""
        with _translated(f"statistics of container {container[:12]}"):
            yield from self._client.stats(container, decode=True, stream=True)

    def wait(self, container: str) -> int:
        """Wait until a container ends and return its exit status.

        Raises:
            ContainerGone: it was removed, and its status with it.
        """
        with _translated(f"the end of container {container[:12]}"):
            try:
                return int(self._client.wait(container, timeout=None)["StatusCode"])
            except docker.errors.NotFound as error:
                raise ContainerGone(container) from error

    def remove_container(self, container: str) -> None:
        """End and remove a container."""
        with _translated(f"container {container[:12]} removed"), suppress(docker.errors.NotFound):
            try:
                self._client.remove_container(container, force=True, v=True)
            except docker.errors.APIError as error:
                if "already in progress" not in str(error):
                    raise
                with suppress(requests.RequestException):
                    self._client.wait(container, timeout=10, condition="removed")

    def remove_network(self, network: str) -> None:
        """Remove a network."""
        with _translated(f"network {network[:12]} removed"), suppress(docker.errors.NotFound):
            self._client.remove_network(network)

    def find(self, labels: Mapping[str, str | None]) -> list[Found]:
        """List containers, then networks, that carry all these labels (``None``: any value)."""
        filters = {"label": [name if value is None else f"{name}={value}" for name, value in labels.items()]}
        with _translated("the list of containers and networks"):
            containers = self._client.containers(all=True, filters=filters)
            networks = self._client.networks(filters=filters)
            return [*map(api.found_container, containers), *map(api.found_network, networks)]


@contextmanager
def _translated(needed: str) -> Iterator[None]:
    """Turn what the SDK raises into ``EngineFailed``."""
    try:
        yield
    except docker.errors.APIError as error:
        raise EngineFailed(
            needed,
            f"the engine refused: {_short(error)}",
            "change what it refuses; `testbed doctor` looks at this host",
        ) from error
    except (KeyError, TypeError, AttributeError, ValueError, struct.error, urllib3.exceptions.HTTPError) as error:
        if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):
            raise EngineFailed(needed, f"the engine did not answer: {_short(error)}", "see whether it runs") from error
        raise EngineFailed(
            needed,
            f"an answer of the engine that cannot be read: {error!r}"[:600],
            "report it with the engine's version (`docker version`)",
        ) from error
    except (docker.errors.DockerException, docker.errors.StreamParseError, requests.RequestException, OSError) as error:
        raise EngineFailed(needed, f"the engine did not answer: {_short(error)}", "see whether it runs") from error


def _short(error: Exception) -> str:
    explained = getattr(error, "explanation", None)
    return str(explained or error)[:600]


def _reason(error: Exception) -> str:
    """Return what the system said in the end of a failure that is wrapped several times."""
    said = re.findall(r"\(\d+, '([^']+)'\)|\[Errno -?\d+\] ([^'\")]+)", str(error))
    return "".join(said[-1]) if said else _short(error)
