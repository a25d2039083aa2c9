"""A client of Mailpit, mailpit-api from npm, works with the inbox unchanged: each of its methods is called."""

import json
import re
import shutil
import smtplib
import subprocess
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.integration.npm import install
from tests.unit.agents.inbox.conftest import Inbox, Tls, make_inbox, tls  # noqa: F401

HERE = Path(__file__).with_name("mailpit_api")
PDF = b"%PDF-1.7\0\xff"
ABSENT = {
    "getAttachmentThumbnail": ("1", "2"),
    "releaseMessage": ("1", {"To": ["bob@example.com"]}),
    "htmlCheck": ("1",),
    "linkCheck": ("1", True),
    "spamAssassinCheck": ("1",),
}
"""Methods that docs/mail.md names as 501, with arguments."""


class Client:
    """The client in a process of Node.js."""

    def __init__(self, folder: Path, url: str) -> None:
        command = ["node", str(folder / "call.mjs"), url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.methods = set(self._read())
        self.called = set[str]()

    def __call__(self, method: str, *words: object) -> Any:
        """Call a method and return its result; raises ValueError with the text of its error."""
        answer = self.answer(method, *words)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer.get("result")

    def answer(self, method: str, *words: object) -> dict[str, Any]:
        """Call a method and return ``result`` or ``error``; no result: ``undefined``."""
        assert self._process.stdin
        self.called.add(method)
        self._process.stdin.write(json.dumps([method, *words]) + "\n")
        self._process.stdin.flush()
        return dict(self._read())

    def _read(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """End the process."""
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the client."""
    folder = tmp_path_factory.mktemp("npm") / "client"
    shutil.copytree(HERE, folder)
    install(folder)
    return folder


@pytest.fixture
def inbox(make_inbox: Callable[..., Inbox]) -> Inbox:  # noqa: F811
    return make_inbox()


@pytest.fixture
def mailpit(folder: Path, inbox: Inbox) -> Iterator[Client]:
    client = Client(folder, f"http://127.0.0.1:{inbox.http}")
    yield client
    client.end()


def send(inbox: Inbox, subject: str, to: str = "Bob <bob@example.com>") -> bytes:
    """Send a message with text, HTML, a picture in it and a file, and return its octets."""
    message = EmailMessage()
    message["From"], message["To"], message["Cc"] = "Shop <shop@example.org>", to, "cc@example.com"
    message["Reply-To"], message["Subject"], message["Message-ID"] = "re@example.org", subject, f"<{subject}@x.test>"
    message["Date"], message["List-Unsubscribe"] = "Fri, 27 Nov 2026 07:00:00 +0100", "<https://x.test/leave>"
    message.set_content("Your code is 123456\n")
    message.add_alternative('<p>Grüße <img src="cid:pic"></p>', subtype="html")
    message.get_payload()[1].add_related(b"PNG", "image", "png", cid="<pic>", filename="pic.png")  # type: ignore[union-attr, index]
    message.add_attachment(PDF, "application", "pdf", filename="invoice.pdf")
    with smtplib.SMTP("127.0.0.1", inbox.port, timeout=5) as smtp:
        smtp.login("ann", "password")
        smtp.send_message(message, to_addrs=["bob@example.com", "cc@example.com", "hidden@example.com"])
    return inbox.raw()[-1]


def use_lists(inbox: Inbox, mailpit: Client) -> None:
    for i in range(4):
        send(inbox, f"number{i}")
    listing = mailpit("listMessages", 1, 2)
    assert [m["Subject"] for m in listing["messages"]] == ["number2", "number1"]
    counts = ("total", "unread", "count", "messages_count", "messages_unread", "start")
    assert [listing[name] for name in counts] == [4, 4, 2, 4, 4, 1]
    found = mailpit("searchMessages", {"query": "subject:number1", "start": 0, "limit": 5, "tz": "Europe/Berlin"})
    (one,) = found["messages"]
    assert (found["messages_count"], one["Attachments"], one["Snippet"]) == (1, 1, "Your code is 123456")
    assert mailpit("waitForMessage", {"query": "subject:number3"}, {"timeout": 2000, "interval": 50})["ID"] == "4"
    assert mailpit("waitForMessages", {"count": 4, "exact": True}, {"timeout": 2000})["total"] == 4
    late = threading.Timer(0.2, send, (inbox, "late"))
    late.start()
    assert mailpit("waitForMessage", {"query": "subject:late"}, {"interval": 20})["Subject"] == "late"
    with pytest.raises(ValueError, match="Timeout waiting for messages matching query"):
        mailpit("waitForMessages", {"query": "subject:never"}, {"timeout": 60, "interval": 20})

    assert mailpit("setReadStatus", {"IDs": ["1"], "Read": True}) == "ok"
    assert mailpit("setReadStatus", {"Search": "subject:number1", "Read": True}, {"tz": "Europe/Berlin"}) == "ok"
    unread = {m["Subject"] for m in mailpit("searchMessages", {"query": "is:unread"})["messages"]}
    assert unread == {"number2"}  # 3 and late were opened by waitForMessage
    assert mailpit("setReadStatus", {"Read": True}) == "ok"
    assert mailpit("getInfo")["Unread"] == 0
    assert mailpit("setReadStatus") == "ok"
    assert mailpit("getInfo")["Unread"] == 5

    assert mailpit("setTags", {"IDs": ["1", "2"], "Tags": ["old", "a/b c"]}) == "ok"
    assert mailpit("setTags", {"IDs": ["3"], "Tags": ["old"]}) == "ok"
    assert mailpit("getTags") == ["a/b c", "old"]
    assert mailpit("renameTag", "a/b c", "new") == "ok"
    assert mailpit("getInfo")["Tags"] == {"new": 2, "old": 3}
    assert mailpit("renameTag", "new", "old") == "ok"
    assert mailpit("getInfo")["Tags"] == {"old": 3}
    assert mailpit("deleteTag", "old") == "ok"
    assert mailpit("getTags") == []

    assert mailpit("deleteMessagesBySearch", {"query": "subject:number0"}) == "ok"
    assert mailpit("deleteMessages", {"IDs": ["2"]}) == "ok"
    assert [m["ID"] for m in mailpit("listMessages")["messages"]] == ["5", "4", "3"]
    assert mailpit("deleteMessages") == "ok"
    assert mailpit("listMessages")["messages"] == []


def use_one_message(inbox: Inbox, mailpit: Client) -> None:
    raw = send(inbox, "hello")
    message = mailpit("getMessageSummary")
    id_ = message["ID"]
    assert (message["Subject"], message["MessageID"], message["Size"]) == ("hello", "hello@x.test", len(raw))
    assert (message["ReturnPath"], message["Username"]) == ("shop@example.org", "ann")
    assert (message["From"], message["To"]) == (
        address("Shop", "shop@example.org"),
        [address("Bob", "bob@example.com")],
    )
    assert [message[name] for name in ("Cc", "Bcc", "ReplyTo")] == [
        [address("", f"{name}@example.{top}")] for name, top in (("cc", "com"), ("hidden", "com"), ("re", "org"))
    ]
    assert message["Date"] == "2026-11-27T07:00:00+01:00"
    assert message["Text"] == "Your code is 123456\n"
    assert "Grüße" in message["HTML"]
    assert message["ListUnsubscribe"]["Header"] == "<https://x.test/leave>"
    ((picture,), (file,)) = message["Inline"], message["Attachments"]
    assert (picture["ContentID"], picture["ContentType"]) == ("pic", "image/png")
    assert (file["FileName"], file["Size"]) == ("invoice.pdf", len(PDF))
    assert file["Checksums"]["SHA256"] == sha256(PDF).hexdigest()
    assert b64decode(mailpit("getMessageAttachment", id_, file["PartID"])) == PDF
    assert b64decode(mailpit("getMessageAttachment", id_, picture["PartID"])) == b"PNG"
    headers = mailpit("getMessageHeaders", id_)
    assert (headers["Subject"], headers["Message-Id"]) == (["hello"], ["<hello@x.test>"])
    assert mailpit("getMessageSource", id_).encode() == raw
    assert "Grüße" in mailpit("renderMessageHTML", id_, 1)
    assert mailpit("renderMessageText", id_) == "Your code is 123456\n"
    with pytest.raises(ValueError, match=r"^Mailpit API Error: 404 "):
        mailpit("getMessageSummary", "4711")


def address(name: str, of: str) -> dict[str, str]:
    return {"Name": name, "Address": of}


def use_send(_inbox: Inbox, mailpit: Client) -> None:
    request = {
        "From": {"Email": "ann@example.org", "Name": "Änn"},
        "To": [{"Email": "bob@example.com"}],
        "Cc": [{"Email": "cc@example.com", "Name": "C, c"}],
        "Bcc": ["hidden@example.com"],
        "ReplyTo": [{"Email": "re@example.org"}],
        "Subject": "Grüße",
        "Text": "text",
        "HTML": "<p>html</p>",
        "Headers": {"X-Word": "one"},
        "Tags": ["sent"],
        "Attachments": [{"Content": b64encode(PDF).decode(), "Filename": "invoice.pdf"}],
    }
    message = mailpit("getMessageSummary", mailpit("sendMessage", request)["ID"])
    assert (message["Subject"], message["From"]["Name"], message["Cc"][0]["Name"]) == ("Grüße", "Änn", "C, c")
    assert (message["Text"].strip(), message["HTML"].strip()) == ("text", "<p>html</p>")
    assert ([a["Address"] for a in message["Bcc"]], message["Tags"]) == (["hidden@example.com"], ["sent"])
    (file,) = message["Attachments"]
    assert file["ContentType"] == "application/pdf", "told by the file's name"
    assert b64decode(mailpit("getMessageAttachment", message["ID"], file["PartID"])) == PDF
    assert mailpit("getMessageHeaders")["X-Word"] == ["one"]


def use_chaos(inbox: Inbox, mailpit: Client) -> None:
    trigger = {"ErrorCode": 451, "Probability": 100}
    in_force = mailpit("setChaosTriggers", {"Recipient": trigger})
    assert (in_force["Recipient"], in_force["Sender"]["Probability"]) == (trigger, 0)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(inbox, "refused")
    assert mailpit("setChaosTriggers") == mailpit("getChaosTriggers")
    send(inbox, "accepted")


def use_information(_inbox: Inbox, mailpit: Client) -> None:
    information, configuration = mailpit("getInfo"), mailpit("getConfiguration")
    assert (information["Messages"], information["DatabaseSize"] > 0) == (3, True)
    assert information["Version"] == information["LatestVersion"]
    relay = configuration["MessageRelay"]
    assert (configuration["ChaosEnabled"], relay["Enabled"], relay["SMTPServer"]) == (True, False, "")


def test_each_method_does_what_it_says_or_answers_501(inbox: Inbox, mailpit: Client) -> None:
    for use in (use_lists, use_one_message, use_send, use_chaos, use_information):
        use(inbox, mailpit)
    for method, words in ABSENT.items():
        error = mailpit.answer(method, *words)["error"]
        assert re.match(r"Mailpit API Error: 501 .* is not in this inbox", error), error
    assert mailpit.called == mailpit.methods
