"""The public Python API on a real bed `mail`: waits, expect_none, rules, partitions; its removal leaves nothing."""

import asyncio
import secrets
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from orchestrator.errors import EngineFailed, InvalidInput, NodeDied
from orchestrator.hosts import Host
from orchestrator.testing import MailBed, Mailbox, NotArrived, Unexpected, Unsettled
from tests.integration.traces import traces

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120, func_only=True)]


@pytest.fixture(scope="module")
def shared(real_engine: Host) -> Iterator[MailBed]:
    with MailBed(name=f"test-{secrets.token_hex(4)}") as bed:
        yield bed
        id_ = bed.id
    assert traces(real_engine, [id_]) == []
    with pytest.raises(InvalidInput, match="it was stopped"):
        _ = bed.relay


@pytest.fixture
def bed(shared: MailBed) -> MailBed:
    shared.begin()
    return shared


@pytest.fixture
def box(bed: MailBed) -> Mailbox:
    return bed.mailbox()


def test_an_application_signs_a_person_up(bed: MailBed) -> None:
    box = bed.mailbox()
    with smtplib.SMTP(bed.relay.host, bed.relay.port) as smtp:  # what the application does
        smtp.sendmail("shop@example.org", box, f"To: {box}\r\nSubject: Welcome\r\n\r\nYour code: 123456\r\n")
    message = bed.inbox.wait_for(to=box, subject="Welcome")
    assert (message.code(), message.sender) == ("123456", "shop@example.org")
    assert message.headers["Received"]
    assert any("status=sent" in line for line in bed.relay.log(to=box))
    assert bed.get_connection_url() == f"smtp://127.0.0.1:{bed.relay.port}"


def test_mail_that_a_test_sends_arrives_as_it_is(bed: MailBed, box: Mailbox) -> None:
    other = bed.mailbox("example.net")
    bed.send(to=[box, other], subject="Grüße", text="See https://example.com/x.\n", attachments={"bill.pdf": b"%PDF"})
    one, same = bed.inbox.wait_for_all({"to": box}, {"to": other}, subject="Grüße")
    assert one.link() == "https://example.com/x"
    assert same.attachment("bill.pdf").content == b"%PDF"
    bed.send(b"Subject: octets\r\n\r\nas they are\r\n", to=box, sender="<>")
    assert box.wait_for(subject="octets").raw.endswith(b"\r\n\r\nas they are\r\n")


# ------------------------------------------------------------------------------------------------- expect_none


def test_none_is_expected_of_mail_that_was_refused(bed: MailBed, box: Mailbox) -> None:
    author = bed.mailbox()
    with box.reject() as rule:
        bed.send(to=box, sender=author)
        box.expect_none()
        assert rule.hits == 1
    notification = author.wait_for(subject="Undelivered")
    assert notification.sender == ""
    with pytest.raises(Unexpected, match="arrived"):
        author.expect_none()


def test_mail_that_arrives_during_the_check_fails_it(box: Mailbox, bed: MailBed) -> None:
    with box.tarpit(1.0):
        bed.send(to=box, subject="slow")
        with pytest.raises(Unexpected, match="slow"):
            box.expect_none(subject="slow")


def test_mail_that_is_queued_or_deferred_fails_the_check(box: Mailbox, bed: MailBed) -> None:
    with box.tarpit(3.0):
        bed.send(to=box, subject="queued")
        with pytest.raises(Unexpected, match=f"(?s)still on its way.*{box}"):
            box.expect_none(timeout=0.2)
        box.wait_for()
    bed.begin()
    with box.defer():
        bed.send(to=box, subject="deferred")
        with pytest.raises(Unexpected, match=f"(?s)waits in the queue.* -> {box} .*451 4.3.0 Try again later"):
            box.expect_none(subject="deferred")
        box.expect_none(subject="another")
        with pytest.raises(Unsettled, match=box):
            bed.settle(0)
    bed.relay.flush()
    bed.settle()
    assert [message.subject for message in box.messages()] == ["deferred"]
    assert bed.relay.queue() == []


def test_a_notification_of_a_rule_is_on_its_way_until_it_arrives(bed: MailBed, box: Mailbox) -> None:
    author = bed.mailbox()
    with box.bounce(delay_s=1.0):
        bed.send(to=box, sender=author)
        with pytest.raises(Unexpected, match="Undelivered"):
            author.expect_none()
        bed.send(to=box, sender=author)
        bed.settle()
    assert len(author.messages()) == 2


# ------------------------------------------------------------------------------------------------- rules and faults


def test_a_retry_after_greylisting(bed: MailBed, box: Mailbox) -> None:
    with box.greylist(1.0) as rule:
        bed.send(to=box)
        with pytest.raises(NotArrived, match="Greylisted"):
            box.wait_for(timeout=0.5)
        assert box.wait_for(timeout=30).recipients == (str(box),)
        assert rule.hits == 1


def test_four_with_four_rules_at_once_see_their_own_only(bed: MailBed) -> None:
    def one(then: str, sees: str) -> None:
        for _ in range(5):
            box = bed.mailbox()
            with getattr(box, then)(times=1) as rule:
                bed.send(to=box, subject=sees)
                if sees == "none":
                    box.expect_none()
                elif sees == "deferred":
                    with pytest.raises(Unexpected, match="queue"):
                        box.expect_none()
                else:
                    box.wait_for()
                assert rule.hits == 1

    works = [("reject", "none"), ("drop", "none"), ("defer", "deferred"), ("accept", "mail")]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(one, *work) for work in works]:
            done.result()
    bed.relay.flush()
    bed.settle(30)


def test_dns_is_changed_and_broken(bed: MailBed) -> None:
    to = bed.mailbox("example.org")
    with bed.dns.fail("example.org", then="NXDOMAIN") as fault:
        bed.send(to=to, sender=bed.mailbox())
        to.expect_none()
    assert fault.hits == len([one for one in bed.dns.queries("example.org") if one["rcode"] == "NXDOMAIN"]) > 0
    assert bed.dns.queries("EXAMPLE.org.", "MX")[-1]["rcode"] == "NXDOMAIN"
    assert [one["id"] for one in bed.dns.faults() if one["id"] == fault.id] == []
    bed.dns.set("here.example.org", "MX", "10 inbox.nodes.test.")
    box = bed.mailbox("here.example.org")
    bed.send(to=box)
    assert box.wait_for()
    bed.dns.delete("here.example.org", "MX")
    assert bed.dns.queries("here.example.org", "MX")


def test_a_restart_of_the_relay_keeps_its_queue(bed: MailBed, box: Mailbox) -> None:
    with box.defer():
        bed.send(to=box)
        with pytest.raises(Unexpected):
            box.expect_none()
        port = bed.relay.port
        bed.relay.restart()
        assert bed.relay.port == port
        assert [list(one.recipients) for one in bed.relay.queue()] == [[str(box)]]
    bed.relay.flush()
    assert box.wait_for()


# ------------------------------------------------------------------------------------------------- pause, partition


def test_a_node_that_is_paused_answers_after_it(bed: MailBed, box: Mailbox) -> None:
    with bed.pause("dns"):
        bed.send(to=box)
        with pytest.raises(Unexpected, match="on its way"):
            box.expect_none(timeout=0.5)
    assert box.wait_for(timeout=30)
    with pytest.raises(InvalidInput, match="the bed has relay, dns, gate, inbox"):
        bed.pause("nobody")


def test_two_nodes_do_not_reach_each_other_over_either_family(bed: MailBed, box: Mailbox) -> None:
    plan = bed.running.plan
    delivery = plan.deliveries[0]

    def connect(node: str, address: object, port: int) -> int:
        script = 'timeout 2 bash -c "exec 3<>/dev/tcp/$1/$2"'
        return bed.running.nodes[node].exec("sh", "-c", script, "sh", str(address), str(port)).status

    relay = bed.running.nodes["relay"].plan
    there = [("relay", delivery.v4, 25), ("relay", delivery.v6, 25), ("inbox", relay.v4, 25)]
    assert [connect(*one) for one in there] == [0, 0, 0]
    with bed.partition("relay", "inbox"):
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(lambda one: connect(*one), there)) == [124, 124, 124]
        assert connect("relay", bed.running.nodes["dns"].address, 53) == 0
        bed.send(to=box)  # the test still reaches both
        with pytest.raises(Unexpected, match="on its way"):
            box.expect_none(timeout=0)
        with bed.partition("inbox", "relay"):
            pass
        assert connect(*there[0]) == 124
    assert [connect(*one) for one in there] == [0, 0, 0]
    assert box.wait_for(timeout=60)
    for node in ("relay", "inbox"):
        assert "cut_" not in bed.running.nodes[node].change_network("nft list tables")


# ------------------------------------------------------------------------------------------------- TLS, coroutines


def test_a_client_trusts_the_bed(bed: MailBed, box: Mailbox) -> None:
    with smtplib.SMTP(bed.relay.host, bed.relay.submission_port) as smtp:
        smtp.starttls(context=bed.ssl_context)
        smtp.login("testbed", "testbed")
        smtp.sendmail("a@example.org", box, "Subject: TLS\r\n\r\n")
    with smtplib.SMTP_SSL(bed.relay.host, bed.relay.submissions_port, context=bed.ssl_context) as smtp:
        smtp.login("testbed", "testbed")
        smtp.sendmail("a@example.org", box, "Subject: TLS\r\n\r\n")
    assert len(box.wait_for_all(count=2, subject="TLS")) == 2


def test_coroutines_wait_for_mail(bed: MailBed, box: Mailbox) -> None:
    async def both() -> str:
        waiting = asyncio.create_task(bed.inbox.aio.wait_for(to=box))
        late = asyncio.create_task(bed.inbox.aio.wait_for(to="nobody@example.com", timeout=60))
        await asyncio.to_thread(partial(bed.send, to=box, subject="async"))
        message = await waiting
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        return message.subject

    assert asyncio.run(both()) == "async"


# ------------------------------------------------------------------------------------------------- its life


def test_another_process_holds_the_same_bed_without_owning_it(bed: MailBed, box: Mailbox) -> None:
    with MailBed.attach(bed.id) as attached:
        bed.send(to=box)
        assert attached.inbox.wait_for(to=box).recipients == (str(box),)
        assert attached.relay.port == bed.relay.port
    bed.begin()
    with pytest.raises(InvalidInput, match="no-such-id"):
        MailBed.attach("no-such-id")


def test_a_bed_ends_with_the_interpreter(real_engine: Host) -> None:
    script = (
        "import os, sys; from orchestrator.testing import MailBed\n"
        f"bed = MailBed(name='test-{secrets.token_hex(4)}').start(); print(bed.id, flush=True)\n"
        "if not os.fork(): sys.exit()\n"
        "os.wait(); assert bed.inbox.messages() == []; print('still up', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[1:]) == (0, ["still", "up"]), done.stderr
    assert done.stderr == ""
    assert traces(real_engine, [done.stdout.split()[0]]) == []


def test_a_wait_ends_when_a_node_does() -> None:
    with MailBed(name=f"test-{secrets.token_hex(4)}") as bed, ThreadPoolExecutor(2) as pool:

        async def wait() -> None:
            await bed.inbox.aio.wait_for(timeout=100)

        waiting = pool.submit(bed.inbox.wait_for, timeout=100)
        also = pool.submit(asyncio.run, wait())
        bed.running.nodes["relay"].container.remove()
        for one in (waiting, also):
            with pytest.raises(NodeDied, match="node relay running"):
                one.result(30)
        with pytest.raises(NodeDied, match="node relay running"):
            bed.relay.queue()
        assert bed.inbox.messages() == []


def test_a_failed_start_leaves_nothing_and_shows_the_logs(real_engine: Host) -> None:
    bed = MailBed(name=f"test-{secrets.token_hex(4)}").with_relay(main_cf={"no_such_parameter": "x"})
    before = {found.id for found in real_engine.find({"testbed.bed": bed._bed.name})}
    with pytest.raises(EngineFailed) as failed:
        bed.start()
    shown = "\n".join([str(failed.value), *failed.value.__notes__])
    assert "no_such_parameter" in shown
    assert "log of relay:" in shown
    assert {found.id for found in real_engine.find({"testbed.bed": bed._bed.name})} == before == set()
    bed.stop()
    with pytest.raises(InvalidInput, match="not started"):
        bed.begin()


def test_other_containers_may_join_a_bed() -> None:
    with MailBed(name=f"test-{secrets.token_hex(4)}").with_network() as bed:
        assert bed.network == f"tb-{bed.id}-guests"
        with pytest.raises(InvalidInput, match="before the start"):
            bed.with_domains(1)
