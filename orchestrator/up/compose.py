"""A plan as Compose files: the containers that ``bringup`` would create, for ``docker compose``.

The user does two steps: make the veth pair under the lab network, and clean up after a killed command.
"""

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from orchestrator.bed import wiring
from orchestrator.bed.addressing import V4
from orchestrator.bed.certificates import Authority
from orchestrator.bed.model import Bed
from orchestrator.hosts import ContainerSpec
from orchestrator.hosts.docker.api import network_options
from orchestrator.plaintext import plain
from orchestrator.plan import NodePlan, Plan, make_plan, subnet_prefix
from orchestrator.services.agents import LIB
from orchestrator.up import bringup

_HEADER = """\
# Made by `{command} --format compose --files FOLDER`: change the bed, not this file.
# How to use it: README.md in the folder compose/ of testbed.
"""
_PARENT = (
    "${TESTBED_PARENT:?make the veth pair under the lab, then set TESTBED_PARENT=tbcp: "
    "ip link add tbcp type veth peer name tbcq; ip link set tbcq up; ip link set tbcp up}"
)
_CODE = "${TESTBED_CODE:-../../orchestrator}"
"""Folder of the agents' code; by default the folder in a checkout."""
_IMAGES = "${TESTBED_IMAGES:-../../images}"
_INTERNAL = {"driver": "bridge", "internal": True, "driver_opts": network_options("bridge", internal=True)}


def compose_plan(bed: Bed, *, cpus: int) -> Plan:
    """Plan a bed for Compose, on the last subnet of the range; `testbed up` takes the first free one."""
    if bed.subnet:
        return make_plan(bed, cpus=cpus)
    *_, last = V4.subnets(new_prefix=subnet_prefix(bed))
    return make_plan(bed, subnet=last, cpus=cpus)


def files(plan: Plan, command: Sequence[str]) -> dict[str, bytes]:
    """Return a folder for Compose: relative path -> content. A file that begins with ``#!`` must be made executable.

    ``command``: as in ``render``.
    """
    rendered = {
        f"{node.name}{path}": content
        for node in plan.nodes
        for path, content in sorted(node.files.items())
        if not path.startswith(f"{LIB}/")
    }
    return {"compose.yaml": render(plan, command).encode(), **rendered}


def certificates(plan: Plan) -> dict[str, bytes]:
    """Return the files of a new authority and of a certificate for each node, in addition to ``files``."""
    authority = Authority(plan.bed.name)
    issued = {node.name: bringup.certificates(authority, plan, node) for node in plan.nodes}
    return {f"{node}{path}": content for node, made in issued.items() for path, content in made.items()}


def render(plan: Plan, command: Sequence[str]) -> str:
    """Return compose.yaml. ``command``: words of `testbed plan` for the header, without --format and --files."""
    guests = {"guests": _INTERNAL} if plan.bed.guests else {}
    whole = {
        "services": {node.name: _service(node) for node in plan.nodes},
        "networks": {
            "control": {"driver": "bridge", "driver_opts": network_options("bridge")},
            "lab": {**_lab(plan.bed), "ipam": {"config": [{"subnet": str(plan.subnet)}]}},
            **guests,
        },
    }
    header = _HEADER.format(command=plain(shlex.join(command), keep=""))
    return header + yaml.safe_dump(whole, sort_keys=False, width=1000)


def _lab(bed: Bed) -> dict[str, Any]:
    if bed.lab == "bridge":
        return _INTERNAL
    return {"driver": "macvlan", "driver_opts": network_options("macvlan", parent=bed.parent or _PARENT)}


def _service(node: NodePlan) -> dict[str, Any]:
    spec = bringup.container_spec(node, "control", "lab", "guests")
    limits = spec.limits
    optional = {
        "cpus": limits.cpus,
        "cpuset": limits.cpuset,
        "mem_limit": limits.memory_b,
        "memswap_limit": limits.memory_b,
        "pids_limit": limits.pids,
        "ulimits": {"nofile": limits.nofile} if limits.nofile else None,
        "ports": [f"127.0.0.1::{port}" for port in spec.publish] or None,
    }
    return {
        "image": spec.image,
        "build": {"context": f"{_IMAGES}/{node.image}", "args": {"DEBIAN_RELEASE": node.release}},
        "entrypoint": list(spec.command),
        "hostname": spec.hostname,
        "cap_drop": ["ALL"],
        "cap_add": list(spec.capabilities),
        "security_opt": ["no-new-privileges:true"],
        "sysctls": dict(spec.sysctls),
        **{key: value for key, value in optional.items() if value is not None},
        "volumes": _volumes(spec),
        "networks": {to.network: {"ipv4_address": to.v4} if to.v4 else {} for to in spec.networks},
    }


def _volumes(spec: ContainerSpec) -> list[dict[str, Any]]:
    own = sorted({*spec.files, wiring.CERTIFICATE, wiring.AUTHORITY})
    mounts = [(f"./{spec.name}{path}", path) for path in own if not path.startswith(f"{LIB}/")]
    if any(path.startswith(f"{LIB}/") for path in spec.files):
        mounts.append((_CODE, f"{LIB}/orchestrator"))
    return [{"type": "bind", "source": source, "target": target, "read_only": True} for source, target in mounts]
