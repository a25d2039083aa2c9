"""Host with a Docker Engine: creates, runs and finds containers and networks; safe to use from several threads."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import docker
import docker.errors

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Found, HostInfo, NetworkSpec, Output, Overdue, SubnetTaken
from orchestrator.hosts.docker import api, ssh
from orchestrator.hosts.docker.client import Clients, short, translated
from orchestrator.hosts.docker.images import DockerImages
from orchestrator.hosts.docker.node import DockerNode
from orchestrator.interrupts import shielded

_log = logging.getLogger(__name__)


class DockerHost:
    """``hosts.Host`` for a Docker Engine."""

    def __init__(self, clients: Clients, *, address: ssh.Target | None = None) -> None:
        self.address = address
        """Machine on whose 127.0.0.1 the ports are published; ``None``: this machine."""
        self.images = DockerImages(clients)
        self._clients = clients

    def node(self, container: str) -> DockerNode:
        return DockerNode(self._clients, container)

    def info(self) -> HostInfo:
        with translated("the engine's description"):
            return api.engine_info(self._clients.here.info(), self._clients.here.api_version)

    def create_network(self, spec: NetworkSpec) -> str:
        pools = [docker.types.IPAMPool(subnet=spec.subnet)] if spec.subnet else []
        with translated(f"network {spec.name}"):
            try:
                made = self._clients.here.create_network(
                    spec.name,
                    driver=spec.driver,
                    options=api.network_options(spec.driver, parent=spec.parent, internal=spec.internal),
                    ipam=docker.types.IPAMConfig(pool_configs=pools),
                    labels=dict(spec.labels),
                    check_duplicate=True,
                    internal=spec.internal,
                )
            except docker.errors.APIError as error:
                if re.search("overlaps|invalid pool request", str(error)):
                    raise SubnetTaken(spec.subnet) from error
                if "already using parent interface" in str(error):
                    raise EngineFailed(
                        f"interface {spec.parent} for network {spec.name} alone",
                        f"another network uses it: {short(error)}",
                        "remove that network, or name another interface (before Docker 27, each serves one network)",
                    ) from error
                raise
            return str(made["Id"])

    def create(self, spec: ContainerSpec) -> DockerNode:
        client = self._clients.here
        first, *others = spec.networks or (None,)
        settings: dict[str, Any] = {"IPAMConfig": {"IPv4Address": first.v4}} if first and first.v4 else {}
        if first and first.alias:
            settings["Aliases"] = [first.alias]
        with translated(f"container {spec.name}"):
            made = client.create_container(
                spec.image,
                name=spec.name,
                entrypoint=list(spec.command),
                command=[],
                hostname=spec.hostname,
                labels=dict(spec.labels),
                ports=[tuple(port.split("/")) for port in spec.publish],
                host_config=api.host_config(spec),
                networking_config={"EndpointsConfig": {first.network: settings}} if first else None,
            )["Id"]
            try:
                for endpoint in others:
                    aliases = [endpoint.alias] if endpoint.alias else None
                    client.connect_container_to_network(
                        made, endpoint.network, ipv4_address=endpoint.v4, aliases=aliases
                    )
                if spec.files:
                    client.put_archive(made, "/", api.archive(spec.files))
            except BaseException:
                self.node(made).remove()
                raise
            return self.node(str(made))

    def run(self, spec: ContainerSpec, timeout: float = 60) -> Output:
        made = None
        rights = ", ".join(spec.capabilities) or "no capability"
        _log.info("one-shot container %s of %s, with %s", spec.name, spec.image, rights)
        try:
            with shielded():  # a signal between creation and assignment would leave the container behind
                made = self.create(spec)
            made.start()
            try:
                return made.output(timeout)
            except TimeoutError as error:
                raise Overdue(spec.command, timeout) from error
        finally:
            if made:
                with shielded():
                    made.remove()

    def remove_network(self, network: str) -> None:
        with translated(f"network {network[:12]} removed"), suppress(docker.errors.NotFound):
            self._clients.here.remove_network(network)

    def disconnect(self, network: str) -> list[str]:
        gone = []
        with translated(f"network {network[:12]} without containers"), suppress(docker.errors.NotFound):
            for id_, facts in (self._clients.here.inspect_network(network).get("Containers") or {}).items():
                self._clients.here.disconnect_container_from_network(id_, network, force=True)
                gone.append(str(facts.get("Name") or id_[:12]))
        return gone

    def find(self, labels: Mapping[str, str | None]) -> Sequence[Found]:
        filters = {"label": [name if value is None else f"{name}={value}" for name, value in labels.items()]}
        with translated("the list of containers and networks"):
            containers = self._clients.here.containers(all=True, filters=filters)
            networks = self._clients.here.networks(filters=filters)
            return [*map(api.found_container, containers), *map(api.found_network, networks)]
