"""The web page of an inbox in a real browser: what a person does with it, and what mail may not do."""

import json
import smtplib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.browser import Browser
from tests.unit.agents.inbox.conftest import Inbox, Tls, make_inbox, tls  # noqa: F401
from tests.unit.agents.inbox.test_authentication import Records, records  # noqa: F401
from tests.unit.agents.inbox.test_relay_log import LINES, numbered, relay

HOSTILE = """
<script>window.top.hacked = 1; document.title = 'hacked'</script>
<img src=x onerror="window.top.hacked = 1"><img src="http://evil.test/pixel.png">
<a href="javascript:window.top.hacked=1" id=a>x</a>
<svg onload="window.top.hacked = 1"></svg><iframe src="http://evil.test/frame"></iframe>
<link rel=stylesheet href="http://evil.test/x.css"><object data="http://evil.test/o"></object>
<style>@import url(http://evil.test/i.css); body { background: url(http://evil.test/bg) }</style>
<form action="http://evil.test/"><input name=x><button id=b>go</button></form>
<meta http-equiv=refresh content="0; url=http://evil.test/refresh"><base href="http://evil.test/">
"""
TEXT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture
def inbox(make_inbox: Callable[..., Inbox]) -> Inbox:  # noqa: F811
    return make_inbox()


@pytest.fixture
def page(inbox: Inbox) -> Iterator[Browser]:
    with Browser() as browser:
        visit(browser, inbox)
        yield browser


def visit(browser: Browser, inbox: Inbox, fragment: str = "") -> None:
    browser.call("Page.navigate", url=f"http://127.0.0.1:{inbox.http}/{fragment}")
    browser.wait("document.getElementById('live').textContent == 'live'")


def send(
    inbox: Inbox,
    subject: str = "hello",
    text: str = "text",
    html: str = "",
    to: str = "bob@d1.test",
    headers: dict[str, str] | None = None,
) -> None:
    message = EmailMessage()
    for name, value in (headers or {}).items():
        message[name] = value
    message["From"], message["To"], message["Subject"] = "Ann <ann@d0.test>", to, subject
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    with smtplib.SMTP("127.0.0.1", inbox.port, timeout=5) as smtp:
        smtp.send_message(message)


def press(browser: Browser, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        more = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, **more)


def click(browser: Browser, name: str) -> None:
    button = f"[...document.querySelectorAll('button')].find(b => b.textContent == {json.dumps(name)})"
    browser.wait(button)
    browser.value(f"{button}.click()")


def shown(browser: Browser) -> Any:
    return browser.value("document.getElementById('detail').innerText")


def test_mail_appears_as_it_arrives_and_is_read_by_keyboard(inbox: Inbox, page: Browser) -> None:
    assert page.value("document.getElementById('empty').checkVisibility()")
    for i in range(3):
        send(inbox, f"number {i}", f"the text of {i}")
    page.wait("document.querySelectorAll('#messages li').length == 3")
    assert page.value("[...document.querySelectorAll('.subject')].map(s => s.textContent).join()") == (
        "number 2,number 1,number 0"
    )
    press(page, "j")
    page.wait("document.querySelector('#detail pre')")
    press(page, "j")
    page.wait("document.querySelector('#detail pre')?.textContent.includes('the text of 1')")
    page.wait("document.querySelectorAll('#messages li.new').length == 1")
    press(page, "d")
    page.wait("document.querySelectorAll('#messages li').length == 2")
    press(page, "/")
    page.call("Input.insertText", text="subject:number subject:0")
    page.wait("document.querySelectorAll('#messages li').length == 1")
    press(page, "Escape")
    page.wait("!document.body.classList.contains('open')")
    assert page.console == []


def test_every_tab_of_a_message(inbox: Inbox, page: Browser) -> None:
    send(inbox, "tabs", "plain", "<p>rich</p>")
    visit(page, inbox, "#1")
    for tab, text in {
        "Text": "plain",
        "Headers": "Ann <ann@d0.test>",
        "Parts": "text/html",
        "Source": "Subject: tabs",
    }.items():
        click(page, tab)
        page.wait(f"document.querySelector('[role=tabpanel]').textContent.includes({json.dumps(text)})")
    click(page, "HTML")
    page.wait("document.querySelector('iframe[sandbox=\"\"]')")
    assert page.console == []


def test_authentication_is_shown_as_text(inbox: Inbox, page: Browser, records: Records) -> None:  # noqa: F811
    records["d0.test"] = ["v=spf1 <img/src=x/onerror=window.hacked=1>"]
    records["_dmarc.d0.test"] = ["v=DMARC1; p=reject"]
    send(inbox, "forged", headers={"DKIM-Signature": f"v=1; d={TEXT.replace(';', '')}; s=s1"})
    visit(page, inbox, "#1")
    click(page, "Authentication")
    page.wait("document.querySelectorAll('[role=tabpanel] tr').length == 3")
    found = page.value("document.querySelector('[role=tabpanel]').innerText")
    assert [word for word in ("permerror", "policy reject", "client 127.0.0.1") if word in found] == [
        "permerror",
        "policy reject",
        "client 127.0.0.1",
    ]
    assert page.value("window.hacked") is None
    assert page.console == []


def test_the_log_of_the_relay_is_shown_as_text_as_it_comes(make_inbox: Callable[..., Inbox]) -> None:  # noqa: F811
    inbox = make_inbox(relays={"relay": ["127.0.0.1"]})
    send(
        inbox,
        headers={"Received": "from x by relay (Postfix) with ESMTP id 8DFD119A248; Fri, 27 Nov 2026 12:00:00 +0000"},
    )
    with Browser() as page, relay(inbox, "127.0.0.1") as connection:
        visit(page, inbox, "#1")
        click(page, "Relay's log")
        panel = "document.querySelector('[role=tabpanel]').innerText"
        page.wait(f"{panel}.includes('Relay relay has sent no log')")
        lines = numbered(LINES[0].replace("unknown", TEXT), LINES[1])
        connection.sendall(b"log a-1\n" + lines)
        page.wait(f"{panel}.includes('nrcpt=1')")
        assert page.value(panel).strip() == "\n".join([LINES[0].replace("unknown", TEXT), LINES[1]])
        connection.sendall(numbered(LINES[2], first=3))
        page.wait(f"{panel}.includes('status=deferred')")
        assert page.value("window.hacked") is None
        click(page, "Text")
        page.wait("document.querySelector('[role=tabpanel] > pre')")
        assert page.console == []


def test_the_page_says_that_no_relay_has_a_log_of_a_message(inbox: Inbox, page: Browser) -> None:
    send(inbox)
    visit(page, inbox, "#1")
    click(page, "Relay's log")
    page.wait("document.querySelector('[role=tabpanel]').innerText.includes('not through a relay of the bed')")


def test_rules_are_edited_and_attempts_are_listed(inbox: Inbox, page: Browser) -> None:
    click(page, "Rules")
    page.wait("document.querySelector('textarea')")
    page.value('document.querySelector(\'textarea\').value = \'[{"to": "bob@*", "then": "nothing"}]\'')
    click(page, "Put in force")
    page.wait("document.querySelector('[role=status].wrong').textContent.includes('accept')")
    rule = {"to": "bob@*", "then": "reject", "reply": "550 5.1.1 <b>no</b>"}
    page.value(f"document.querySelector('textarea').value = {json.dumps(json.dumps([rule]))}")
    click(page, "Put in force")
    page.wait("document.querySelector('#detail table')?.innerText.includes('0 hits')")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(inbox)
    click(page, "Attempts")
    page.wait("document.getElementById('detail').innerText.includes('550 5.1.1 <b>no</b>')")


@dataclass(frozen=True, slots=True)
class Outside:
    """A web server that mail refers to: what is fetched from it."""

    url: str
    fetched: list[str]


@pytest.fixture
def outside() -> Iterator[Outside]:
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Outside(f"http://127.0.0.1:{server.server_port}", fetched)
        server.shutdown()
        thread.join(5)


def test_mail_runs_nothing_and_fetches_nothing(inbox: Inbox, page: Browser, outside: Outside, tmp_path: Path) -> None:
    html = HOSTILE.replace("http://evil.test", outside.url)
    send(inbox, TEXT, TEXT + "\n", html)
    page.wait("document.querySelectorAll('#messages li').length == 1")
    visit(page, inbox, "#1")
    for tab in ("Text", "Headers", "Parts", "Source", "HTML"):
        click(page, tab)
    page.wait("document.querySelector('iframe').contentWindow.length !== undefined")
    page.go(f"http://127.0.0.1:{inbox.http}/api/messages/1/html")
    page.value("document.getElementById('a').click(); document.getElementById('b').click()")
    assert page.value("location.pathname") == "/api/messages/1/html"
    assert page.value("window.hacked") is None
    page.go("about:blank")
    visit(page, inbox, "#1")
    assert page.value("window.hacked") is None
    assert page.value("document.title") == "Inbox"
    assert outside.fetched == []
    control = tmp_path / "control.html"  # the same where nothing seals it: the server would have seen it
    control.write_text(html.replace("http-equiv=refresh", ""))
    page.go(control.as_uri())
    page.wait("window.hacked")
    assert {"/pixel.png", "/x.css", "/i.css", "/frame"} <= set(outside.fetched)


def test_it_fits_a_phone(inbox: Inbox) -> None:
    for i in range(5):
        send(inbox, f"a long subject {'word ' * 30} {i}", "x" * 300, to="a-very-long-local-part-of-an-address@d1.test")
    with Browser(width=390, height=800, dark=True) as phone:
        visit(phone, inbox)
        phone.wait("document.querySelectorAll('#messages li').length == 5")
        assert phone.value("document.documentElement.scrollWidth <= innerWidth")
        assert not phone.value("document.getElementById('detail').checkVisibility()")
        phone.value("document.querySelector('#messages li').click()")
        phone.wait("document.querySelector('#detail pre')")
        assert phone.value("document.documentElement.scrollWidth <= innerWidth")
        assert not phone.value("document.getElementById('list').checkVisibility()")
