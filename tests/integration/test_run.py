"""The whole path on the real engine: a run from the command to its report, and a bed that stays up."""

import json
import os
import pty
import re
import secrets
import smtplib
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.reversename
import pytest

from orchestrator.agents.contract import LoadOrder
from orchestrator.agents.wire import Composer
from orchestrator.bed.addressing import twin
from orchestrator.bed.model import parse_bed
from orchestrator.cli.progress import Steps
from orchestrator.hosts import Host
from orchestrator.hosts.ownership import Kind
from orchestrator.measurements import Latency, Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.services import Role
from orchestrator.services.agents import PYTHON
from orchestrator.up.bringup import bring_up as bring_up_here
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.command import TESTBED, Watched, answer, call
from tests.integration.traces import DEVICES, traces

pytestmark = [pytest.mark.docker, pytest.mark.alone]

NODES = ("dns", "sink", "relay", "load")
LOADS = ("calibration", "calibration-single", "relay")
DOMAINS = 50


# ------------------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A run that has ended."""

    code: int
    stdout: str
    stderr: str
    rundir: RunDir
    ids: frozenset[str]

    @property
    def summary(self) -> dict[str, Any]:
        """What it printed for a script."""
        printed: dict[str, Any] = json.loads(self.stdout)
        return printed


def run(engine: Host, runs: Path, *words: str) -> Done:
    """Run the scenario at a small size to its end."""
    going = Watched(
        engine, runs, "--domains", str(DOMAINS), "--calibration", "1", "--probe", "1", "--format", "json", *words
    )
    going.until(lambda run: len(run.nodes) == len(NODES))
    code = going.end()
    assert going.rundir
    return Done(code=code, stdout=going.output(), stderr=going.said, rundir=going.rundir, ids=frozenset(going.ids))


@pytest.fixture(scope="module")
def done(real_engine: Host, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(real_engine, tmp_path_factory.mktemp("runs"), "--seconds", "3")


def test_a_run_is_confirmed_and_every_message_is_accounted_for(done: Done) -> None:
    assert done.code == 0, done.stderr + done.stdout
    assert done.summary["verdict"]["outcome"] == "CONFIRMED"
    for load in LOADS:
        account = done.summary["accounting"][load]
        assert account["offered"] == account["accepted"] == account["delivered"] > DOMAINS
        wrong = ("refused", "unresolved", "lost", "duplicated", "corrupted", "misrouted", "foreign", "unaccepted")
        assert {fate: account[fate] for fate in wrong} == dict.fromkeys(wrong, 0), load
    domains = {load: Measurements.read(done.rundir).sinks[load].domains for load in LOADS}
    assert domains == dict.fromkeys(LOADS, DOMAINS)


def test_its_run_directory_is_complete(done: Done) -> None:
    facts = done.rundir.load()
    assert (facts["status"], facts["error"]) == ("finished", None)
    assert facts["plan"]["domains"] == DOMAINS
    assert facts["environment"]["engine"]["kernel"]
    names = [phase["name"] for phase in facts["phases"]]
    assert names[:4] == ["probe-20", "probe-20 drain", "probe-40", "probe-40 drain"]
    assert [name for name in names if not name.startswith("probe-")] == [*LOADS, "drain"]
    assert facts["steps"][-1]["name"] == "take the bed down"
    for node in facts["plan"]["nodes"]:
        for path, file in node["files"].items():
            kept = done.rundir.path / "config" / node["name"] / path.lstrip("/")
            assert kept.stat().st_size == file["bytes"]
    assert done.rundir.logs() == sorted(NODES)
    assert all(list(done.rundir.log(node)) for node in NODES)
    for series in ("load", "sink"):
        assert {tick["phase"] for tick in done.rundir.series(series) if not tick["phase"].startswith("probe-")} == set(
            LOADS
        )
    assert done.rundir.series("recorder") == []
    for load in LOADS:
        assert set(done.summary["latency_ms"][load]) == {"response", "service", "connect", "transit", "age"}
    assert len(done.summary["hops_ms"]) == 4
    report = (done.rundir.path / "report.html").read_text(encoding="utf-8")
    assert "CONFIRMED" in report
    assert not re.search(r'(src|href)="(https?:)?//', report)


@pytest.mark.parametrize("node", NODES)
def test_every_node_is_read_once_a_second_from_the_first_load_to_the_last(done: Done, node: str) -> None:
    times = [point["t"] for point in done.rundir.series("stats") if point["node"] == node]
    phases = done.rundir.load()["phases"]
    assert times[0] < phases[0]["start"] + 1
    assert times[-1] > phases[-1]["end"] - 2
    # The engine counts a second from the end of one reading to the start of the next.
    assert statistics.median(b - a for a, b in pairwise(times)) < 1.1


def test_the_relay_delivers_over_both_families(done: Done) -> None:
    subnet = done.rundir.load()["plan"]["mail"].rpartition(".")[0]
    reached = [m[1] for _, text in done.rundir.log("relay") if (m := re.search(r"relay=mx\S+?\[(.+?)\]:25", text))]
    assert any(a.startswith("2001:2:") for a in reached)
    assert any(a.startswith(subnet) for a in reached)


def test_a_run_leaves_nothing_over(real_engine: Host, done: Done) -> None:
    assert len(done.ids) >= 1
    assert traces(real_engine, done.ids) == []


def test_a_run_is_judged_the_same_again_without_an_engine(done: Done) -> None:
    report = done.rundir.path / "report.html"
    report.unlink()
    again = call("analyze", done.rundir.path, "--format", "json", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert (again.returncode, again.stderr) == (done.code, "")
    assert json.loads(again.stdout)["verdict"] == done.summary["verdict"]
    assert report.is_file()


def test_a_rate_is_kept_and_judged(real_engine: Host, tmp_path: Path) -> None:
    slow = run(real_engine, tmp_path, "--seconds", "3", "--rate", "50")
    account = slow.summary["accounting"]["relay"]
    assert account["offered"] == account["accepted"] == account["delivered"] == pytest.approx(150, abs=1)
    evidence = {e["fact"]: e["holds"] for e in slow.summary["verdict"]["evidence"]}
    if evidence["messages started over 10 ms late"]:
        assert (slow.code, slow.summary["verdict"]["outcome"]) == (0, "CONFIRMED")
        assert slow.summary["verdict"]["claim"].startswith("This relay carries the offered 50 messages a second: half")
    else:  # a busy machine: the instrument says so
        assert (slow.code, slow.summary["verdict"]["marks"][0]) == (3, "instrument-bound")


# ------------------------------------------------------------------------------------------------ what is known before


def test_a_known_delay_is_measured_as_such(real_engine: Host, tmp_path: Path) -> None:
    delay_ms = 100
    bed = parse_bed(
        {
            "name": "delay",
            "domains": 20,
            "nodes": {
                "sink": {"service": "blackhole", "settings": {"data_delay_ms": delay_ms}},
                "load": {"service": "smtp-load"},
            },
        },
        "bed",
    )
    rundir = RunDir.create(tmp_path, "delay")
    with Steps() as steps, ExitStack() as stack:
        identity, running = bring_up_here(
            real_engine, bed, kind=Kind.RUN, rundir=rundir, steps=steps, stack=stack, cpus=2
        )
        report = running.send("delayed", LoadOrder(rate=60.0, seconds=3.0), to=Role.SINK).report
    service = Latency.decode(report.service or "")
    assert service
    assert service.count == report.offered == pytest.approx(180, abs=1)
    assert delay_ms <= 1000 * service.at(50) <= delay_ms + 10
    assert traces(real_engine, [identity.id]) == []


# ------------------------------------------------------------------------------------------------- a bed that stays up


def on_a_terminal(*words: str) -> str:
    """Run the command on a terminal, and return what it shows there."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb") as shown:
        with subprocess.Popen([TESTBED, *words], stdin=theirs, stdout=theirs, stderr=theirs) as command:
            os.close(theirs)
            assert command.wait(60) == 0
        return shown.read1().decode()


def test_a_bed_goes_up_is_used_and_goes_down(real_engine: Host) -> None:
    bed = bring_up("relay", "--domains", "8")
    try:
        assert (bed.facts["kind"], bed.facts["state"]) == ("up", "running")
        assert sorted(bed.nodes) == sorted(NODES)
        assert {**bed.facts, "open": [], "not_looked_at": []} in answer("ps")
        assert bed.id in call("ps").stdout
        assert bed.id in {kept["id"] for kept in answer("clean")["kept"]}

        assert "daemon started" in call("logs", "--bed", bed.id, "relay").stdout
        lines = [
            json.loads(line) for line in call("logs", "--bed", bed.id, "dns", "--format", "json").stdout.splitlines()
        ]
        assert any(line["text"].endswith(" running") for line in lines)
        assert all(abs(time.time() - line["t"]) < 300 for line in lines)

        queue = call("exec", "--bed", bed.id, "relay", "--", "postqueue", "-p")
        assert (queue.returncode, queue.stdout) == (0, "Mail queue is empty\n")
        failed = call("exec", "--bed", bed.id, "load", "--", "sh", "-c", "echo here; echo there >&2; exit 7")
        assert (failed.returncode, failed.stdout, failed.stderr) == (7, "here\n", "there\n")

        used = answer("stats", bed.id)
        assert set(used) == set(NODES)
        assert all(use["memory_b"] > 0 and use["pids"] > 0 for use in used.values())

        words = ["exec", "--bed", bed.id, "load", "--", "printf", r"\033]0;title\007"]
        assert call(*words).stdout == "\x1b]0;title\x07"
        assert on_a_terminal(*words) == r"\x1b]0;title\x07"

        call("exec", "--bed", bed.id, "load", "--", "sh", "-c", "kill 1")
        assert real_engine.node(bed.container("load")).wait() == 0
        left = answer("stats", bed.id)
        assert {name for name, use in left.items() if use["state"] == "running"} == set(NODES) - {"load"}
        assert left["load"] == dict.fromkeys(used["load"]) | {"state": "exited"}
        refused = call("exec", "--bed", bed.id, "load", "--", "true")
        assert (refused.returncode, "it is exited" in refused.stderr) == (5, True)
    finally:
        bring_down(real_engine, bed)
    assert bed.id not in {other["id"] for other in answer("ps")}
    assert not list(DEVICES.glob(f"tb{bed.id}*"))
    gone = call("down", bed.id)
    assert gone.returncode == 2
    assert "found:" in gone.stderr


@pytest.fixture
def sink_log(relay_bed: Up) -> Iterator[subprocess.Popen[str]]:
    following = subprocess.Popen(
        [TESTBED, "logs", "--bed", relay_bed.id, "--follow", "sink"], stdout=subprocess.PIPE, text=True
    )
    yield following
    following.terminate()
    following.communicate(timeout=10)


def test_mail_from_the_host_arrives_at_the_sink(relay_bed: Up, sink_log: subprocess.Popen[str]) -> None:
    sent, domains = secrets.token_hex(4), ["d0.test", "d39.test", "d3.test"]
    users = ["user", '"quoted local.>@\\""', "user"]
    ports = [relay_bed.port(node, "25/tcp") for node in ("relay", "relay", "sink")]

    def control(*words: str) -> dict[str, Any]:
        said = relay_bed.exec("sink", *PYTHON, "-m", "orchestrator.agents.control", *words)
        assert said.status == 0, said.stderr
        heard: dict[str, Any] = json.loads(said.stdout)
        return heard

    control("expect", sent, str(len(domains)))
    letters = Composer(sent, "host@d0.test", domains, [512])
    for i, (domain, local, port) in enumerate(zip(domains, users, ports, strict=True)):
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as server:
            now = time.monotonic_ns()
            assert server.sendmail("host@d0.test", [f"<{local}@{domain}>"], letters.letter(i, i, now, now)) == {}
    assert sink_log.stdout
    assert any(f'"{sent}"' in line and "complete" in line for line in sink_log.stdout)
    report = control("report", sent)
    counts = {"delivered": 3, "duplicated": 0, "corrupted": 0, "misrouted": 0, "domains": 2, "outside": 1}
    assert {name: report[name] for name in counts} == counts


# ---------------------------------------------------------------------------------------------------------------- DNS


def ask(bed: Up, name: str, kind: str) -> dns.message.Message:
    """Ask the bed's DNS from the host, over UDP and TCP; both say the same."""
    query = dns.message.make_query(name, kind)
    said = [
        dns.query.udp(query, "127.0.0.1", port=bed.port("dns", "53/udp"), timeout=10),
        dns.query.tcp(query, "127.0.0.1", port=bed.port("dns", "53/tcp"), timeout=10),
    ]
    assert said[0] == said[1]
    assert not said[0].flags & dns.flags.RA
    return said[0]


def records(bed: Up, name: str, kind: str) -> list[str]:
    said = ask(bed, name, kind)
    assert said.rcode() == dns.rcode.NOERROR
    assert said.flags & dns.flags.AA
    return [item.to_text() for rrset in said.answer for item in rrset]


@pytest.mark.parametrize("domain", ["d0.test", "d39.test"])
def test_the_dns_answers_for_a_domain(relay_bed: Up, domain: str) -> None:
    host = f"mx.{domain}."
    assert records(relay_bed, domain, "MX") == [f"10 {host}"]
    (v4,) = records(relay_bed, host, "A")
    assert IPv4Address(v4) in relay_bed.subnet
    assert records(relay_bed, host, "AAAA") == [str(twin(IPv4Address(v4)))]
    for address in (v4, str(twin(IPv4Address(v4)))):
        assert records(relay_bed, dns.reversename.from_address(address).to_text(), "PTR") == [host]


@pytest.mark.parametrize("name", ["example.com", "d40.test", "1.0.0.127.in-addr.arpa", "com"])
def test_the_dns_denies_every_other_name(relay_bed: Up, name: str) -> None:
    said = ask(relay_bed, name, "A")
    assert (said.rcode(), said.answer) == (dns.rcode.NXDOMAIN, [])
