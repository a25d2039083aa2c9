"""Messages: links, codes, attachments, header fields, octets."""

from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path

import pytest

from orchestrator.testing import Message, Missing
from orchestrator.testing.outgoing import compose


def message(raw: bytes, subject: str = "") -> Message:
    summary = {"id": 7, "t": 1.5e9, "sender": "", "recipients": ["bob@example.com"], "subject": subject, "size": 9}
    return Message(summary, {7: raw}.__getitem__)


def written(text: str = "", html: str = "", attachments: Mapping[str, bytes] | None = None) -> Message:
    made = EmailMessage()
    made["From"] = "Ann <ann@example.org>"
    if text:
        made.set_content(text)
    if html and text:
        made.add_alternative(html, subtype="html")
    elif html:
        made.set_content(html, subtype="html")
    for name, content in (attachments or {}).items():
        made.add_attachment(content, maintype="application", subtype="pdf", filename=name)
    return message(bytes(made))


HTML = """<p>Hi <b>Bob</b>,</p><a href=" https://example.com/unsubscribe?u=1 ">Leave <i>the</i>
list</a> <a name=x>no link</a><a href="mailto:a@example.com">Mail</a><a href="#top">up</a>
<a href="https://example.com/reset?token=a&amp;b=2"><span>Reset</span> password</a><a href="//example.com/x">x</a>"""


def test_links_of_html_come_with_their_words_and_before_those_of_the_text() -> None:
    sent = written("See http://example.org/text.", HTML)
    assert [(link.url, link.text) for link in sent.links] == [
        ("https://example.com/unsubscribe?u=1", "Leave the list"),
        ("https://example.com/reset?token=a&b=2", "Reset password"),
        ("http://example.org/text", ""),
    ]
    assert sent.link("reset") == sent.link(text="reset PASSWORD") == "https://example.com/reset?token=a&b=2"
    assert sent.link() == "https://example.com/unsubscribe?u=1"
    assert sent.link(r"example\.org") == "http://example.org/text"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("Go to (https://example.com/a_(b)) now", "https://example.com/a_(b)"),
        ("<https://example.com/?a=1&b=2>", "https://example.com/?a=1&b=2"),
        ('say "http://example.com", please', "http://example.com"),
        ("HTTPS://EXAMPLE.COM/X!", "HTTPS://EXAMPLE.COM/X"),
        ("at http://127.0.0.1:8000/x/?y=z#end.\nNext", "http://127.0.0.1:8000/x/?y=z#end"),
    ],
)
def test_a_link_in_a_text_ends_before_the_sentence_does(text: str, url: str) -> None:
    assert written(text).link() == url


def test_a_missing_link_is_named_with_those_that_are_there() -> None:
    with pytest.raises(Missing, match=r"has no link with 'nothing' and the words 'at all'\nlinks:\n    https://") as no:
        written(html=HTML).link("nothing", text="at all")
    assert isinstance(no.value, AssertionError)
    assert isinstance(no.value, LookupError)
    with pytest.raises(Missing, match="links:\n    none"):
        written("plain").link()
    with pytest.raises(Missing, match="has no link\n"):
        written("plain").link()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Your code is 123456.", "123456"),
        ("Order 1234567, code 001234", "001234"),
        ("2026-11-27, 12345.678901, x123456, code: 654321!", "654321"),
        ("code:\n135790\n", "135790"),
    ],
)
def test_a_code_has_exactly_this_many_digits(text: str, code: str) -> None:
    assert written(text).code() == code


def test_a_code_is_found_in_html_and_in_the_subject() -> None:
    assert written(html="<style>a{color:#123456}</style><p>Code <b>4711</b></p>").code(4) == "4711"
    assert message(b"\r\n", "987654 is your code").code() == "987654"
    with pytest.raises(Missing, match=r"has no code of 6 digits\ntext:\n    Hi \\x1b\[0m Bob"):
        written("Hi \x1b[0m Bob").code()


def test_attachments_are_found_by_name() -> None:
    sent = written("see", attachments={"bill.pdf": b"%PDF", "Rechnung für Bob.pdf": b"2"})
    assert sent.attachment("bill.pdf").content == b"%PDF"
    assert sent.attachment("Rechnung für Bob.pdf").content_type == "application/pdf"
    with pytest.raises(Missing, match=r"attachment 'x'\nattachments:\n    bill.pdf\n    Rechnung"):
        sent.attachment("x")


def test_octets_stay_as_they_came(tmp_path: Path) -> None:
    raw = b"Subject: a\r\nX-Two: 1\r\nx-two: 2\r\n\r\n\xff\x00 bare\n lf\r\n"
    assert message(raw).save(tmp_path / "a.eml").read_bytes() == raw
    assert message(raw).headers.get_all("X-Two") == ["1", "2"]
    assert message(raw).headers["List-Id"] is None


def test_a_broken_message_is_read_as_far_as_it_goes() -> None:
    broken = b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\nContent-Type: text/plain; charset=no\r\n\r\nhi'
    assert message(broken).text == "hi"
    assert message(b"Content-Type: text/html\r\n\r\n<a href='http://a.example/'>half").link() == "http://a.example/"


def test_a_message_that_a_test_sends_has_what_mail_has() -> None:
    made = compose(["a@example.com", "b@example.com"], "", "Grüße", "hi\n", {"a.png": b"1", "b": b"2"})
    assert [made["From"], made["To"], made["Subject"]] == ["MAILER-DAEMON", "a@example.com, b@example.com", "Grüße"]
    assert made["Date"]
    assert made["Message-ID"].endswith("@testbed.test>")
    assert [part.get_content_type() for part in made.iter_attachments()] == ["image/png", "application/octet-stream"]


@pytest.mark.parametrize("name", ["mail.eml", "logs.tar.gz", "page.mht", "bill.pdf", "none", "ü'\" .txt"])
def test_an_attachment_comes_as_the_test_gave_it(name: str) -> None:
    content = b"Subject: inner\r\n\r\n\x00\xff"
    made = message(bytes(compose(["bob@example.com"], "", "", "see", {name: content})))
    assert made.attachment(name).content == content
