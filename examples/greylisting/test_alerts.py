import pytest
from alerts import alert

from orchestrator.testing import NotArrived


@pytest.fixture
def send(mail_bed, mailbox):
    return lambda text: alert(text, to=mailbox, smtp_host=mail_bed.relay.host, smtp_port=mail_bed.relay.port)


def test_an_alert_passes_a_greylist(send, mail_bed, mailbox):
    greylist = mailbox.greylist(delay_s=1)
    send("disk full")
    mailbox.wait_for(subject="disk full", timeout=30)  # the relay of the bed tries again after 3 to 6 s
    assert greylist.hits >= 1
    assert any("status=deferred" in line for line in mail_bed.relay.log(to=mailbox))


def test_an_alert_is_delivered_after_one_temporary_failure(send, mailbox):
    failure = mailbox.defer("451 4.3.2 Out of memory", times=1)
    send("disk full")
    assert mailbox.wait_for(timeout=30).link() == "https://monitor.example/alerts"
    assert failure.hits == 1


def test_an_alert_waits_for_a_server_that_is_down_for_long(send, mail_bed, mailbox):
    with mailbox.defer("421 4.3.2 Down for maintenance"):
        send("disk full")
        with pytest.raises(NotArrived, match="Down for maintenance"):
            mailbox.wait_for(timeout=1)
    mail_bed.relay.flush()  # try again now
    mailbox.wait_for(subject="disk full", timeout=30)
