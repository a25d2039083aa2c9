"""What there still is of beds: objects of the engine, devices and rules of the host."""

import secrets
from collections.abc import Iterable
from pathlib import Path

from orchestrator.hosts import ContainerSpec, Host
from orchestrator.hosts.helper import HELPER
from orchestrator.hosts.ownership import ID, Identity

DEVICES = Path("/sys/class/net")


def traces(engine: Host, ids: Iterable[str]) -> list[str]:
    """Name every container, network, veth end and host rule of these beds."""
    wanted = set(ids)
    objects = [f.name for f in engine.find({ID: None}) if f.labels[ID] in wanted]
    devices = [device.name for device in DEVICES.glob("tb*") if device.name[2:-1] in wanted]
    tables = [line.split()[-1] for line in on_the_host(engine, "nft", "list", "tables", "netdev").splitlines()]
    return objects + devices + [table for table in tables if table.removeprefix("tb") in wanted]


def on_the_host(engine: Host, *command: str) -> str:
    """Run a command in the host's network namespace that succeeds, and return what it prints."""
    identity = Identity(bed="helper")
    done = engine.run(
        ContainerSpec(
            name=identity.name(f"test-{secrets.token_hex(3)}"),
            image=HELPER,
            command=command,
            labels=identity.labels(),
            host_network=True,
            capabilities=("NET_ADMIN",),
        )
    )
    assert done.status == 0, done.stderr
    return done.stdout
