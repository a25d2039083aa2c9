"""A host for tests: in memory, with scripted output of commands."""

import hashlib
import io
import itertools
import json
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network
from typing import IO, Any, cast

from orchestrator.bed.cpu_topology import parse
from orchestrator.errors import EngineFailed
from orchestrator.hosts import (
    ContainerGone,
    ContainerSpec,
    Found,
    HostInfo,
    LogLine,
    NetworkSpec,
    Node,
    Output,
    Overdue,
    SubnetTaken,
)
from orchestrator.hosts.docker.api import archive
from orchestrator.hosts.docker.ssh import Target
from orchestrator.hosts.helper import HELPER

INFO = dict.fromkeys(("version", "api", "kernel", "operating_system", "cgroup", "storage", "architecture"), "fake")


class FakeHost:
    """In-memory host: ``answer(spec, command)`` returns a command's output, ``prints(spec)`` the lines of a log.

    If ``answer`` raises TimeoutError, the command exceeds its time limit.
    """

    def __init__(
        self,
        answer: Callable[[ContainerSpec, tuple[str, ...]], Output] = lambda *_: Output(status=0, stdout="", stderr=""),
        prints: Callable[[ContainerSpec], Sequence[str]] = lambda _: (),
    ) -> None:
        self.answer, self.prints = answer, prints
        self.address: Target | None = None
        self.images = FakeImages()
        self.specs: dict[str, ContainerSpec] = {}
        self._made: dict[str, Found] = {}
        self._ended: dict[str, tuple[threading.Event, list[int]]] = {}
        self._lock, self._ids = threading.RLock(), itertools.count(1)

    def end(self, container: str, status: int) -> None:
        """End a container with this exit status."""
        made = self.found(container)
        self._made[made.id] = replace(made, state="exited", ports={})
        self._ended[made.id][1].append(status)
        self._ended[made.id][0].set()

    def info(self) -> HostInfo:
        return HostInfo(**INFO, cpus=2, memory_b=8 << 30)

    def create_network(self, spec: NetworkSpec) -> str:
        with self._lock:
            wanted = (IPv4Network(spec.subnet),) if spec.subnet else ()
            if any(
                subnet.overlaps(other) for made in self._made.values() for other in made.subnets for subnet in wanted
            ):
                raise SubnetTaken(spec.subnet)
            return self._add(Found(kind="network", id="", name=spec.name, labels=spec.labels, subnets=wanted))

    def create(self, spec: ContainerSpec) -> Node:
        with self._lock:
            for endpoint in spec.networks:
                self.found(endpoint.network)
            made = self._add(Found(kind="container", id="", name=spec.name, labels=spec.labels, state="created"))
            self.specs[made], self._ended[made] = spec, (threading.Event(), [])
            return self.node(made)

    def node(self, container: str) -> Node:
        return cast("Node", FakeNode(self, container))

    def start(self, container: str) -> None:
        with self._lock:
            made = self.found(container)
            ports = {port: 32768 + next(self._ids) for port in self.specs[made.id].publish}
            self._made[made.id] = replace(made, state="running", ports=ports)

    def pin(self, container: str, cpus: str) -> None:
        made = self.found(container)
        if not set(parse(cpus)) <= set(range(self.info().cpus)):
            raise EngineFailed(f"container {made.name} on CPUs {cpus}", "no such CPUs", "name others")
        spec = self.specs[made.id]
        self.specs[made.id] = replace(spec, limits=spec.limits.model_copy(update={"cpuset": cpus}))

    def pause(self, container: str) -> None:
        self._change(container, "running", "paused")

    def unpause(self, container: str) -> None:
        with suppress(EngineFailed):
            self._change(container, "paused", "running")

    def _change(self, container: str, state: str, to: str) -> None:
        made = self.found(container)
        if made.state != state:
            raise EngineFailed(f"container {made.name} {to}", made.state, "start it")
        self._made[made.id] = replace(made, state=to)

    def exec(
        self,
        container: str,
        command: Sequence[str],
        *,
        capabilities: Sequence[str] | None = None,  # noqa: ARG002
        timeout: float = 60,
    ) -> Output:
        made = self.found(container)
        if made.state != "running":
            raise EngineFailed(f"container {made.name} running", made.state, "start it")
        try:
            return self.answer(self.specs[made.id], tuple(command))
        except TimeoutError as late:
            raise Overdue(command, timeout) from late

    def exec_lines(
        self, container: str, command: Sequence[str], *, capabilities: Sequence[str] | None = None, timeout: float
    ) -> Iterator[str]:
        output = self.exec(container, command, capabilities=capabilities, timeout=timeout)
        yield from output.stdout.splitlines()
        if output.status:
            needed = f"{' '.join(command)[:200]} to succeed"
            raise EngineFailed(needed, f"status {output.status}: {output.stderr}", "read the node's log")

    def logs(self, container: str, *, follow: bool) -> Iterator[LogLine]:
        made = self.found(container)
        yield from (LogLine(t=1e9 + n, text=line) for n, line in enumerate(self.prints(self.specs[made.id])))
        if follow:
            self.wait(made.id)

    def stats(self, container: str) -> Iterator[dict[str, Any]]:
        self.wait(container)
        yield from ()

    def read_file(self, container: str, path: str) -> bytes | None:
        return self.specs[self.found(container).id].files.get(path)

    def run(self, spec: ContainerSpec, timeout: float = 60) -> Output:  # noqa: ARG002
        if self.images.find(spec.image) is None:
            raise EngineFailed(f"container {spec.name}", f"No such image: {spec.image}", "build it")
        self.create(spec).remove()
        return self.answer(spec, spec.command)

    def wait(self, container: str) -> int:
        made = next((f.id for f in self._made.copy().values() if container in {f.id, f.name}), None)
        if made is None:
            raise ContainerGone(container)
        ended, statuses = self._ended[made]
        ended.wait()
        return statuses[0]

    def remove(self, container: str) -> None:
        with self._lock:
            if any(container in {f.id, f.name} for f in self._made.values()):
                made = self.found(container)
                self.end(made.id, 137)
                del self._made[made.id]

    def remove_network(self, network: str) -> None:
        with self._lock:
            for made in [f for f in self._made.values() if network in {f.id, f.name}]:
                users = (self.specs[f.id] for f in self._made.values() if f.state == "running")
                if any(e.network in {made.id, made.name} for spec in users for e in spec.networks):
                    raise EngineFailed(f"network {made.name} removed", "a container is on it", "remove that first")
                del self._made[made.id]

    def disconnect(self, network: str) -> list[str]:  # noqa: ARG002
        return []

    def find(self, labels: Mapping[str, str | None]) -> list[Found]:
        known = sorted(self._made.copy().values(), key=lambda f: f.kind)
        return [f for f in known if all(k in f.labels and v in {None, f.labels[k]} for k, v in labels.items())]

    def found(self, name: str) -> Found:
        for made in list(self._made.values()):
            if name in {made.id, made.name}:
                return made
        raise EngineFailed(f"{name} in the engine", "no such object", "make it")

    def _add(self, made: Found) -> str:
        if any(made.name == other.name for other in self._made.values()):
            raise EngineFailed(f"{made.kind} {made.name}", "its name is taken", "remove the other one")
        made = replace(made, id=f"{next(self._ids):012x}")
        self._made[made.id] = made
        return made.id


class FakeNode:
    """A container of a fake host: each method calls the host's method of that name, which a test may override."""

    def __init__(self, host: FakeHost, container: str) -> None:
        self.id, self._host = container, host

    def __getattr__(self, verb: str) -> Any:
        return partial(getattr(self._host, verb), self.id)


class FakeImages:
    """The images of a fake host."""

    def __init__(self) -> None:
        self.tags: dict[str, Mapping[str, str]] = {HELPER: {"id": "helper"}}

    def find(self, tag: str) -> Mapping[str, str] | None:
        return self.tags.get(tag)

    def list(self, label: str) -> Sequence[tuple[str, Mapping[str, str]]]:
        return [(tag, labels) for tag, labels in self.tags.items() if label in labels]

    def pull(self, tag: str) -> None:
        if tag not in self.tags:
            raise EngineFailed(f"image {tag} from its registry", "it has none", "see whether it is there")

    def load_root(self, tarball: str, tag: str) -> None:
        self.tags[tag] = {"id": tarball}

    def save(self, tags: Sequence[str]) -> Iterator[bytes]:
        """Yield a tar as an engine's, without layers."""
        manifest, files = [], {}
        for tag in tags:
            labels = {name: value for name, value in self.tags[tag].items() if name != "id"}
            config = json.dumps({"config": {"Labels": labels}}).encode()
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            files[name] = config
            manifest.append({"Config": name, "RepoTags": [tag], "Layers": []})
        yield archive({**files, "manifest.json": json.dumps(manifest).encode()})

    def load(self, tar: Iterable[bytes]) -> None:
        with tarfile.open(fileobj=io.BytesIO(b"".join(tar))) as saved:
            files = {member.name: cast("IO[bytes]", saved.extractfile(member)).read() for member in saved}
        for image in json.loads(files["manifest.json"]):
            labels = json.loads(files[image["Config"]])["config"]["Labels"]
            self.tags |= {tag: {**labels, "id": image["Config"]} for tag in image["RepoTags"]}

    def build(self, context: bytes, tag: str, args: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[str]:
        self.tags[tag] = {**labels, "id": str(hash((context, *args.items())))}
        yield f"built {tag}"

    def discard(self, image: str) -> None:
        self.tags.pop(image, None)
