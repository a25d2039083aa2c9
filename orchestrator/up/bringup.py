"""Bring-up of a bed: networks, nodes, readiness, and one delivered message."""

import logging
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, Protocol

from orchestrator import services
from orchestrator.bed import wiring
from orchestrator.bed.addressing import twin
from orchestrator.bed.certificates import Authority
from orchestrator.bed.model import Bed
from orchestrator.bed.zones import NODES
from orchestrator.errors import EngineFailed, HostCannot, Problem
from orchestrator.hosts import LOOPBACK, ContainerSpec, Endpoint, Host, Node, SubnetTaken, networks
from orchestrator.hosts.cleaning import remove_id
from orchestrator.hosts.ownership import Identity, Kind, kept_beds
from orchestrator.interrupts import shielded
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import NodePlan, Plan, make_plan, subnet_prefix
from orchestrator.services import Role
from orchestrator.up.attach import BED_FILE, saved_bed
from orchestrator.up.bed import RecordedBed
from orchestrator.up.collect.recorder import Recorder
from orchestrator.up.node import RunningNode

_log = logging.getLogger(__name__)

READY_S = 60.0
"""Time limit of a daemon's readiness line."""
_MOST_NAMES = 100
"""Maximum number of mail hosts in a sink's certificate."""
_TRIES = 16
"""Maximum number of attempts to choose a subnet: another bed may take the chosen one first."""


class Withdrawn(EngineFailed):
    """Another command began earlier to bring up a bed of this name."""


class Progress(Protocol):
    """Receiver of progress messages."""

    taken: list[dict[str, Any]]
    """Name and duration (seconds) of every step that ended."""

    def step(self, name: str) -> AbstractContextManager[None]:
        """Enclose one step."""
        ...

    def say(self, text: str) -> None:
        """Report progress of the running step."""
        ...


def verify(plan: Plan) -> None:
    """Verify every rendered file of a bed; takes 0.2 s for 2,560 domains.

    Raises:
        InvalidInput: a rendered file is invalid.
    """
    for node in plan.nodes:
        services.service(node.service).verify(node.files)


def bring_up(
    host: Host,
    bed: Bed,
    identity: Identity,
    *,
    rundir: RunDir,
    steps: Progress,
    stack: ExitStack,
    cpus: int,
    statistics: bool = True,
) -> RecordedBed:
    """Bring a bed up and record it into ``rundir``; ``stack`` takes it down.

    ``statistics``: record the engine's statistics, too; for four nodes they take 0.3 s of the engine's CPU time.

    Raises:
        InvalidInput: no subnet is free for the bed, or the subnet in its definition is taken.
        Withdrawn: this bed was meant to stay up, but an older bed of the same name exists.
        EngineFailed: the engine refused a request, or a service did not become ready.
        NodeDied: a container ended.
    """
    if bed.parent:
        networks.require_parent(host, bed.parent)
        steps.say(f"warning: the lab uses {bed.parent}: every machine on that link sees the bed, and can reach it")
    _log.info("bring up bed %s %s: %d nodes, recorded in %s", bed.name, identity.id, len(bed.nodes), rundir.path)
    recorder = stack.enter_context(Recorder(rundir, statistics=statistics))
    stack.push(lambda _kind, error, _at: _take_down(host, identity, recorder, steps, error))
    with steps.step("make its networks"):
        plan, names = _networks(host, bed, identity, cpus)
        _give_way(host, identity)
        if bed.guests:  # last: only a bed that does not withdraw may take this network's name
            names = (*names, networks.make_guests(host, identity))
    for node in plan.nodes:
        rundir.save_config(node.name, node.files)
    with steps.step(f"start {len(plan.nodes)} nodes"):
        nodes = _start(host, plan, identity, names, recorder, cpus)
    running = RecordedBed(host=host, plan=plan, nodes=nodes, recorder=recorder, rundir=rundir)
    if {node.role for node in plan.nodes} >= {Role.RELAY, Role.SINK, Role.LOAD}:
        with steps.step("deliver a message"):
            domains = bed.domain_names
            running.deliver_first(list(dict.fromkeys([domains[0], random.choice(domains), domains[-1]])))
    return running


def _give_way(host: Host, identity: Identity) -> None:
    """Withdraw a bed that is meant to stay up if another command makes an older bed of the same name.

    Two commands that start at the same time both find no bed of the name. So each command looks again once its control
    network exists. This is before the choice of a subnet, which fails if the other bed took the definition's subnet.
    The engine lists only complete networks, so each command looks once more after it has made the lab network.

    Raises:
        Withdrawn: an older bed of the name exists.
    """
    beds = kept_beds(host, identity.bed) if identity.kind is Kind.UP else []
    if beds and beds[0].id != identity.id:
        raise Withdrawn(f"no other bed called {identity.bed}", f"bed {beds[0].id} of another command", "try again")


def _networks(host: Host, bed: Bed, identity: Identity, cpus: int) -> tuple[Plan, tuple[str, ...]]:
    """Make the control network and the lab; plan the bed for the lab's subnet."""
    control = networks.make_control(host, identity)
    with ThreadPoolExecutor(1) as pool:
        with shielded():  # the pool does not wait for a thread whose start was interrupted
            making = pool.submit(networks.make_parent, host, identity) if identity.private else None
        _give_way(host, identity)
        for _ in range(_TRIES):
            subnet = networks.choose_subnet(host, subnet_prefix(bed), bed.subnet)
            plan = make_plan(bed, subnet=subnet, cpus=cpus)
            parent = making.result() if making else bed.parent
            _log.info("take %s for the lab, on %s", subnet, parent or "a bridge")
            try:
                names = control, networks.make_lab(host, identity, parent, subnet)
            except SubnetTaken:
                continue
            return plan, names
    raise EngineFailed("a free subnet for the lab", f"other beds took {_TRIES} subnets meanwhile", "try again")


def _start(
    host: Host, plan: Plan, identity: Identity, names: tuple[str, ...], recorder: Recorder, cpus: int
) -> dict[str, RunningNode]:
    """Start all nodes in parallel, and wait for each node's readiness line.

    All containers are created before the first one starts: ``DeployedBed.made`` depends on it.
    """
    saved = {BED_FILE: saved_bed(plan, cpus)}
    published = {wiring.PUBLISHED: b""} if identity.published_at != LOOPBACK else {}
    authority = Authority(plan.bed.name)
    watches = {node.name: recorder.watch(node.name, services.service(node.service).ready) for node in plan.nodes}
    if mortal := [name for name, node in plan.bed.nodes.items() if node.may_end]:
        recorder.expect_end(*mortal)

    def start(name: str, container: Node) -> None:
        _log.info("start node %s", name)
        try:
            container.start()
        except EngineFailed as refused:
            if "net/ipv6" not in refused.found:
                raise
            raise HostCannot(
                "IPv6 in the kernel, for a bed with IPv6", refused.found, networks.ENABLE_IPV6
            ) from refused
        recorder.record(name, container)

    def labelled(node: NodePlan) -> ContainerSpec:
        return replace(
            container_spec(node, *names),
            name=identity.name(node.name),
            labels=identity.labels(node=node.name, service=node.service, neighbours=str(node.peers)),
            files={**node.files, **saved, **published, **certificates(authority, plan, node)},
            publish_at=identity.published_at,
        )

    with ThreadPoolExecutor(len(plan.nodes)) as pool:
        with shielded():
            creating = {n.name: pool.submit(host.create, labelled(n)) for n in plan.nodes}
        containers = {name: created.result() for name, created in creating.items()}
        with shielded():
            starting = [pool.submit(start, *node) for node in containers.items()]
        for started in starting:
            started.result()
    recorder.await_lines(list(watches.values()), READY_S)
    return {n.name: RunningNode(plan=n, container=containers[n.name], recorder=recorder) for n in plan.nodes}


def certificates(authority: Authority, plan: Plan, node: NodePlan) -> dict[str, bytes]:
    """Return the files of a node's certificate for its names, 127.0.0.1 and, if it accepts mail, the mail hosts."""
    takes_mail = services.service(node.service).takes_mail
    hosts = [f"mx.{delivery.domain}" for delivery in plan.deliveries[:_MOST_NAMES]] if takes_mail else []
    names = [f"{node.name}.{NODES}", node.name, "localhost", *hosts]
    own = authority.issue(names, [node.v4, twin(node.v4), IPv4Address("127.0.0.1")])
    return {wiring.CERTIFICATE: own, wiring.AUTHORITY: authority.certificate}


def container_spec(node: NodePlan, control: str, lab: str, guests: str | None = None) -> ContainerSpec:
    """Return the specification of a node's container on these networks, without labels."""
    invited = (Endpoint(network=guests, alias=node.name),) if guests and node.guests else ()
    return ContainerSpec(
        name=node.name,
        image=node.tag,
        command=node.command,
        labels={},
        networks=(Endpoint(network=control), Endpoint(network=lab, v4=str(node.v4)), *invited),
        hostname=node.name,
        capabilities=(*node.capabilities, *wiring.SETUP_CAPABILITIES),
        sysctls=node.sysctls,
        limits=node.limits,
        publish=node.publish,
        files=node.files,
    )


def _take_down(
    host: Host, identity: Identity, recorder: Recorder, steps: Progress, first: BaseException | None
) -> None:
    """Remove the bed, complete or not; signals are held back until it is removed.

    Raises the clean-up's error if ``first`` is None; otherwise adds this error to ``first`` as a note.
    """
    name = "take the bed down"
    if isinstance(first, Withdrawn):
        name = "withdraw: another command began first to bring this bed up"
    with shielded():
        try:
            with steps.step(name):
                recorder.expect_end()
                remove_id(host, identity.id, steps.say)
        except Exception as error:
            if first is None:
                raise
            found = error.found if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
            first.add_note(f"bed {identity.id} is not wholly removed: {found}; `testbed clean` tries again")
