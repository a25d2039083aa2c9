def test_the_link_in_the_mail_confirms_the_address(client, mailbox):
    assert client.post("/sign-up", {"email": mailbox}).status_code == 202
    message = mailbox.wait_for(subject="Confirm", from_="shop@example.org")
    assert client.get(message.link("/confirm/")).content.decode() == f"{mailbox} is confirmed"


def test_a_robot_gets_no_mail(client, mailbox):
    assert client.post("/sign-up", {"email": mailbox, "homepage": "x"}).status_code == 202
    mailbox.expect_none()
