"""testbed among testcontainers: a bed as a target of that library's wait strategies, single servers, its reaper."""

import os
import smtplib
import subprocess
import sys
from pathlib import Path

import dns.message
import dns.query
import httpx
import pytest
from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy, PortWaitStrategy

from orchestrator.errors import InvalidInput
from orchestrator.hosts import Host
from orchestrator.hosts.docker import api
from orchestrator.hosts.ownership import ID
from orchestrator.testing.containers import BindContainer, InboxContainer, MailBed, PostfixContainer

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120, func_only=True)]


@pytest.fixture(autouse=True)
def _without_ryuk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn the library's reaper off in this process; the tests of it start processes of their own."""
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)


def ryuk(engine: Host, *words: str) -> str:
    """Return the image of the stand-in for the library's reaper."""
    tag = f"testbed-tests/ryuk:{'-'.join(words) or 'speaking'}"
    command = ", ".join(f'"{word}"' for word in ("/opt/agents/bin/python", "/ryuk.py", *words))
    context = api.archive(
        {
            "Dockerfile": f"FROM testbed/agents:bookworm\nCOPY ryuk.py /\nCMD [{command}]\n".encode(),
            "ryuk.py": Path(__file__).with_name("ryuk.py").read_bytes(),
        }
    )
    list(engine.images.build(context, tag, {}, {}))
    return tag


def test_a_bed_is_a_target_of_wait_strategies_and_has_the_session_labels(real_engine: Host) -> None:
    with MailBed().waiting_for(PortWaitStrategy(25)) as bed:
        LogMessageWaitStrategy("daemon started").wait_until_ready(bed)
        assert (bed.get_container_host_ip(), bed.get_exposed_port(25)) == (bed.relay.host, bed.relay.port)
        assert httpx.get(f"http://127.0.0.1:{bed.get_exposed_port(8025)}/livez").status_code == 200
        with bed.running.relay.node.pause():
            bed.reload()
            assert bed.status == "paused"
        found = real_engine.find({ID: bed.id})
        assert {item.kind for item in found} == {"container", "network"}
        assert {item.labels[LABEL_SESSION_ID] for item in found} == {SESSION_ID}
    assert real_engine.find({ID: bed.id}) == []


def test_a_single_bind_answers_with_its_records_and_reaches_nobody() -> None:
    with BindContainer(bed={"records": {"www.example.com": {"A": ["192.0.2.1"]}}}) as server:
        question = dns.message.make_query("www.example.com", "A")
        host = server.get_container_host_ip()
        for answer in (
            dns.query.udp(question, host, port=server.get_udp_port(), timeout=5),
            dns.query.tcp(question, host, port=server.get_exposed_port(53), timeout=5),
        ):
            assert "192.0.2.1" in answer.answer[0].to_text()
        ip = server.get_wrapped_container().attrs["NetworkSettings"]
        gateway = next(iter(ip["Networks"].values()))["Gateway"] or "172.17.0.1"
        assert server.exec(["bash", "-c", f"exec 3<>/dev/tcp/{gateway}/22"]).exit_code != 0
        assert server.exec(["sh", "-c", "ip route show default"]).output == b""


@pytest.mark.parametrize("mode", [ConnectionMode.docker_host, ConnectionMode.gateway_ip])
def test_a_single_inbox_takes_mail_and_serves_its_api(monkeypatch: pytest.MonkeyPatch, mode: ConnectionMode) -> None:
    monkeypatch.setattr(testcontainers_config, "connection_mode_override", mode)
    with InboxContainer(settings={"rules": [{"to": "no@example.com", "then": "reject"}]}) as inbox:
        with smtplib.SMTP(inbox.get_container_host_ip(), inbox.get_exposed_port(25), timeout=10) as smtp:
            smtp.sendmail("ann@example.org", "bob@example.com", "Subject: hello\r\n\r\ntext\r\n")
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                smtp.sendmail("ann@example.org", "no@example.com", "Subject: hello\r\n\r\ntext\r\n")
        assert httpx.get(f"{inbox.get_url()}/api/messages").json()["messages"][0]["subject"] == "hello"
        bound = {one["HostIp"] for ports in inbox.get_wrapped_container().ports.values() for one in ports or ()}
        assert (bound == {"127.0.0.1"}) is (mode is ConnectionMode.docker_host)


def test_a_single_postfix_takes_mail_of_a_user_and_queues_it() -> None:
    with PostfixContainer(settings={"users": {"ann": "secret"}}) as relay:
        with smtplib.SMTP(relay.get_container_host_ip(), relay.get_exposed_port(587), timeout=10) as smtp:
            smtp.starttls()
            smtp.login("ann", "secret")
            smtp.sendmail("ann@example.org", "bob@example.com", "Subject: hello\r\n\r\ntext\r\n")
        assert b"bob@example.com" in relay.exec(["postqueue", "-p"]).output


def test_servers_of_one_network_have_names_in_it() -> None:
    with Network() as network, InboxContainer().with_network(network).with_network_aliases("mail") as inbox:
        client = DockerContainer("testbed/agents:bookworm").with_network(network)
        script = "import smtplib; smtplib.SMTP('mail').sendmail('a@example.org', 'b@example.com', 'Subject: x\\n\\n')"
        with client.with_command(["/opt/agents/bin/python", "-c", script]) as sent:
            assert sent.get_wrapped_container().wait()["StatusCode"] == 0
        assert httpx.get(f"{inbox.get_url()}/api/messages").json()["total"] == 1


def test_a_server_that_no_bed_could_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match="main_cf"):
        PostfixContainer(settings={"main_cf": {"a b": "c"}})


@pytest.mark.parametrize(("words", "joins"), [((), True), (("silent",), False)])
def test_the_librarys_reaper_takes_part_if_it_acknowledges(
    real_engine: Host, words: tuple[str, ...], *, joins: bool
) -> None:
    script = """
import logging; logging.basicConfig()
from orchestrator.hosts.ownership import this_process
from orchestrator.testing.containers import joined_reaper
print(joined_reaper(this_process()) is not None)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "RYUK_CONTAINER_IMAGE": ryuk(real_engine, *words), "TESTCONTAINERS_RYUK_DISABLED": "false"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"{joins}\n", done.stderr
    assert ("does not take part" in done.stderr) is not joins


def test_a_reaper_that_cannot_start_does_not_hold_a_bed_up() -> None:
    script = """
import logging; logging.basicConfig()
from orchestrator.testing.containers import joined_reaper
print(joined_reaper("nobody"))
"""
    environment = {"RYUK_CONTAINER_IMAGE": "127.0.0.1:1/no/ryuk:1", "TESTCONTAINERS_RYUK_DISABLED": "false"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "None\n", done.stderr
    assert "does not take part" in done.stderr
