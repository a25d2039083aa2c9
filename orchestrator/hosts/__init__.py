"""Where nodes run: hosts, their nodes and images, as protocols, and everything that is done on a host.

``docker`` is a host with a Docker Engine (20.10 and later, local or remote); ``fake`` keeps everything in memory for
tests. No other module knows which one it holds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any, Protocol

from orchestrator.errors import EngineFailed


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
class ContainerLimits:
    """What one container may use at most; ``None`` is the engine's default."""

    cpus: float | None = None
    cpuset: str | None = None
    memory_b: int | None = None
    nofile: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One network that a container is on; ``v4`` is left to the engine when ``None``."""

    network: str
    v4: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container to make. It never gets more capabilities than are named here, and no new privileges."""

    name: str
    image: str
    command: tuple[str, ...]
    """Replaces the image's entry point and command."""
    labels: Mapping[str, str]
    networks: tuple[Endpoint, ...] = ()
    host_network: bool = False
    """Join the host's network namespace (only the one-shot helper does)."""
    hostname: str | None = None
    capabilities: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    writes_sysctls: bool = False
    """Its ``/proc/sys`` can be written, where its capabilities allow it (only the one-shot helper's)."""
    limits: ContainerLimits = ContainerLimits()
    publish: tuple[str, ...] = ()
    """Container ports as ``25/tcp``; each gets a free port of the host's 127.0.0.1."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Absolute path -> content, in place before the start; mode 0644, 0755 when it begins with ``#!``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A network to make."""

    name: str
    driver: str
    """``macvlan`` or ``bridge``."""
    labels: Mapping[str, str]
    subnet: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How a command ended and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def failure(self) -> str:
        """Text for an error message: standard error, or the exit status if that is empty."""
        return self.stderr.strip() or f"status {self.status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An object of the engine that carries our labels."""

    kind: str
    """``container`` or ``network``."""
    id: str
    name: str
    labels: Mapping[str, str]
    state: str = ""
    """Of a container: ``created``, ``running``, ``exited``, ..."""
    subnets: tuple[IPv4Network, ...] = ()
    """Of a network: its IPv4 subnets."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Of a container: ``25/tcp`` -> the port of the host's 127.0.0.1."""

    @property
    def subnet(self) -> str | None:
        """Of a network: its first IPv4 subnet."""
        return str(self.subnets[0]) if self.subnets else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that a container printed; ``t`` is Unix time in seconds."""

    t: float
    text: str


LOG_FILE_MB, LOG_FILES = 512, 2
"""The engine's own copy of a container's log: files of so many MiB, so many of them.

A reader that follows a log reads a file to its end and goes on in the newest one (Engine 20.10): a recorder loses lines
only if it is a whole file behind, some three million lines.
"""


class SubnetTaken(Exception):
    """The engine has another network on (part of) this subnet: take another one."""


class ContainerGone(EngineFailed):
    """There is no such container any more."""

    def __init__(self, container: str) -> None:
        super().__init__(f"the end of container {container[:12]}", "it was removed", "see who removes containers")


class Images(Protocol):
    """The images of a host. Every verb raises ``EngineFailed`` if the engine cannot be reached or refuses."""

    def find(self, tag: str) -> Mapping[str, str] | None:
        """Return the labels of a local image and its id under ``id``; ``None`` when there is none."""
        ...

    def list(self, label: str) -> Sequence[tuple[str, Mapping[str, str]]]:
        """List local images that carry ``label``: tag, and labels plus ``id``, ``size`` (bytes), ``created``."""
        ...

    def pull(self, tag: str) -> None:
        """Fetch an image from its registry."""
        ...

    def load_root(self, tarball: str, tag: str) -> None:
        """Make an image of a tar of a root file system."""
        ...

    def build(self, context: bytes, tag: str, args: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[str]:
        """Build an image from a tar with a Dockerfile at its top; yields what the build prints."""
        ...

    def discard(self, image: str) -> None:
        """Remove an untagged, unused image that a build left behind; any other image stays."""
        ...


class Node(Protocol):
    """One container on a host. Every verb raises ``EngineFailed`` if the engine cannot be reached or refuses."""

    @property
    def id(self) -> str:
        """Its id, or the name that it was asked for by."""
        ...

    def start(self) -> None:
        """Start it."""
        ...

    def pin(self, cpus: str) -> None:
        """Restrict it to these CPUs from now on; a list as in cpuset(7)."""
        ...

    def exec(self, command: Sequence[str], *, capabilities: Sequence[str] | None = None, timeout: float = 60) -> Output:
        """Run a command in it to the command's end; ``capabilities``: those it keeps, ``None``: the container's.

        Raises:
            TimedOut: it did not end within ``timeout`` seconds.
        """
        ...

    def exec_lines(self, command: Sequence[str], *, capabilities: Sequence[str] | None = None) -> Iterator[str]:
        """Run a command as ``exec`` does and yield its standard output line by line.

        Raises:
            EngineFailed: at the end, if its status was not 0, with the end of its standard error.
        """
        ...

    def logs(self, *, follow: bool) -> Iterator[LogLine]:
        """Yield what it printed since its start; with ``follow`` until it ends."""
        ...

    def stats(self) -> Iterator[dict[str, Any]]:
        """Yield the engine's raw statistics about once a second until it ends."""
        ...

    def read_file(self, path: str) -> bytes:
        """Return the content of a file in it; it need not run."""
        ...

    def wait(self) -> int:
        """Wait until it ends and return its exit status.

        Raises:
            ContainerGone: it was removed, and its status with it.
        """
        ...

    def remove(self) -> None:
        """End and remove it; idempotent."""
        ...


class Host(Protocol):
    """A machine that runs nodes. Every verb raises ``EngineFailed`` if the engine cannot be reached or refuses."""

    @property
    def images(self) -> Images:
        """The images that it has."""
        ...

    def info(self) -> HostInfo:
        """Ask the engine about itself."""
        ...

    def create_network(self, spec: NetworkSpec) -> str:
        """Make a network and return its id.

        Raises:
            SubnetTaken: its subnet overlaps with another network's.
        """
        ...

    def remove_network(self, network: str) -> None:
        """Remove a network; idempotent."""
        ...

    def create(self, spec: ContainerSpec) -> Node:
        """Make a container with its networks and files, not yet started."""
        ...

    def node(self, container: str) -> Node:
        """Return the container of this id or name, without a look whether it exists."""
        ...

    def run(self, spec: ContainerSpec, timeout: float = 60) -> Output:
        """Run a one-shot container to its end and remove it."""
        ...

    def find(self, labels: Mapping[str, str | None]) -> Sequence[Found]:
        """List containers, then networks, that carry all these labels (``None``: any value)."""
        ...
