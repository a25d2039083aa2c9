"""SECURITY.md says what the code does: capabilities of each service, and what no container gets."""

import re
from pathlib import Path

from orchestrator import services
from orchestrator.hosts import ContainerSpec, Endpoint
from orchestrator.hosts.docker.api import host_config

PAGE = " ".join((Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8").split())


def test_the_capabilities_of_every_service_are_named() -> None:
    listed = PAGE.partition("**Capabilities of the services.**")[2].partition(" - **")[0]
    named = {
        name: tuple(re.findall(r"`(\w+)`", capabilities))
        for names, capabilities in re.findall(r"([a-z][a-z, -]*): (none|`[^.]*`)\.", listed)
        for name in re.split(", | and ", names)
    }
    assert named == {name: kind.capabilities for name, kind in services.known().items()}


def test_no_container_is_privileged_or_sees_files_of_the_host() -> None:
    for writes in (False, True):
        spec = ContainerSpec(
            name="x",
            image="x",
            command=(),
            labels={},
            networks=(Endpoint(network="lab"),),
            capabilities=("NET_ADMIN",),
            writes_sysctls=writes,
            publish=("25/tcp",),
        )
        config = host_config(spec)
        assert not {"Privileged", "Binds", "Mounts", "VolumesFrom", "Devices", "PidMode", "IpcMode"} & config.keys()
        assert (config["CapDrop"], config["CapAdd"]) == (["ALL"], ["NET_ADMIN"])
        assert "no-new-privileges" in config["SecurityOpt"]
        assert {binding["HostIp"] for bound in config["PortBindings"].values() for binding in bound} == {"127.0.0.1"}
