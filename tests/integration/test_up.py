"""A bed that stays up on the real engine: asked, used, sent mail to from the host, and taken down."""

import json
import os
import pty
import secrets
import signal
import smtplib
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.reversename
import pytest

from orchestrator.agents.wire import Composer
from orchestrator.bed.addressing import twin
from orchestrator.bed.model import read_bed
from orchestrator.cli.progress import Steps
from orchestrator.hosts import Host, cleaning
from orchestrator.services.agents import PYTHON
from orchestrator.up import keep
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.command import TESTBED, answer, call
from tests.integration.traces import DEVICES

pytestmark = pytest.mark.docker

NODES = ("dns", "sink", "relay", "load")


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


def commands(engine: Host, container: str) -> str:
    """Return the arguments of every process in a container."""
    return engine.node(container).exec(("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout


def test_a_process_that_goes_on_and_every_other_find_the_bed_that_it_brought_up(
    real_engine: Host, tmp_path: Path
) -> None:
    file = tmp_path / "bed.yaml"
    file.write_text(f"name: test-{secrets.token_hex(4)}\ndomains: 2\nnodes: {{dns: {{service: bind}}}}\n", "utf-8")
    bed = read_bed(file)
    steps = Steps()
    first = keep.up(real_engine, bed, runs=tmp_path, steps=steps)
    try:
        assert keep.up(real_engine, bed, runs=tmp_path, steps=steps).id == first.id
        assert answer("up", file)["id"] == first.id
    finally:
        cleaning.remove(real_engine, first, print)


def test_an_interrupted_exec_ends_its_command_in_the_node(relay_bed: Up, real_engine: Host) -> None:
    container, mark = relay_bed.container("load"), f"333.{secrets.randbelow(10**6)}1"
    words = ("exec", "--timeout", "600", "--bed", relay_bed.id, "load", "--", "sleep", mark)
    with subprocess.Popen([TESTBED, *words], text=True, stderr=subprocess.PIPE) as command:
        until = time.monotonic() + 20
        while mark not in commands(real_engine, container):
            assert time.monotonic() < until
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=20)
    assert (command.returncode, "nothing was left behind" in said) == (130, True), said
    assert mark not in commands(real_engine, container)


def test_an_exec_that_takes_too_long_shows_what_it_printed(relay_bed: Up) -> None:
    done = call(
        "exec", "--timeout", "0.5", "--bed", relay_bed.id, "load", "--", "sh", "-c", "echo a; echo b >&2; sleep 9"
    )
    assert (done.returncode, done.stdout) == (5, "a\n")
    assert done.stderr.startswith("b\nneeded: sh -c")
    assert "--timeout" in done.stderr


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
