"""What there still is of beds: objects of the engine, devices and rules of the host."""

import secrets
from collections.abc import Iterable
from pathlib import Path

from orchestrator.engine import ContainerSpec, Engine
from orchestrator.lab import HELPER
from orchestrator.ownership import ID, Identity

DEVICES = Path("/sys/class/net")


def traces(engine: Engine, ids: Iterable[str]) -> list[str]:
    """Name every container, network, veth end and host rule of these beds."""
    wanted = set(ids)
    objects = [f.name for f in engine.find({ID: None}) if f.labels[ID] in wanted]
    devices = [device.name for device in DEVICES.glob("tb*") if device.name[2:-1] in wanted]
    return objects + devices + [table for table in _tables(engine) if table.removeprefix("tb") in wanted]


def _tables(engine: Engine) -> list[str]:
    """Name the tables of rules that stand before the host's IP stack."""
    identity = Identity.reading()
    done = engine.run(
        ContainerSpec(
            name=identity.name(f"test-{secrets.token_hex(3)}"),
            image=HELPER,
            command=("nft", "list", "tables", "netdev"),
            labels=identity.labels(),
            host_network=True,
            capabilities=("NET_ADMIN",),
        )
    )
    assert done.status == 0, done.stderr
    return [line.split()[-1] for line in done.stdout.splitlines()]
