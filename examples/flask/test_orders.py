import pytest
from orders import create_app


@pytest.fixture
def client(mail_bed):
    smtp = {"MAIL_SERVER": mail_bed.relay.host, "MAIL_PORT": mail_bed.relay.port}
    app = create_app(TESTING=True, MAIL_SUPPRESS_SEND=False, **smtp)  # with TESTING alone, Flask-Mail sends nothing
    return app.test_client()


def test_an_order_is_confirmed_with_its_invoice(client, mailbox):
    answer = client.post("/orders", json={"email": mailbox, "article": "Tea", "price": 4})
    assert answer.status_code == 201
    message = mailbox.wait_for(subject="Your order of Tea")
    assert message.link(text="Follow your order") == "https://shop.example/orders/1"
    assert message.attachment("invoice.csv").content.split() == [b"Tea,4"]


def test_an_order_without_a_price_is_refused_and_sends_nothing(client, mailbox):
    with pytest.raises(KeyError, match="price"):
        client.post("/orders", json={"email": mailbox, "article": "Tea"})
    mailbox.expect_none()
