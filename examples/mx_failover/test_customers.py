import secrets

import pytest
from customers import mx_records

from orchestrator.testing import NotArrived

DOWN, UP = "dns.nodes.test", "inbox.nodes.test"  # nodes of the bed: nothing listens on port 25 of the first one


@pytest.fixture
def domain():
    """Name a domain of this test alone: tests that run at the same time change the records of theirs."""
    return f"customer-{secrets.token_hex(4)}.example.net"


def test_mail_goes_to_the_second_host_if_the_first_one_is_down(mail_bed, domain):
    mail_bed.dns.set(domain, "MX", *mx_records([DOWN, UP]))
    box = mail_bed.mailbox(domain)
    mail_bed.send(to=box, subject="Hello")
    box.wait_for(subject="Hello")


def test_mail_waits_until_the_customer_has_a_second_host(mail_bed, domain):
    mail_bed.dns.set(domain, "MX", *mx_records([DOWN]))
    box = mail_bed.mailbox(domain)
    mail_bed.send(to=box)
    with pytest.raises(NotArrived, match="Connection refused"):
        box.wait_for(timeout=1)
    mail_bed.dns.set(domain, "MX", *mx_records([DOWN, UP]))
    mail_bed.relay.flush()
    box.wait_for(timeout=30)


def test_mail_waits_while_the_domain_cannot_be_looked_up(mail_bed, domain):
    mail_bed.dns.set(domain, "MX", *mx_records([DOWN, UP]))
    box = mail_bed.mailbox(domain)
    with mail_bed.dns.fail(domain, "MX", "SERVFAIL") as failure:
        mail_bed.send(to=box)
        with pytest.raises(NotArrived, match=r"MX customer-.*SERVFAIL"):
            box.wait_for(timeout=1)
        assert failure.hits >= 1
    mail_bed.relay.flush()
    box.wait_for(timeout=30)
