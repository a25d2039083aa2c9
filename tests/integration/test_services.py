"""The services as a bed starts them, on the default Debian release, the oldest and, in `make test-all`, the newest."""

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.reversename
import pytest

from orchestrator import services
from orchestrator.agents.contract import LoadOrder
from orchestrator.bed import zones
from orchestrator.bed.addressing import Delivery
from orchestrator.bed.model import parse_bed
from orchestrator.errors import NodeDied
from orchestrator.hosts import Host, docker, images
from orchestrator.hosts.ownership import ID, NODE, Identity, Kind
from orchestrator.measurements.rundir import RunDir
from orchestrator.services import RelayLog, Role
from orchestrator.services.bind import DIRECTORY
from orchestrator.up.bed import RecordedBed
from orchestrator.up.bringup import bring_up

pytestmark = pytest.mark.docker

DOMAINS = 16
"""A full block: the last domain has the last address of the slice."""
CAPABILITIES = {
    0: "CHOWN",
    1: "DAC_OVERRIDE",
    3: "FOWNER",
    5: "KILL",
    6: "SETGID",
    7: "SETUID",
    10: "NET_BIND_SERVICE",
}
"""Bits of /proc/PID/status (linux/capability.h)."""


class Silent:
    """Nobody watches."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []

    def step(self, _name: str) -> AbstractContextManager[None]:
        """Enclose one step."""
        return nullcontext()

    def say(self, _text: str) -> None:
        """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """A bed that is up."""

    running: RecordedBed
    id: str

    def shell(self, role: Role, script: str) -> str:
        """Run a shell script in a node, with the rights of its service; return what it prints, on either stream."""
        done = self.running.role(role).exec("sh", "-euc", f"exec 2>&1; {script}")
        assert done.status == 0, done.stdout
        return done.stdout

    def ask(self, name: str | dns.name.Name, kind: str, *, tcp: bool = False) -> dns.message.Message:
        """Ask the DNS node through its published port."""
        node = self.running.role(Role.DNS).name
        (found,) = (f for f in self.running.host.find({ID: self.id, NODE: node}) if f.ports)
        query = dns.message.make_query(name, kind)
        if tcp:
            return dns.query.tcp(query, "127.0.0.1", port=found.ports["53/tcp"], timeout=5)
        return dns.query.udp(query, "127.0.0.1", port=found.ports["53/udp"], timeout=5)

    def answer(self, name: str | dns.name.Name, kind: str) -> list[str]:
        """Return the records of an authoritative answer."""
        said = self.ask(name, kind)
        assert said.rcode() == dns.rcode.NOERROR
        assert said.flags & dns.flags.AA
        return [r.to_text() for rrset in said.answer for r in rrset if rrset.rdtype == dns.rdatatype.from_text(kind)]

    @property
    def some(self) -> list[Delivery]:
        """The first domain, the last one and one between."""
        every = self.running.plan.deliveries
        return [every[0], every[-1], random.choice(every[1:-1])]

    def relay_log(self, since: float) -> RelayLog:
        """Read what the relay has printed since then (Unix time)."""
        lines = self.running.relay.node.log()
        read = services.service("postfix").read_log((line.t, line.text) for line in lines if line.t >= since)
        assert read
        return read


RELEASES = [
    pytest.param(release, marks=() if release in {images.DEFAULT_RELEASE, "bullseye"} else pytest.mark.all_releases)
    for release in images.RELEASES
]


@pytest.fixture(scope="module")
def engine() -> Host:
    return docker.connect()


def up(engine: Host, stack: ExitStack, runs: Path, nodes: dict[str, Any]) -> Up:
    bed = parse_bed({"name": "services", "domains": DOMAINS, "nodes": nodes}, "bed")
    rundir = RunDir.create(runs, "services")
    identity = Identity.new(bed, Kind.RUN)
    running = bring_up(engine, bed, identity, rundir=rundir, steps=Silent(), stack=stack, cpus=2)
    return Up(running=running, id=identity.id)


@pytest.fixture(scope="module", params=RELEASES)
def bed(request: pytest.FixtureRequest, engine: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    release = request.param
    images.ensure(engine, [("bind", release), ("postfix", release)], print)
    nodes = {
        "dns": {"service": "bind", "release": release},
        "sink": {"service": "blackhole"},
        "relay": {"service": "postfix", "release": release, "settings": {"main_cf": {"default_process_limit": 77}}},
        "load": {"service": "smtp-load"},
    }
    with ExitStack() as stack:
        yield up(engine, stack, tmp_path_factory.mktemp("runs"), nodes)


# -------------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("role", [Role.DNS, Role.RELAY, Role.SINK, Role.LOAD])
def test_a_daemon_holds_the_rights_that_its_service_names_and_no_others(bed: Up, role: Role) -> None:
    status = dict(line.split(":\t", 1) for line in bed.shell(role, "cat /proc/1/status").splitlines() if ":\t" in line)
    bounds = int(status["CapBnd"], 16)
    named = {name for bit, name in CAPABILITIES.items() if bounds >> bit & 1}
    assert named == set(bed.running.role(role).plan.capabilities)
    assert bounds.bit_count() == len(named)
    assert int(status["CapEff"], 16) & ~bounds == 0
    assert status["NoNewPrivs"] == "1"


def test_every_delivery_address_is_answered_in_both_families(bed: Up) -> None:
    addresses = " ".join(f"{d.v4} {d.v6}" for d in bed.some)
    code = "import socket, sys; [print(socket.create_connection((a, 25), 5).recv(99)[:3]) for a in sys.argv[1:]]"
    assert bed.shell(Role.LOAD, f"/opt/agents/bin/python -c '{code}' {addresses}").split() == ["b'220'"] * 6


# ------------------------------------------------------------------------------------------------------------- bind


def test_the_tools_of_bind_find_nothing_to_say(bed: Up) -> None:
    checked = bed.shell(Role.DNS, f"named-checkconf -z {DIRECTORY}/named.conf").splitlines()
    files = [Path(path).name for path in bed.running.role(Role.DNS).plan.files if path.endswith(".zone")]
    assert len(checked) == len(files) == 4
    assert all(re.fullmatch(r"zone \S+/IN: loaded serial \d+", line) for line in checked)
    for file in files:
        said = bed.shell(Role.DNS, f"named-checkzone {zones.origin(file)} {DIRECTORY}/{file}").splitlines()
        assert (len(said), said[-1]) == (2, "OK")


def test_named_answers_for_every_domain_and_its_addresses_point_back(bed: Up) -> None:
    for delivery in bed.some:
        host = f"mx.{delivery.domain}."
        assert bed.answer(delivery.domain, "MX") == [f"10 {host}"]
        for name in (delivery.domain, host):
            assert bed.answer(name, "A") == [str(delivery.v4)]
            assert bed.answer(name, "AAAA") == [str(delivery.v6)]
        for address in (delivery.v4, delivery.v6):
            assert bed.answer(dns.reversename.from_address(str(address)), "PTR") == [host]
    assert bed.ask("d0.test", "MX", tcp=True).answer == bed.ask("d0.test", "MX").answer


def test_named_answers_on_its_service_addresses_and_no_others(bed: Up) -> None:
    node = bed.running.role(Role.DNS)
    six = bed.answer(f"{node.name}.nodes.test", "AAAA")[0]
    for server in (str(node.plan.v4), six):
        assert bed.shell(Role.DNS, f"dig +short @{server} d0.test MX") == "10 mx.d0.test.\n"
    refused = node.exec("dig", "+tcp", "+time=1", "+tries=1", "@127.0.0.1", "d0.test")
    assert "connection refused" in refused.stdout + refused.stderr


def test_what_the_bed_does_not_know_nobody_knows(bed: Up) -> None:
    for name in ("com", "example.com", "nosuch.test", "version.bind"):
        said = bed.ask(name, "A")
        assert (said.rcode(), said.answer) == (dns.rcode.NXDOMAIN, [])
        assert not said.flags & dns.flags.RA


def test_rndc_works_inside_the_node(bed: Up) -> None:
    assert "server is up and running" in bed.shell(Role.DNS, "rndc status")


# ---------------------------------------------------------------------------------------------------------- postfix


def test_postfix_has_no_complaint_about_its_configuration(bed: Up) -> None:
    assert bed.shell(Role.RELAY, "{ postconf -n; postconf -M; postconf -P; } >/dev/null") == ""
    words = r"warning|fatal|panic|error|denied|not permitted|compatib"
    assert not re.search(words, bed.shell(Role.RELAY, "postfix check"))  # trixie's tells which files it copies
    log = bed.running.relay.node.log()
    assert [line.text for line in log if re.search(words, line.text) and "connect to" not in line.text] == []


def test_an_override_of_the_bed_file_is_what_postfix_runs_with(bed: Up) -> None:
    assert bed.shell(Role.RELAY, "postconf -h default_process_limit") == "77\n"


def test_the_log_of_a_relay_tells_of_every_delivery(bed: Up) -> None:
    since = time.time()
    removed = bed.running.recorder.watch("relay", r": removed$")
    bed.running.deliver_first([bed.some[0].domain])
    bed.running.recorder.await_lines([removed], 10)
    log = bed.relay_log(since)
    assert log.statuses == {"sent": 1}
    assert [hop.get_total_count() for hop in log.hops.values()] == [1] * 4
    assert [length for _, length in log.queue][-1] == 0
    assert log.troubles == []


def test_mail_that_waits_is_counted_and_its_trouble_told(bed: Up) -> None:
    since = time.time()
    deaf = bed.running.role(Role.DNS).plan.v4
    deferred = bed.running.recorder.watch("relay", r"status=deferred")
    bed.shell(Role.RELAY, f"echo body | sendmail 'user@[{deaf}]'")
    bed.running.recorder.await_lines([deferred], 10)
    assert bed.running.relay.queue_length() == 1
    log = bed.relay_log(since)
    assert log.statuses == {"deferred": 1}
    assert {(trouble.reason, trouble.count) for trouble in log.troubles} == {
        ("smtp: connect to HOST: Connection refused", 1), ("deferred: connect to HOST: Connection refused", 1)
    }  # fmt: skip
    bed.shell(Role.RELAY, "postsuper -d ALL")
    assert bed.running.relay.queue_length() == 0


def test_loads_leave_no_thread_behind(bed: Up) -> None:
    before = set(threading.enumerate())
    for number in range(3):
        sent = bed.running.send(f"load-{number}", LoadOrder(messages=5, connections=2))
        assert sent.report.accepted == 5
        sent.drain(30)
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()


def test_a_parameter_that_postfix_does_not_know_ends_it_at_once(engine: Host, tmp_path: Path) -> None:
    relay = {"service": "postfix", "settings": {"main_cf": {"in_flow_dealy": "0"}}}
    with ExitStack() as stack, pytest.raises(NodeDied, match="unused parameter: in_flow_dealy=0") as ended:
        up(engine, stack, tmp_path, {"relay": relay})
    assert ended.value.exit_status == 78


@pytest.mark.parametrize(
    ("settings", "main_cf", "said"),
    [
        ({"in_flow_dealy": "0"}, "compatibility_level = 3.6\nmine = 1\n", "unused parameter: in_flow_dealy=0"),
        ({}, "virtual_alias_maps = hash:/etc/postfix/virtual\n", "the node has no file /etc/postfix/virtual"),
        ({}, "smtpd_banner $myhostname\n", "missing '=' after attribute name"),
    ],
    ids=["slip of the bed file", "table without source", "no main.cf"],
)
def test_a_main_cf_of_the_users_own_that_cannot_work_ends_the_relay_at_once(
    engine: Host, tmp_path: Path, settings: dict[str, str], main_cf: str, said: str
) -> None:
    relay = {"service": "postfix", "settings": {"main_cf": settings}, "files": {"/etc/postfix/main.cf": main_cf}}
    with ExitStack() as stack, pytest.raises(NodeDied, match=re.escape(said)) as ended:
        up(engine, stack, tmp_path, {"relay": relay})
    assert ended.value.exit_status == 78


# --------------------------------------------------------------------------------------------------- the first process

_ORPHAN = """
orphan=$(sh -c 'sleep 0.05 > /dev/null & echo $!')
for _ in $(seq 100); do
    [ -e /proc/$orphan ] || exit 0
    sleep 0.05
done
exit 1
"""
"""A child that outlives its parent is the first process's: where that does not reap it, it stays as a zombie."""


@pytest.mark.parametrize(("name", "service", "status"), [("load", "smtp-load", 0), ("relay", "postfix", 0)])
def test_the_first_process_reaps_orphans_and_ends_when_told_to(
    engine: Host, tmp_path: Path, name: str, service: str, status: int
) -> None:
    with ExitStack() as stack:
        running = up(engine, stack, tmp_path, {name: {"service": service}}).running
        node = running.nodes[name]
        reaped = node.exec("sh", "-euc", _ORPHAN)
        assert reaped.status == 0, reaped
        node.expect_end()
        node.exec("sh", "-c", "kill 1")
        assert node.container.wait() == status
