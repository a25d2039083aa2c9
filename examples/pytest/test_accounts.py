import pytest
from accounts import Accounts


@pytest.fixture
def accounts(mail_bed):
    return Accounts(mail_bed.relay.host, mail_bed.relay.port)


def test_a_new_address_gets_a_code_and_a_link(accounts, mailbox):
    accounts.sign_up(mailbox)
    message = mailbox.wait_for(subject="Welcome")
    assert message.code() == accounts.codes[mailbox]
    assert message.link("confirm").endswith(f"?code={message.code()}")


def test_a_known_address_gets_no_mail(accounts, mailbox):
    accounts.codes[mailbox] = "123456"
    accounts.sign_up(mailbox)
    mailbox.expect_none()


def test_two_people_get_two_codes(accounts, mail_bed):
    ann, bob = mail_bed.mailbox(), mail_bed.mailbox("example.net")
    accounts.sign_up(ann)
    accounts.sign_up(bob)
    to_ann, to_bob = mail_bed.inbox.wait_for_all({"to": ann}, {"to": bob}, subject="Welcome")
    assert (to_ann.code(), to_bob.code()) == (accounts.codes[ann], accounts.codes[bob])
