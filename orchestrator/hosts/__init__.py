"""Interfaces (typing.Protocol) of a host, its nodes and its images; modules below: all operations on a host.

``docker`` is a host with a Docker Engine (20.10 and later, local or remote); the tests have an in-memory host.
Other modules use these interfaces only. A function with a host as parameter may raise ``EngineFailed``, as the host's
methods do.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.bed.model import Limits
from orchestrator.errors import EngineFailed, TimedOut

if TYPE_CHECKING:
    from orchestrator.hosts.docker.ssh import Target

LOOPBACK = "127.0.0.1"
"""Address of the host on which ports are published by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """A host's machine and its engine."""

    version: str
    api: str
    kernel: str
    operating_system: str
    cpus: int
    memory_b: int
    cgroup: str
    """``1`` or ``2``."""
    storage: str
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A container's connection to one network; if ``v4`` is ``None``, the engine chooses the address."""

    network: str
    v4: str | None = None
    alias: str | None = None
    """Additional name under which the network's other containers find this container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container to create, with exactly these capabilities and no new privileges."""

    name: str
    image: str
    command: tuple[str, ...]
    """Replaces the image's entry point and command."""
    labels: Mapping[str, str]
    networks: tuple[Endpoint, ...] = ()
    host_network: bool = False
    """Join the host's network namespace; only the one-shot helper sets this."""
    hostname: str | None = None
    capabilities: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    writes_sysctls: bool = False
    """Mount ``/proc/sys`` writable; capabilities still limit the writes. Only the one-shot helper sets this."""
    limits: Limits = field(default_factory=Limits)
    publish: tuple[str, ...] = ()
    """Container ports as ``25/tcp``; each gets a free port of the host's ``publish_at``."""
    publish_at: str = LOOPBACK
    """Address of the host for published ports; other machines cannot reach ports on a loopback address."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Absolute path -> content, written before the start; mode 0644, or 0755 if the content begins with ``#!``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A network to create."""

    name: str
    driver: str
    """``macvlan`` or ``bridge``."""
    labels: Mapping[str, str]
    subnet: str | None = None
    parent: str | None = None
    """Host interface under a macvlan network."""
    internal: bool = False
    """For a bridge. True: the containers reach each other, and the host has no address on the bridge. False: the
    containers reach only the host, and the host publishes their ports on 127.0.0.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Exit status and output of a command."""

    status: int
    stdout: str
    stderr: str

    @property
    def failure(self) -> str:
        """Text for an error message: standard error, or the exit status if standard error is empty."""
        return self.stderr.strip() or f"status {self.status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A container or network with testbed's labels."""

    kind: str
    """``container`` or ``network``."""
    id: str
    name: str
    labels: Mapping[str, str]
    state: str = ""
    """State of a container: ``created``, ``running``, ``exited``, ..."""
    subnets: tuple[IPv4Network, ...] = ()
    """IPv4 subnets of a network."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Published ports of a container: ``25/tcp`` -> port of the host's 127.0.0.1, or of the bed's ``published_at``."""

    @property
    def subnet(self) -> str | None:
        """First IPv4 subnet of a network."""
        return str(self.subnets[0]) if self.subnets else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that a container printed; ``t`` is Unix time in seconds."""

    t: float
    text: str


LOG_FILE_MB, LOG_FILES = 512, 2
"""Size in MiB and number of the engine's log files for one container.

A follower of the log reads a file to its end, then continues in the newest file (Engine 20.10). So the recorder loses
lines only if it falls a whole file behind: about three million lines.
"""


class SubnetTaken(Exception):
    """Another network of the engine overlaps with this subnet."""


class ContainerGone(EngineFailed):
    """The container was removed."""

    def __init__(self, container: str) -> None:
        super().__init__(f"exit status of container {container[:12]}", "it was removed", "find out who removed it")


class Overdue(TimedOut):
    """A command was killed at its time limit; ``stdout`` and ``stderr`` hold the output up to the limit."""

    status = None

    def __init__(self, command: Sequence[str], seconds: float, *, stdout: str = "", stderr: str = "") -> None:
        needed = f"{' '.join(command)[:200]} to end within {seconds:g} s"
        super().__init__(needed, "it did not", "see whether the machine is overloaded, and try again")
        self.stdout = stdout
        self.stderr = stderr


class Images(Protocol):
    """The images of a host. Every method raises ``EngineFailed`` if the engine cannot be reached or refuses."""

    def find(self, tag: str) -> Mapping[str, str] | None:
        """Return the labels of a local image and its id under ``id``; ``None`` if the image is missing."""
        ...

    def list(self, label: str) -> Sequence[tuple[str, Mapping[str, str]]]:
        """List local images that carry ``label``: tag, and labels plus ``id`` and ``size`` (bytes)."""
        ...

    def pull(self, tag: str) -> None:
        """Fetch an image from its registry."""
        ...

    def load_root(self, tarball: str, tag: str) -> None:
        """Import a root file system's tar as an image."""
        ...

    def save(self, tags: Sequence[str]) -> Iterator[bytes]:
        """Yield the content of a tar with these images, as ``docker save`` writes it."""
        ...

    def load(self, tar: Iterable[bytes]) -> None:
        """Load images from a tar in the format of ``save``; the engine compares each layer with the layer's digest."""
        ...

    def build(self, context: bytes, tag: str, args: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[str]:
        """Build an image from a tar with a Dockerfile at its top; yield the build's output, line by line."""
        ...

    def discard(self, image: str) -> None:
        """Remove an image if it is untagged and unused; otherwise keep it."""
        ...


class Node(Protocol):
    """One container on a host. Every method raises ``EngineFailed`` if the engine cannot be reached or refuses."""

    @property
    def id(self) -> str:
        """Id of the container, or its name if ``Host.node`` was called with a name."""
        ...

    def start(self) -> None:
        """Start the container."""
        ...

    def pin(self, cpus: str) -> None:
        """Restrict the container to these CPUs (a list as in cpuset(7)), effective at once."""
        ...

    def pause(self) -> None:
        """Stop all processes of the container; its connections stay open, and the engine runs no command in it.

        Raises:
            EngineFailed: the container does not run, or is paused.
        """
        ...

    def unpause(self) -> None:
        """Continue the processes of a paused container; no effect if it is not paused, has ended or was removed."""
        ...

    def exec(self, command: Sequence[str], *, capabilities: Sequence[str] | None = None, timeout: float = 60) -> Output:
        """Run a command in the container to its end; ``capabilities`` defaults to the container's.

        A signal to this process ends the command, too; if the command cannot be ended, the exception gets a note.

        Raises:
            Overdue: the command runs longer than ``timeout`` seconds.
        """
        ...

    def exec_lines(
        self, command: Sequence[str], *, capabilities: Sequence[str] | None = None, timeout: float
    ) -> Iterator[str]:
        """Run a command as ``exec`` does, and yield its standard output line by line.

        Raises:
            TimedOut: the command runs longer than ``timeout`` seconds; raised after the last line.
            EngineFailed: the exit status is not 0; raised after the last line, with the end of standard error.
        """
        ...

    def logs(self, *, follow: bool) -> Iterator[LogLine]:
        """Yield the container's log from its start to its present end; with ``follow``, until the container ends."""
        ...

    def stats(self) -> Iterator[dict[str, Any]]:
        """Yield the engine's raw statistics, about once a second, until the container ends."""
        ...

    def read_file(self, path: str) -> bytes | None:
        """Return the content of a file in the container, running or not; ``None`` if the file is missing."""
        ...

    def wait(self) -> int:
        """Wait until the container ends and return its exit status.

        Raises:
            ContainerGone: the container was removed; its exit status is lost.
        """
        ...

    def remove(self) -> None:
        """Kill and remove the container; idempotent."""
        ...


class Host(Protocol):
    """A machine that runs nodes. Every method raises ``EngineFailed`` if the engine cannot be reached or refuses."""

    @property
    def address(self) -> "Target | None":
        """Remote machine of the engine; ``None``: this machine."""
        ...

    @property
    def images(self) -> Images:
        """Images of this host."""
        ...

    def info(self) -> HostInfo:
        """Return the facts of the machine and its engine; every bring-up reads these facts first.

        Raises:
            EngineFailed: also if the kind of engine is not supported (Podman, Docker in rootless mode).
        """
        ...

    def create_network(self, spec: NetworkSpec) -> str:
        """Create a network and return its id.

        Raises:
            SubnetTaken: the subnet overlaps with another network's.
        """
        ...

    def remove_network(self, network: str) -> None:
        """Remove a network; idempotent."""
        ...

    def disconnect(self, network: str) -> Sequence[str]:
        """Disconnect the running containers from a network, and return their names; idempotent."""
        ...

    def create(self, spec: ContainerSpec) -> Node:
        """Create a container with its networks and files; do not start it."""
        ...

    def node(self, container: str) -> Node:
        """Return the container of this id or name; does not check that it exists."""
        ...

    def run(self, spec: ContainerSpec, timeout: float = 60) -> Output:
        """Run a one-shot container to its end and remove it."""
        ...

    def find(self, labels: Mapping[str, str | None]) -> Sequence[Found]:
        """List the containers, then the networks, with all these labels; ``None`` matches any value."""
        ...
