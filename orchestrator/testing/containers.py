"""Beds and single servers as containers of the library testcontainers (extra ``testcontainers``).

``MailBed`` is a whole bed. ``BindContainer``, ``PostfixContainer`` and ``InboxContainer`` are one server each, without
a bed: a ``DockerContainer`` with testbed's image and configuration files. The container has the firewall of a node: its
published ports answer, but no connection leaves it. So a single Postfix accepts and queues mail, but delivers none.

The watchdog of ``orchestrator.testing`` removes all of them if the process dies. testcontainers' own reaper
also removes them, if it acknowledges our filter (testcontainers-python#1114: the library does not read the reaper's
answer). The reaper is optional: TESTCONTAINERS_RYUK_DISABLED does not disable the watchdog.
"""

import logging
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any, Self

from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer, Reaper
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.labels import create_labels
from testcontainers.core.wait_strategies import LogMessageWaitStrategy
from testcontainers.core.waiting_utils import WaitStrategy

from orchestrator import services
from orchestrator.bed import wiring
from orchestrator.bed.certificates import Authority
from orchestrator.bed.model import Bed, parse_bed
from orchestrator.errors import EngineFailed
from orchestrator.hosts import LOOPBACK, docker, images
from orchestrator.hosts.docker import api
from orchestrator.hosts.ownership import OWNER, Identity, Kind, this_process
from orchestrator.plan import NodePlan, Plan, make_plan
from orchestrator.testing import bed as testing
from orchestrator.testing.watchdog import guarded
from orchestrator.up.bringup import certificates
from orchestrator.up.node import RunningNode

_log = logging.getLogger(__name__)

ACK_S = 5.0
"""Time limit for the reaper's answer."""
_RYUK_PORT = 8080
_POLL_S = 0.1
"""Polling interval for the log line that shows a container's readiness."""
_ALONE = f"{wiring.DIRECTORY}/alone"
"""Start script of a server without a bed."""


@cache
def joined_reaper(owner: str) -> socket.socket | None:
    """Ask testcontainers' reaper to remove the objects with this OWNER label when this process ends.

    Returns the connection to the reaper; the connection ends with the process. ``None``: the reaper is disabled, cannot
    be started, or does not acknowledge within ``ACK_S``; the log has the reason.
    """
    if testcontainers_config.ryuk_disabled:
        return None
    try:
        return _acknowledged(owner)
    except Exception as error:  # noqa: BLE001 - any error of the reaper: our watchdog suffices
        _log.warning("testcontainers' reaper does not take part, testbed's watchdog does: %s", error)
        if Reaper._instance is None:  # noqa: SLF001 - the leftover container would block the next try (#1093)
            with suppress(Exception):
                Reaper.delete_instance()
        return None


def _acknowledged(owner: str) -> socket.socket:
    """Connect to the reaper, and return the connection once the reaper has acknowledged the filter."""
    Reaper.get_instance()
    container = Reaper._container  # noqa: SLF001 - the library has no public way to its address
    if container is None:
        raise EngineFailed("the container of testcontainers' reaper", "none", "see its log")
    at = container.get_container_host_ip(), int(container.get_exposed_port(_RYUK_PORT))
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(at, timeout=ACK_S))
        connection.sendall(f"label={OWNER}={owner}\n".encode())
        with connection.makefile("rb") as answers:
            if (answer := answers.readline(80).strip()) != b"ACK":
                raise EngineFailed("ACK from testcontainers' reaper", repr(answer), "see its log")
        stack.pop_all()
        return connection


class MailBed(testing.MailBed):
    """A bed for testcontainers: its containers have the library's session labels; the library's wait strategies apply.

    A wait strategy sees the relay's container. A port number means the first node that publishes this port, in this
    order: the relay, the inbox, the other nodes.
    """

    _wait_strategy: WaitStrategy | None = None
    _wrapped: Any = None

    def waiting_for(self, strategy: WaitStrategy) -> Self:
        """Make ``start`` apply this wait strategy once the bed is up."""
        self._wait_strategy = strategy
        return self

    def start_as(self, kind: Kind, *, owner: str = "") -> Self:
        """Bring the bed up; idempotent. The library's reaper removes it, too, if it belongs to this process alone."""
        if kind is Kind.RUN and not owner:
            joined_reaper(this_process())
        super().start_as(kind, owner=owner)
        if self._wait_strategy:
            try:
                self._wait_strategy.wait_until_ready(self)
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """Remove the bed; idempotent."""
        self._wrapped = None
        super().stop()

    def _labels(self) -> Mapping[str, str]:
        return create_labels("testbed", None)

    def get_container_host_ip(self) -> str:
        """Return the address on which the ports are published."""
        return self.relay.host

    def get_exposed_port(self, port: int) -> int:
        """Return the published port for a port of a node: 25, 465, 587 (relay), 8025 (inbox), 53 (DNS).

        Raises:
            EngineFailed: no node publishes this port.
        """
        relay, inbox = self.running.relay.node, self.running.inbox.node
        nodes: list[RunningNode] = [relay, inbox, *self.running.nodes.values()]
        for node in nodes:
            for protocol in ("tcp", "udp"):
                if f"{port}/{protocol}" in node.ports:
                    return node.port(f"{port}/{protocol}")
        return relay.port(f"{port}/tcp")

    def get_wrapped_container(self) -> Any:
        """Return the relay's container, as an object of the Docker SDK."""
        if self._wrapped is None:
            self._wrapped = DockerClient().client.containers.get(self.running.relay.node.container.id)
        return self._wrapped

    def get_logs(self) -> tuple[bytes, bytes]:
        """Return the relay's log: standard output, standard error."""
        container = self.get_wrapped_container()
        return container.logs(stderr=False), container.logs(stdout=False)

    def reload(self) -> None:
        """Read the state of the relay's container again."""
        self.get_wrapped_container().reload()

    @property
    def status(self) -> str:
        """State of the relay's container: ``running``, ``paused``, ..."""
        return str(self.get_wrapped_container().status)


class NodeContainer(DockerContainer):
    """One server of testbed in a container without a bed; ``settings`` and ``bed`` as in a bed file.

    The container gets its files before its start. Its ports are published on 127.0.0.1 if tests reach them there, else
    on all addresses. Raises InvalidInput for settings that are invalid in a bed file.
    """

    service = ""

    def __init__(self, *, settings: Mapping[str, Any] | None = None, bed: Mapping[str, Any] | None = None) -> None:
        node = {"service": self.service, "settings": dict(settings or {})}
        given = {"domains": ["example.com", "example.org", "example.net"], **(bed or {})}
        described: Bed = parse_bed(
            {**given, "name": self.service, "lab": "bridge", "families": "v4", "nodes": {self.service: node}}, "bed"
        )
        self._engine = docker.connect()
        self._plan: Plan = make_plan(described, cpus=self._engine.info().cpus)
        self._node: NodePlan = self._plan.nodes[0]
        super().__init__(self._node.tag)
        self.image = self._node.tag  # without the registry prefix that the library adds
        self.waiting_for(LogMessageWaitStrategy(services.service(self.service).ready).with_poll_interval(_POLL_S))
        self._guard = ExitStack()
        self._identity = Identity.new(described, Kind.RUN)

    def _configure(self) -> None:
        """Build the image if it is missing, and add the ports, rights and labels of the node."""
        images.ensure(self._engine, images.needed_by(self._plan.bed), _log.info)
        labels = self._identity.labels(node=self._node.name, service=self.service)
        self._kwargs = {
            "entrypoint": [_ALONE],
            "hostname": self._node.name,
            "cap_drop": ["ALL"],
            "cap_add": [*self._node.capabilities, *wiring.SETUP_CAPABILITIES],
            "security_opt": ["no-new-privileges"],
            "sysctls": dict(self._node.sysctls),
            **self._kwargs,
            "labels": create_labels(self.image, labels | self._kwargs.get("labels", {})),
        }

    def start(self) -> Self:
        """Start the server and wait until it serves, at most for the library's time limit (120 s by default)."""
        joined_reaper(this_process())
        self._guard.enter_context(guarded())
        self._configure()
        client = self.get_docker_client().client
        network: dict[str, Any] = {}
        if self._network:
            name = self._network.name
            endpoint = client.api.create_endpoint_config(aliases=self._network_aliases)
            network = {"network": name, "networking_config": {name: endpoint}}
        self._container = client.containers.create(
            self.image,
            command=self._command,
            environment=self.env,
            ports=self._published(),
            name=self._name or self._identity.name(self._node.name),
            volumes={host: {"bind": mount["bind"], "mode": mount["mode"]} for host, mount in self.volumes.items()},
            **{**network, **self._kwargs},
        )
        self._container.put_archive("/", api.archive(self._files()))
        self._container.start()
        if self._wait_strategy:
            self._wait_strategy.wait_until_ready(self)
        return self

    def stop(self, force: bool = True, delete_volume: bool = True) -> None:  # noqa: FBT001, FBT002 - as the library has it
        """Remove the server; idempotent."""
        super().stop(force, delete_volume)
        self._container = None
        self._guard.close()

    @property
    def _local(self) -> bool:
        """Whether tests reach the ports on 127.0.0.1: engine and tests run on this machine, not in a container."""
        client = self.get_docker_client()
        mode = client.get_connection_mode()
        return mode is ConnectionMode.docker_host and client.host() in {"localhost", LOOPBACK}

    def _published(self) -> dict[str, Any]:
        """Return the published ports, in the form of the Docker SDK; those of ``with_bind_ports`` come first."""
        anywhere: tuple[str, None] | None = (LOOPBACK, None) if self._local else None
        return {**dict.fromkeys(self._node.publish, anywhere), **self.ports}

    def _files(self) -> dict[str, bytes]:
        """Return the files of the node.

        In a bed the engine makes the lab interface. Here a start script makes it, then runs the node's start script.
        """
        alone = f"""#!/bin/sh
set -eu
ip link add lab type veth peer name lab-end
ip link set lab-end up
ip link set lab up
ip address add {self._node.v4}/{self._plan.subnet.prefixlen} dev lab
exec {wiring.DIRECTORY}/enter
"""
        own = certificates(Authority(self._plan.bed.name), self._plan, self._node)
        published = {} if self._local else {wiring.PUBLISHED: b""}
        return {**self._node.files, **own, **published, _ALONE: alone.encode()}


class BindContainer(NodeContainer):
    """BIND with the zones of a bed: ``BindContainer(bed={"records": {"www.example.com": {"A": ["192.0.2.1"]}}})``."""

    service = "bind"

    def get_udp_port(self) -> int:
        """Return the published port of DNS over UDP; ``get_exposed_port(53)`` returns the port of DNS over TCP."""
        client = self.get_docker_client()
        if not client.get_connection_mode().use_mapped_port:
            return 53
        return int(client.port(self.get_container_id(), "53/udp"))  # type: ignore[arg-type]  # the SDK takes that


class PostfixContainer(NodeContainer):
    """Postfix: accepts mail on ports 25, 465 and 587, and queues it; ``settings``: ``main_cf``, ``users``."""

    service = "postfix"


class InboxContainer(NodeContainer):
    """An inbox: accepts mail on ports 25, 465 and 587, serves its API and page on 8025; ``settings``: ``rules``, ..."""

    service = "inbox"

    def get_url(self) -> str:
        """Return the address of the web page and the API, without a slash at its end."""
        return f"http://{self.get_container_host_ip()}:{self.get_exposed_port(8025)}"
