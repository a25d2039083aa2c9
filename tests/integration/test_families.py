"""Beds of one address family, and a host without IPv6: mail goes, and only as it should."""

import json
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bed import wiring
from orchestrator.bed.model import Bed, parse_bed
from orchestrator.errors import HostCannot
from orchestrator.hosts import ContainerSpec, Host, capacity
from orchestrator.hosts.docker import api
from orchestrator.hosts.ownership import ID, NODE, Identity, Kind
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import make_plan
from orchestrator.services import Role
from orchestrator.up.bed import RecordedBed
from orchestrator.up.bringup import bring_up

pytestmark = pytest.mark.docker

_AF_INET6, _EAFNOSUPPORT = 10, 97
_NO_IPV6 = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": _EAFNOSUPPORT,
            "args": [{"index": 0, "value": _AF_INET6, "op": "SCMP_CMP_EQ"}],
        }
    ],
}
"""A seccomp profile: socket(2) knows no AF_INET6."""


class Silent:
    """Nobody watches."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []

    def step(self, _name: str) -> AbstractContextManager[None]:
        """Enclose one step."""
        return nullcontext()

    def say(self, _text: str) -> None:
        """Tell nobody."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for a host that was booted with ipv6.disable=1: what a container sees and may of IPv6 is taken away.

    Unlike there, the kernel does know the sysctls, so that a container with one starts.
    """
    whole = api.host_config

    def masked(spec: ContainerSpec) -> dict[str, Any]:
        config = whole(spec)
        config["SecurityOpt"] = [*config["SecurityOpt"], f"seccomp={json.dumps(_NO_IPV6)}"]
        config["MaskedPaths"] = ["/proc/sys/net/ipv6", "/proc/net/if_inet6", "/proc/net/tcp6", "/proc/net/udp6"]
        return config

    monkeypatch.setattr(api, "host_config", masked)


def relay_bed(families: str, **main_cf: str) -> Bed:
    nodes = {
        "dns": {"service": "bind"},
        "sink": {"service": "blackhole"},
        "relay": {"service": "postfix", "settings": {"main_cf": main_cf}},
        "load": {"service": "smtp-load"},
    }
    return parse_bed({"name": "families", "families": families, "domains": 4, "nodes": nodes}, "bed")


def up(engine: Host, bed: Bed, stack: ExitStack, runs: Path) -> tuple[str, RecordedBed]:
    """Bring a bed up: with that, a message to its domains has been delivered."""
    rundir = RunDir.create(runs, "families")
    identity = Identity.new(bed, Kind.RUN)
    running = bring_up(engine, bed, identity, rundir=rundir, steps=Silent(), stack=stack, cpus=2)
    return identity.id, running


def greeting(engine: Host, bed: str, node: str) -> bytes:
    """Return what the published port 25 of a node says first."""
    (found,) = (f for f in engine.find({ID: bed, NODE: node}) if f.ports)
    with socket.create_connection(("127.0.0.1", found.ports["25/tcp"]), timeout=10) as client:
        return client.recv(3)


def delivered_to(running: RecordedBed) -> set[str]:
    """Return the families of the addresses that the relay delivered to."""
    relay = running.relay.node
    assert relay.wait_for_log("status=sent", 10), "the sink has the mail, and the relay has yet to log it"
    lines = [line.text for line in relay.log()]
    hosts = [line.partition("relay=mx.")[2].partition("[")[2] for line in lines if "status=sent" in line]
    return {"v6" if host.startswith("2001:2:") else "v4" for host in hosts}


@pytest.mark.usefixtures("without_ipv6")
def test_a_host_without_ipv6_carries_a_bed_with_ipv4_only(real_engine: Host, stack: ExitStack, tmp_path: Path) -> None:
    bed, running = up(real_engine, relay_bed("v4"), stack, tmp_path)
    assert delivered_to(running) == {"v4"}
    assert [greeting(real_engine, bed, node) for node in ("relay", "sink")] == [b"220", b"220"]
    load = running.role(Role.LOAD)
    refused = load.exec("perl", "-MSocket", "-e", "socket(my $s, AF_INET6, SOCK_STREAM, 0) or die $!")
    assert "not supported" in refused.stderr, "the stand-in has IPv6"


@pytest.mark.usefixtures("without_ipv6")
def test_a_host_without_ipv6_is_told_what_to_do(real_engine: Host) -> None:
    readings = capacity.read(real_engine)
    both, v4 = (make_plan(relay_bed(families), cpus=2).needs for families in ("both", "v4"))
    capacity.require(capacity.check(readings, v4))
    with pytest.raises(HostCannot, match="families: v4"):
        capacity.require(capacity.check(readings, both))


def test_an_engine_that_knows_no_ipv6_setting_is_a_host_that_cannot(
    real_engine: Host, monkeypatch: pytest.MonkeyPatch, stack: ExitStack, tmp_path: Path
) -> None:
    """The setting that does not exist stands in for those that do not exist without IPv6."""
    monkeypatch.setattr(wiring, "SYSCTLS_V6", {"net.ipv6.conf.all.no_such_setting": "0"})
    with pytest.raises(HostCannot, match="families: v4"):
        up(real_engine, relay_bed("both"), stack, tmp_path)


@pytest.mark.parametrize(
    ("families", "main_cf", "went"), [("v6", {}, {"v6"}), ("both", {"inet_protocols": "ipv4"}, {"v4"})]
)
def test_mail_goes_over_the_family_that_was_chosen(
    real_engine: Host, stack: ExitStack, tmp_path: Path, families: str, main_cf: dict[str, str], went: set[str]
) -> None:
    bed, running = up(real_engine, relay_bed(families, **main_cf), stack, tmp_path)
    running.deliver_first(running.plan.bed.domain_names)
    assert delivered_to(running) == went
    assert greeting(real_engine, bed, "relay") == b"220"
    relay, sink = running.relay.node, running.sink.node
    tried = relay.exec("perl", "-MIO::Socket::INET", "-e", f"IO::Socket::INET->new('{sink.plan.v4}:25') or die $!")
    assert (tried.status == 0) == (families != "v6"), tried
