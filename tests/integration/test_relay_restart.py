"""The restart of the relay: its clients are cut off meanwhile, and its queue, its container and its ports stay."""

import smtplib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from orchestrator.hosts import Host
from orchestrator.hosts.ownership import ID, NODE, deployed_beds
from orchestrator.up.attach import attach
from orchestrator.up.bed import RunningBed
from tests.integration.beds import Up

pytestmark = pytest.mark.docker


@pytest.fixture
def bed(real_engine: Host, mail: Up) -> RunningBed:
    return attach(real_engine, next(one for one in deployed_beds(real_engine) if one.id == mail.id))


def client(mail: Up) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", mail.port("relay", "25/tcp"), timeout=10)


def defer(mail: Up, *recipients: str) -> None:
    rules = [{"to": to, "then": "defer"} for to in recipients]
    httpx.put(f"http://127.0.0.1:{mail.port('inbox', '8025/tcp')}/api/rules", json=rules).raise_for_status()


def test_a_queued_message_survives_and_is_delivered(real_engine: Host, mail: Up, bed: RunningBed) -> None:
    def container() -> tuple[str, dict[str, int]]:
        (relay,) = real_engine.find({ID: mail.id, NODE: "relay"})
        return relay.id, dict(relay.ports)

    defer(mail, "kept@example.com")
    before = container()
    with client(mail) as smtp:
        smtp.sendmail("ann@example.org", "kept@example.com", "Subject: kept\r\n\r\ntext\r\n")
    for line in bed.relay.node.log(follow=True):
        if "to=<kept@example.com>" in line.text and "status=deferred" in line.text:
            break
    bed.relay.restart()
    assert container() == before
    assert bed.relay.queue_length() == 1
    defer(mail)
    bed.relay.flush()
    (message,) = bed.inbox.wait(to="kept@example.com", timeout=30)
    assert message["subject"] == "kept"


def test_clients_are_cut_off_meanwhile_and_served_on_return(mail: Up, bed: RunningBed) -> None:
    open_session = client(mail)
    cut_off = 0
    with ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(bed.relay.restart)
        while not restarted.done():
            try:
                client(mail).quit()
            except (OSError, smtplib.SMTPException):
                cut_off += 1
        restarted.result()
    assert cut_off
    with pytest.raises(smtplib.SMTPServerDisconnected):
        open_session.noop()
    with client(mail) as smtp:
        assert smtp.noop()[0] == 250


def test_it_restarts_as_often_as_it_is_told_and_then_stops_as_ever(mail: Up, bed: RunningBed) -> None:
    for _ in range(5):
        bed.relay.restart()
        client(mail).quit()
    container = bed.relay.node.container
    bed.relay.node.exec("sh", "-c", "kill 1")
    assert container.wait() == 0
