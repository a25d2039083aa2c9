"""A client of Mailpit, pytest-mailpit from PyPI, works with the inbox unchanged."""

import json
import re
import smtplib
import subprocess
import sys
import threading
from email.message import EmailMessage
from email.policy import SMTPUTF8
from pathlib import Path

import pytest
from pytest_mailpit.client import MailpitClient
from pytest_mailpit.errors import MailpitAPIError
from pytest_mailpit.models import ChaosTrigger, ChaosTriggers

from orchestrator.agents.inbox import mime
from orchestrator.agents.inbox.stored import Envelope
from tests.unit.agents.inbox.conftest import Inbox


@pytest.fixture
def mailpit(inbox: Inbox) -> MailpitClient:
    return MailpitClient(f"http://127.0.0.1:{inbox.http}")


def letter(to: str, subject: str = "Welcome") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Cc"] = "Shop <shop@example.com>", to, "cc@example.com"
    message["Subject"], message["Message-ID"] = subject, f"<{subject}@example.com>"
    message["List-Unsubscribe"] = "<https://x.test/leave>"
    message.set_content("Your code is 123456\n")
    message.add_alternative('<p>Click <a href="https://x.test/?t=1">here</a></p>', subtype="html")
    message.add_attachment(b"PDF\0", "application", "pdf", filename="invoice.pdf")
    return message


def send(inbox: Inbox, message: EmailMessage, *to: str) -> None:
    with smtplib.SMTP("127.0.0.1", inbox.port, timeout=5) as smtp:
        smtp.send_message(message, to_addrs=to or None)


def test_a_recipient_in_another_form_of_its_domain_is_not_hidden(inbox: Inbox, mailpit: MailpitClient) -> None:
    message = letter("bob@bücher.example")
    envelope = Envelope(sender="a@d0.test", recipients=("bob@xn--bcher-kva.example", "x@d1.test"), client="", helo="")
    inbox.call(lambda: inbox.reception.put(message.as_bytes(policy=SMTPUTF8), envelope))
    assert [one.address for one in mailpit.search("bcc:x@d1.test").messages[0].bcc] == ["x@d1.test"]


def test_lists_and_searches(inbox: Inbox, mailpit: MailpitClient) -> None:
    for i in range(3):
        send(inbox, letter(f"user{i}@example.com", f"number {i}"), f"user{i}@example.com", "hidden@example.com")
    assert [m.subject for m in mailpit.messages(limit=2).messages] == ["number 2", "number 1"]
    assert (mailpit.info().messages, mailpit.info().unread) == (3, 3)
    assert len(mailpit.search_all("subject:number", page_size=2)) == 3
    (found,) = mailpit.search("to:user1@example.com").messages
    assert (found.subject, found.attachments, found.snippet) == ("number 1", 1, "Your code is 123456")
    assert len(mailpit.search('"your code is" has:attachment -"number 1"').messages) == 2
    mailpit.set_tags([found.id], ["one", "two"])
    assert [m.id for m in mailpit.search("tag:one").messages] == [found.id]
    mailpit.mark_read([found.id])
    assert len(mailpit.search("is:unread").messages) == 2
    mailpit.delete_search("to:user0@example.com")
    mailpit.delete_messages([found.id])
    assert [m.subject for m in mailpit.messages().messages] == ["number 2"]
    mailpit.delete_all()
    assert mailpit.messages().messages == ()


def test_a_large_message_is_read_beside_others(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def read(path: Path) -> mime.Body:
        threads.append(threading.current_thread())
        return whole(path)

    whole = mime.read_file
    message = letter("bob@example.com")
    message.add_attachment(bytes(2 << 20), "application", "zip", filename="large.zip")
    send(inbox, message)
    assert inbox.client.get("/api/v1/messages").json()["messages"][0]["Attachments"] == 2
    monkeypatch.setattr(mime, "read_file", read)
    for path in ("/api/v1/message/1", "/api/v1/message/1/part/2", "/view/1.txt", "/api/messages/1"):
        assert inbox.client.get(path).status_code == 200
    assert len(threads) == 4
    assert inbox._thread not in threads
    assert inbox.client.get("/api/v1/messages").json()["messages"][0]["Snippet"] == "Your code is 123456"
    assert len(threads) == 4
    assert inbox.client.get("/api/v1/messages?limit=1001").status_code == 422


def test_names_in_a_body_count_in_any_case(inbox: Inbox) -> None:
    for i in range(2):
        send(inbox, letter("bob@example.com", f"number {i}"))
    inbox.client.request("DELETE", "/api/v1/messages", json={"ids": ["1"]})
    inbox.client.put("/api/v1/tags", json={"iDs": ["2"], "tags": ["one"]})
    (left,) = inbox.client.get("/api/v1/messages").json()["messages"]
    assert (left["ID"], left["Tags"]) == ("2", ["one"])


@pytest.mark.parametrize("query", ["", " ", "--", '"" ...'])
def test_a_search_without_words_deletes_nothing(inbox: Inbox, query: str) -> None:
    send(inbox, letter("bob@example.com"))
    assert inbox.client.delete("/api/v1/search", params={"query": query}).status_code == 400
    assert inbox.client.delete("/api/messages", params={"query": query.strip() or "-"}).status_code == 422
    assert inbox.spool.count == 1


def test_a_message_with_its_parts(inbox: Inbox, mailpit: MailpitClient) -> None:
    send(inbox, letter("bob@example.com"), "bob@example.com", "hidden@example.com")
    message = mailpit.get_message("latest")
    assert (message.return_path, message.sender and message.sender.name) == ("shop@example.com", "Shop")
    assert [a.address for a in (*message.to, *message.cc, *message.bcc)] == [
        "bob@example.com",
        "cc@example.com",
        "hidden@example.com",
    ]
    assert (message.text, "https://x.test/?t=1" in message.html) == ("Your code is 123456\n", True)
    (attachment,) = message.attachments
    assert (attachment.file_name, mailpit.get_attachment(attachment)) == ("invoice.pdf", b"PDF\0")
    assert mailpit.get_headers(message.id)["Subject"] == ["Welcome"]
    assert [mailpit.get_raw(message.id)] == inbox.raw()
    assert message.list_unsubscribe.header == "<https://x.test/leave>"
    assert inbox.client.get(f"/view/{message.id}.html").text.startswith("<p>Click")
    assert inbox.client.get("/view/latest.txt").text == "Your code is 123456\n"


def test_chaos(inbox: Inbox, mailpit: MailpitClient) -> None:
    mailpit.set_chaos(ChaosTriggers(recipient=ChaosTrigger(error_code=451, probability=100)))
    assert mailpit.chaos().recipient.error_code == 451
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(inbox, letter("bob@example.com"))
    mailpit.set_chaos(ChaosTriggers())
    send(inbox, letter("bob@example.com"))
    assert not mailpit.chaos().recipient.active


def test_the_fields_of_a_list_are_those_of_mailpit(inbox: Inbox) -> None:
    send(inbox, letter("bob@example.com"))
    listing = inbox.client.get("/api/v1/messages").json()
    assert set(listing) == {
        *("total", "unread", "count", "messages_count", "messages_unread", "start", "tags", "messages")
    }
    assert set(listing["messages"][0]) == {
        *("ID", "MessageID", "Read", "From", "To", "Cc", "Bcc", "ReplyTo", "Subject", "Created", "Username", "Tags"),
        *("Size", "Attachments", "Snippet"),
    }
    assert (listing["messages"][0]["ReplyTo"], listing["tags"]) == ([], [])


def test_a_message_is_put_in_by_http(inbox: Inbox) -> None:
    body = {
        "From": {"Email": "a@example.com", "Name": "Ä"},
        "To": [{"Email": "b@example.com"}],
        "Bcc": ["c@example.com"],
        "Subject": "Grüße",
        "Text": ".dot\n..dots\n",
        "HTML": "<p>x</p>",
        "Tags": ["sent"],
        "Attachments": [{"Content": "AAE=", "Filename": "x.bin", "ContentID": "one"}],
    }
    id_ = inbox.client.post("/api/v1/send", json=body).json()["ID"]
    message = inbox.client.get(f"/api/v1/message/{id_}").json()
    assert (message["Subject"], message["Text"], message["Tags"]) == ("Grüße", ".dot\n..dots\n", ["sent"])
    assert [part["ContentID"] for part in message["Inline"]] == ["one"]
    assert inbox.client.post("/api/v1/send", json={**body, "To": [], "Bcc": []}).status_code == 400


@pytest.mark.parametrize(
    "change",
    [
        {"From": {"Email": "jörg@example.com"}},
        {"From": {"Email": "a@example.com\r\nBcc: x@example.com"}},
        {"Subject": "a\nb"},
        {"Headers": {"Subject": "second"}},
        {"Headers": {"X-A: b\r\nX-Injected": "c"}},
        {"Headers": {"X-Ä": "c"}},
        {"Headers": {"Content-Type": "multipart/mixed"}},
        {"Subject": "\ud800"},
        {"Text": "\ud800"},
        {"Tags": ["\ud800"]},
        {"Bcc": ["\ud800@example.com"]},
        {"Attachments": [{"Content": "AAE=", "Filename": "\ud800"}]},
        {"Attachments": [{"Content": "AAE=", "Filename": "x", "ContentType": "text/x\r\nX-Injected: y"}]},
        {"Attachments": [{"Content": "AAE=", "Filename": "x", "ContentID": "a\r\nX-Injected: y"}]},
    ],
)
def test_a_message_that_cannot_be_written_is_refused(inbox: Inbox, change: dict[str, object]) -> None:
    body = {"From": {"Email": "a@example.com"}, "To": [{"Email": "b@example.com"}], "Subject": "x", **change}
    json_type = {"Content-Type": "application/json"}
    answer = inbox.client.post("/api/v1/send", content=json.dumps(body), headers=json_type)
    assert (answer.status_code in {400, 422}, inbox.spool.count) == (True, 0), answer.text


def test_half_a_surrogate_pair_is_no_tag(inbox: Inbox) -> None:
    send(inbox, letter("bob@example.com"))
    body, json_type = json.dumps({"IDs": ["1"], "Tags": ["\ud800"]}), {"Content-Type": "application/json"}
    assert inbox.client.put("/api/v1/tags", content=body, headers=json_type).status_code == 400


PAGE = Path(__file__).parents[4] / "docs" / "mail.md"
ROWS = re.findall(r"^\| (`[A-Z]+ .*) \| (.*) \|$", PAGE.read_text().partition("## Mailpit's API")[2], re.MULTILINE)
ANSWERS = {
    (method, path): answer
    for requests, answer in ROWS
    for methods, path in re.findall(r"`((?:[A-Z]+ )+)(/[^`]*)`", requests)
    for method in methods.split()
}
"""The table of docs/mail.md: method and path -> text about the answer."""


def test_each_request_is_answered_as_the_table_in_the_docs_says(inbox: Inbox) -> None:
    codes = {}
    for method, path in ANSWERS:
        send(inbox, letter("bob@example.com"))
        url = path.replace("ID", "latest").replace("PART", "2").replace("TAG", "one")
        answer = inbox.client.request(method, url)
        assert ("is not in this inbox" in answer.text) == (answer.status_code == 501)
        codes[method, path] = 200 if answer.status_code == 422 else answer.status_code  # 422: a body is needed
    assert codes == {request: 501 if "501" in answer else 200 for request, answer in ANSWERS.items()}


def test_the_table_in_the_docs_names_every_request(inbox: Inbox) -> None:
    there = {
        (method.upper(), re.sub(r"\{(\w+)\}", lambda name: {"id_": "ID", "place": "PART", "tag": "TAG"}[name[1]], path))
        for path, methods in inbox.client.get("/openapi.json").json()["paths"].items()
        for method, operation in methods.items()
        if operation.get("tags") == ["Mailpit"] and path != "/view/{name}"
    }
    said = {request for request, answer in ANSWERS.items() if "501" not in answer and "/view/" not in request[1]}
    assert there == said


def test_a_client_is_told_what_is_not_here(inbox: Inbox, mailpit: MailpitClient) -> None:
    send(inbox, letter("bob@example.com"))
    with pytest.raises(MailpitAPIError, match="501"):
        mailpit.check_links("1")


_TEST = """
import smtplib

def test_welcome(mailpit_inbox, mailpit_smtp):
    with smtplib.SMTP(*mailpit_smtp) as smtp:
        mail = "Subject: Welcome\\r\\n\\r\\nYour code is 123456\\r\\n"
        smtp.sendmail("shop@example.com", [mailpit_inbox.address], mail)
    assert "123456" in mailpit_inbox.wait_for_message(subject="Welcome").text

def test_nobody(mailpit_inbox):
    mailpit_inbox.assert_no_message(within=0.1)
"""


def test_a_suite_of_tests_of_others_passes(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "test_others.py").write_text(_TEST)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nmailpit_smtp = 127.0.0.1:{inbox.port}\n")
    command = [sys.executable, "-m", "pytest", "-q", "--mailpit-url", f"http://127.0.0.1:{inbox.http}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert "2 passed" in done.stdout, done.stdout
