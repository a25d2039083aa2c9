"""The inbox as SMTP clients see it: extensions, authentication, rules, and octets that nothing changes."""

import asyncio
import errno
import smtplib
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from email import message_from_bytes
from email.message import EmailMessage, Message
from typing import cast

import aiosmtplib
import pytest

from orchestrator.agents.inbox import bounce
from orchestrator.agents.inbox.bounce import Bouncer, header_section, notification
from tests.unit.agents.inbox.conftest import Inbox, Tls

TRANSACTION = b"MAIL FROM:<a@d0.test>\r\nRCPT TO:<b@d1.test>\r\nDATA\r\n"
LETTER = b"Subject: hello\r\n\r\n.dot\r\n"


ASCII_ONLY = b"5.6.7 An address that is not ASCII needs SMTPUTF8"


def client(inbox: Inbox) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", inbox.port, timeout=5)


def talk(inbox: Inbox, text: bytes) -> list[str]:
    """Write everything at once, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", inbox.port), timeout=5) as connection:
        connection.sendall(text)
        with connection.makefile("rb") as file:
            return [line.decode().rstrip("\r\n") for line in file]


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait up to 5 s for a fact."""
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline


# ---------------------------------------------------------------------------------------------------------- extensions


def until_tls_begins(plain: socket.socket) -> None:
    """Ask for STARTTLS, and read the reply."""
    plain.recv(100)
    plain.sendall(b"EHLO x\r\nSTARTTLS\r\n")
    while not plain.recv(1000).endswith(b"TLS\r\n"):
        pass


def test_it_names_its_extensions_and_starts_tls(inbox: Inbox, tls: Tls) -> None:
    with client(inbox) as smtp:
        smtp.ehlo()
        before = {"auth", "smtputf8", "pipelining", "size", "8bitmime", "enhancedstatuscodes", "starttls"}
        assert set(smtp.esmtp_features) == before
        smtp.starttls(context=tls.client)
        smtp.ehlo()
        assert set(smtp.esmtp_features) == before - {"starttls"}
        smtp.sendmail("a@d0.test", ["b@d1.test"], LETTER)
    assert inbox.raw() == [LETTER]
    (stored,) = inbox.call(inbox.spool.find)
    assert (stored.envelope.tls or "").startswith("TLSv1.3 ")


def test_tls_from_the_first_octet_on(inbox: Inbox, tls: Tls) -> None:
    with smtplib.SMTP_SSL("127.0.0.1", inbox.smtps, context=tls.client, timeout=5) as smtp:
        smtp.ehlo()
        assert "starttls" not in smtp.esmtp_features
        smtp.sendmail("a@d0.test", ["b@d1.test"], LETTER)
    assert inbox.raw() == [LETTER]


def test_commands_behind_starttls_are_dropped(inbox: Inbox, tls: Tls) -> None:
    """RFC 3207, 4.2; CVE-2011-0411."""
    with socket.create_connection(("127.0.0.1", inbox.port), timeout=5) as plain:
        assert plain.recv(100).startswith(b"220 ")
        plain.sendall(b"EHLO x\r\nMAIL FROM:<evil@d0.test>\r\nSTARTTLS\r\nRCPT TO:<b@d1.test>\r\nNOOP\r\n")
        got = b""
        while not got.endswith(b"220 2.0.0 Ready to start TLS\r\n"):
            got += plain.recv(1000)
        with tls.client.wrap_socket(plain, server_hostname="localhost") as secured:
            secured.sendall(b"RCPT TO:<b@d1.test>\r\nMAIL FROM:<a@d0.test>\r\nEHLO x\r\nSTARTTLS\r\nQUIT\r\n")
            text = b""
            while b"221 " not in text:
                text += secured.recv(1000)
    replies = [line.decode() for line in text.split(b"\r\n") if line[3:4] == b" "]
    assert [reply[:3] for reply in replies] == ["503", "503", "250", "503", "221"]


def test_a_handshake_that_fails_ends_the_connection_only(inbox: Inbox) -> None:
    with socket.create_connection(("127.0.0.1", inbox.port), timeout=5) as plain:
        until_tls_begins(plain)
        plain.sendall(b"NOOP\r\n" * 10)
        with suppress(ConnectionError):
            while plain.recv(1000):
                pass
    with client(inbox) as smtp:
        smtp.sendmail("a@d0.test", ["b@d1.test"], LETTER)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("hello", [b"", b"NOOP\r\n" * 10])
def test_connections_count_during_a_handshake_which_takes_limited_time(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, hello: bytes, *, implicit: bool
) -> None:
    for module in ("session", "inbox.server"):
        monkeypatch.setattr(f"orchestrator.agents.{module}.HANDSHAKE_S", 1.0)
    books = inbox.reception.books
    with ExitStack() as stack:
        for _ in range(20):
            opened = socket.create_connection(("127.0.0.1", inbox.smtps if implicit else inbox.port), timeout=5)
            stack.enter_context(opened)
            if not implicit:
                opened.sendall(b"EHLO x\r\nSTARTTLS\r\n")
                while not (opened.recv(1000)).endswith(b"TLS\r\n"):
                    pass
            opened.sendall(hello)
        while not hello and books.open < 20:
            assert books.accepted <= 20
        with suppress(ConnectionError):
            while opened.recv(1000):
                pass
        inbox.reception.most = 20
        end = time.monotonic() + 5
        while books.open and time.monotonic() < end:
            inbox.call(bool)
        assert books.open == 0
    with client(inbox) as smtp:
        smtp.sendmail("a@d0.test", ["b@d1.test"], LETTER)


def test_a_client_that_leaves_during_the_handshake_is_forgotten(inbox: Inbox, tls: Tls) -> None:
    for _ in range(20):
        socket.create_connection(("127.0.0.1", inbox.smtps), timeout=5).close()
    with smtplib.SMTP_SSL("localhost", inbox.smtps, timeout=5, context=tls.client) as smtp:
        smtp.noop()
    books, end = inbox.reception.books, time.monotonic() + 5
    while books.open and time.monotonic() < end:
        inbox.call(bool)
    assert books.open == 0


def test_silent_handshakes_count_in_the_limit_of_connections(inbox: Inbox) -> None:
    inbox.reception.most = 5
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", inbox.smtps), timeout=5)) for _ in range(6)
        ]
        assert silent[-1].recv(1) == b""
        with pytest.raises(smtplib.SMTPConnectError, match="Too many connections"):
            client(inbox)


def test_a_rule_at_connect_is_answered_inside_tls(inbox: Inbox, tls: Tls) -> None:
    inbox.rules({"on": "connect", "then": "tarpit", "delay_s": 0.3, "times": 1}, {"on": "connect", "then": "reject"})
    began = time.monotonic()
    with smtplib.SMTP_SSL("localhost", inbox.smtps, timeout=5, context=tls.client) as smtp:
        assert time.monotonic() - began > 0.3
        smtp.sendmail("a@d0.test", ["b@d1.test"], LETTER)
    with pytest.raises(smtplib.SMTPConnectError):
        smtplib.SMTP_SSL("localhost", inbox.smtps, timeout=5, context=tls.client)


def test_a_reset_during_the_handshake_ends_the_session(inbox: Inbox) -> None:
    with socket.create_connection(("127.0.0.1", inbox.port), timeout=5) as plain:
        until_tls_begins(plain)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: inbox.call(lambda: inbox.reception.books.open) == 0)


def test_smtputf8(inbox: Inbox) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Grüße", "jörg@d0.test", "рик@пример.test"
    message.set_content("ü")
    with client(inbox) as smtp:
        smtp.send_message(message)
        smtp.ehlo()
        assert smtp.docmd("MAIL FROM:<a@d0.test>")[0] == 250
        assert smtp.docmd("RCPT TO:<рик@d1.test>".encode().decode("latin-1")) == (553, ASCII_ONLY)
        smtp.rset()
    (stored,) = inbox.call(inbox.spool.find)
    assert (stored.envelope.sender, stored.envelope.recipients) == ("jörg@d0.test", ("рик@пример.test",))


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"MAIL FROM:<\xfc@d0.test> SMTPUTF8", "501 5.5.4"),
        ("MAIL FROM:<ü@d0.test>".encode(), "550 5.6.7"),  # RFC 6531, 3.5
        ("MAIL FROM:<a@ü.test> BODY=8BITMIME".encode(), "550 5.6.7"),
    ],
)
def test_octets_that_are_no_utf8_or_not_announced_are_refused(inbox: Inbox, line: bytes, reply: str) -> None:
    assert talk(inbox, b"EHLO x\r\n" + line + b"\r\nQUIT\r\n")[-2][:9] == reply


# ------------------------------------------------------------------------------------------------------ authentication


@pytest.mark.parametrize("mechanism", ["plain", "login"])
@pytest.mark.parametrize("initial", [True, False])
def test_a_user_logs_in(make_inbox: Callable[..., Inbox], mechanism: str, initial: bool) -> None:  # noqa: FBT001
    inbox = make_inbox(users={"ann": "päss"}, require_auth=True)
    with client(inbox) as smtp:
        smtp.ehlo()
        assert smtp.docmd("MAIL FROM:<a@d0.test>") == (530, b"5.7.0 Authentication required")
        smtp.user, smtp.password = "ann", "wrong"
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.auth(mechanism, getattr(smtp, f"auth_{mechanism}"), initial_response_ok=initial)
        smtp.docmd("*")
        smtp.password = "päss"  # noqa: S105
        assert _auth(smtp, mechanism, initial) == 235
        smtp.sendmail("a@d0.test", ["b@d1.test"], LETTER)
    (stored,) = inbox.call(inbox.spool.find)
    assert stored.envelope.user == "ann"
    assert [(attempt["on"], attempt["reply"][:3]) for attempt in inbox.attempts()] == [("mail", "530"), ("auth", "535")]


def _auth(smtp: smtplib.SMTP, mechanism: str, initial: bool) -> int:  # noqa: FBT001
    from base64 import b64encode  # noqa: PLC0415

    user, password = smtp.user.encode(), str(smtp.password).encode()
    if mechanism == "plain":
        words = b64encode(b"\0" + user + b"\0" + password).decode()
        if initial:
            return smtp.docmd(f"AUTH PLAIN {words}")[0]
        assert smtp.docmd("AUTH PLAIN") == (334, b"")
        return smtp.docmd(words)[0]
    name = b64encode(user).decode()
    assert (smtp.docmd(f"AUTH LOGIN {name}") if initial else (smtp.docmd("AUTH LOGIN"), smtp.docmd(name))[1])[0] == 334
    return smtp.docmd(b64encode(password).decode())[0]


def test_auth_that_is_cancelled_or_unknown(inbox: Inbox) -> None:
    text = (
        b"EHLO x\r\nAUTH PLAIN\r\n*\r\nAUTH GSSAPI\r\nAUTH PLAIN !!!\r\nAUTH PLAIN AHgAeQ==\r\nAUTH PLAIN =\r\nQUIT\r\n"
    )
    replies = [line[:3] for line in talk(inbox, text) if line[3] == " "]
    assert replies == ["220", "250", "334", "501", "504", "501", "235", "503", "221"]


def test_tls_may_be_required(make_inbox: Callable[..., Inbox], tls: Tls) -> None:
    inbox = make_inbox(require_tls=True)
    with client(inbox) as smtp:
        smtp.ehlo()
        assert "auth" not in smtp.esmtp_features
        assert smtp.docmd("AUTH PLAIN AHgAeQ==")[0] == 530
        assert smtp.docmd("MAIL FROM:<a@d0.test>")[0] == 530
        smtp.starttls(context=tls.client)
        assert smtp.login("x", "y")[0] == 235
        smtp.sendmail("a@d0.test", ["b@d1.test"], LETTER)
    assert [(a["on"], a["sender"], a["reply"][:3]) for a in inbox.attempts()] == [
        ("auth", None, "530"),
        ("mail", "a@d0.test", "530"),
    ]


# --------------------------------------------------------------------------------------------------------------- rules


def sent(inbox: Inbox, to: str = "bob@d1.test", sender: str = "a@d0.test") -> str:
    """Send one message; return the first reply that is not a success, or the last one."""
    with client(inbox) as smtp:
        try:
            smtp.sendmail(sender, [to], LETTER)
        except smtplib.SMTPRecipientsRefused as refused:
            ((code, text),) = refused.recipients.values()
        except smtplib.SMTPResponseException as refused:
            code, text = refused.smtp_code, bytes(refused.smtp_error)  # type: ignore[arg-type]
        else:
            return "kept"
        return f"{code} {text.decode()}"


def test_mail_is_deferred_twice_and_taken_then(inbox: Inbox) -> None:
    inbox.rules({"to": "*@d1.test", "then": "defer", "reply": "451 4.7.1 later", "times": 2})
    assert [sent(inbox) for _ in range(3)] == ["451 4.7.1 later"] * 2 + ["kept"]
    assert sent(inbox, "bob@d2.test") == "kept"
    assert [(a["on"], a["rule"], a["then"], a["reply"]) for a in inbox.attempts()] == [
        ("rcpt", 1, "defer", "451 4.7.1 later")
    ] * 2


@pytest.mark.parametrize("pattern", ["*@bücher.example", "*@xn--BCHER-kva.example", "JOSÉ@*"])
@pytest.mark.parametrize("domain", ["Bücher.example", "xn--bcher-kva.example"])
def test_a_rule_knows_both_forms_of_a_domain(inbox: Inbox, pattern: str, domain: str) -> None:
    inbox.rules({"to": pattern, "then": "reject", "reply": "550 5.1.1 no"})
    text = f"EHLO x\r\nMAIL FROM:<a@d0.test> SMTPUTF8\r\nRCPT TO:<josé@{domain}>\r\nQUIT\r\n"
    assert "550 5.1.1 no" in talk(inbox, text.encode())


@pytest.mark.parametrize("on", ["connect", "ehlo", "mail", "rcpt", "data", "message"])
def test_a_session_is_refused_at_each_moment(inbox: Inbox, on: str) -> None:
    inbox.rules({"on": on, "then": "reject", "reply": "554 5.7.1 not you"})
    text = b"EHLO x\r\nMAIL FROM:<a@d0.test>\r\nRCPT TO:<b@d1.test>\r\nDATA\r\n"
    text += b"x\r\n.\r\nQUIT\r\n"
    replies = [line for line in talk(inbox, text) if line[3] == " "]
    place = ["connect", "ehlo", "mail", "rcpt", "data", "message"].index(on)
    assert replies[place] == "554 5.7.1 not you"
    assert inbox.raw() == []
    assert list(inbox.spool.folder.glob("incoming-*")) == []


@pytest.mark.parametrize("on", ["connect", "ehlo", "mail", "rcpt", "data", "message"])
def test_a_tarpit_answers_late_at_each_moment_and_loses_nothing(inbox: Inbox, on: str) -> None:
    inbox.rules({"on": on, "then": "tarpit", "delay_s": 0.2})
    text = b"EHLO x\r\nMAIL FROM:<a@d0.test>\r\nRCPT TO:<b@d1.test>\r\nDATA\r\n" + LETTER.replace(b".d", b"..d")
    before = time.monotonic()
    replies = [line[:3] for line in talk(inbox, text + b".\r\nQUIT\r\n") if line[3] == " "]
    assert time.monotonic() - before >= 0.2
    assert replies == ["220", "250", "250", "250", "354", "250", "221"]
    assert inbox.raw() == [LETTER]


@pytest.mark.parametrize(("then", "code"), [("reject", "554"), ("defer", "421")])
def test_a_refused_connection_waits_for_quit(inbox: Inbox, then: str, code: str) -> None:
    """RFC 5321, 3.1; 421 closes (3.8)."""
    inbox.rules({"on": "connect", "then": then})
    with (
        socket.create_connection(("127.0.0.1", inbox.port), timeout=5) as connection,
        connection.makefile("rb") as file,
    ):
        assert file.readline()[:4].decode() == f"{code} "
        if then == "reject":
            connection.sendall(b"EHLO x\r\nSTARTTLS\r\nQUIT\r\n")
        assert [line[:3] for line in file] == ([b"503", b"503", b"221"] if then == "reject" else [])


def test_a_refusal_for_a_later_recipient_counts_on_data(inbox: Inbox) -> None:
    inbox.rules(
        {"to": "slow@*", "on": "data", "then": "tarpit", "delay_s": 30},
        {"to": "bad@*", "on": "data", "then": "reject", "reply": "554 5.7.1 not you"},
    )
    with client(inbox) as smtp:
        smtp.ehlo()
        smtp.mail("a@d0.test")
        for to in ("slow", "bad"):
            smtp.rcpt(f"{to}@d1.test")
        assert smtp.docmd("DATA") == (554, b"5.7.1 not you")


def test_a_tarpit_at_auth_logs_in_late(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(users={"ann": "secret"})
    inbox.rules({"on": "auth", "then": "tarpit", "delay_s": 0.2})
    with client(inbox) as smtp:
        before = time.monotonic()
        assert smtp.login("ann", "secret")[0] == 235
        assert time.monotonic() - before >= 0.2


def test_a_pace_is_kept_for_many_recipients_of_one_write(inbox: Inbox) -> None:
    inbox.rules({"then": "pace", "per_second": 50})
    text = b"EHLO x\r\nMAIL FROM:<a@d0.test>\r\n" + b"RCPT TO:<b@d1.test>\r\n" * 11 + b"DATA\r\nx\r\n.\r\nQUIT\r\n"
    before = time.monotonic()
    replies = talk(inbox, text)
    assert time.monotonic() - before >= 10 / 50
    assert [reply[:3] for reply in replies[-3:]] == ["354", "250", "221"]


def test_a_pace_waits_for_no_client_that_left(inbox: Inbox) -> None:
    inbox.rules({"then": "pace", "per_second": 2})
    text = b"EHLO x\r\nMAIL FROM:<a@d0.test>\r\nRCPT TO:<b@d1.test>\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", inbox.port), timeout=5) as leaves:
            leaves.sendall(text)
    wait_until(lambda: len(inbox.attempts()) == 20)
    wait_until(lambda: inbox.call(lambda: inbox.reception.books.open) == 0)
    before = time.monotonic()
    talk(inbox, text + b"QUIT\r\n")
    assert time.monotonic() - before < 4


def test_a_refused_message_takes_no_turn_of_a_pace(inbox: Inbox) -> None:
    inbox.rules(
        {"to": "paced@*", "on": "message", "then": "pace", "per_second": 2},
        {"to": "bad@*", "on": "message", "then": "reject"},
    )
    recipients = b"RCPT TO:<paced@d1.test>\r\n" * 20 + b"RCPT TO:<bad@d1.test>\r\n"
    envelope = b"MAIL FROM:<a@d0.test>\r\n" + recipients + b"DATA\r\n"
    talk(inbox, b"EHLO x\r\n" + envelope + b"x\r\n.\r\nQUIT\r\n")
    before = time.monotonic()
    assert sent(inbox, "paced@d1.test") == "kept"
    assert time.monotonic() - before < 4


@pytest.mark.parametrize(
    ("then", "error"), [("reset", ConnectionResetError), ("disconnect", smtplib.SMTPServerDisconnected)]
)
def test_a_connection_is_broken_off_on_each_third_data(inbox: Inbox, then: str, error: type[OSError]) -> None:
    inbox.rules({"from": "*", "on": "data", "then": then, "every": 3})
    assert [sent(inbox) for _ in range(2)] == ["kept", "kept"]
    with pytest.raises((error, smtplib.SMTPServerDisconnected)):
        sent(inbox)
    assert sent(inbox) == "kept"
    assert len(inbox.raw()) == 3


def test_a_421_closes_the_connection(inbox: Inbox) -> None:
    inbox.rules({"then": "rate", "per_minute": 1, "reply": "421 4.7.0 Slow down"})
    text = b"EHLO x\r\nMAIL FROM:<a@d0.test>\r\nRCPT TO:<b@d1.test>\r\nRCPT TO:<c@d1.test>\r\nDATA\r\n"
    assert talk(inbox, text)[-2:] == ["250 2.1.5 Ok", "421 4.7.0 Slow down"]


def test_dropped_mail_is_accepted_and_not_kept(inbox: Inbox) -> None:
    inbox.rules({"to": "bob@*", "then": "drop"})
    with client(inbox) as smtp:
        smtp.sendmail("a@d0.test", ["bob@d1.test", "eve@d1.test"], LETTER)
        smtp.sendmail("a@d0.test", ["bob@d1.test"], LETTER)
    (stored,) = inbox.call(inbox.spool.find)
    assert stored.envelope.recipients == ("eve@d1.test",)


@pytest.fixture
def relay(make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """Return an inbox in the place of the relay."""
    relay = make_inbox()
    monkeypatch.setattr(bounce, "_PORT", relay.port)
    return relay


@pytest.fixture
def bounces(inbox: Inbox, relay: Inbox) -> Inbox:  # noqa: ARG001
    """Return an inbox whose rule bounces every message."""
    inbox.reception.bouncer = Bouncer("127.0.0.1", ["d0.test"], inbox.reception.record)
    inbox.rules({"then": "bounce"})
    return inbox


def raises(error: Exception) -> Callable[..., None]:
    """Return a function that raises an error."""

    def fail(*_: object) -> None:
        raise error

    return fail


def notified(inbox: Inbox) -> list[dict[str, object]]:
    """Return what became of each notification, by recipient."""
    events = inbox.call(lambda: [event.data for event in inbox.spool.events.since(kinds=["bounce"])])
    return sorted(events, key=lambda event: str(event["recipient"]))


def test_a_bounce_is_due_for_its_recipient_only(inbox: Inbox) -> None:
    due: list[tuple[str, str, bytes, float]] = []

    class Noted(Bouncer):
        def due(self, sender: str, recipient: str, message: bytes, seconds: float) -> None:
            due.append((sender, recipient, message, seconds))

    inbox.reception.bouncer = Noted("127.0.0.1", ["d0.test"], inbox.reception.record)
    inbox.rules({"to": "bob@*", "then": "bounce", "delay_s": 3})
    assert sent(inbox, sender="a@outside.test") == "550 5.7.1 A notification would leave the bed"
    with client(inbox) as smtp:
        smtp.sendmail("a@d0.test", ["bob@d1.test", "eve@d1.test"], LETTER)
    assert due == [("a@d0.test", "bob@d1.test", b"Subject: hello", 3.0)]
    (stored,) = inbox.call(inbox.spool.find)
    assert stored.envelope.recipients == ("eve@d1.test",)


def test_a_notification_has_the_three_parts_of_rfc_3464() -> None:
    message = message_from_bytes(
        notification("a@d0.test", "bob@d1.test", header_section(b"Subject: x\r\n y\r\n\r\nbody\r\n"))
    )
    assert (message.get_content_type(), message.get_param("report-type")) == ("multipart/report", "delivery-status")
    parts = cast("list[Message]", message.get_payload())
    assert [part.get_content_type() for part in parts] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    _, recipient = cast("list[Message]", parts[1].get_payload())
    assert (recipient["Final-Recipient"], recipient["Action"]) == ("rfc822; bob@d1.test", "failed")
    assert str(parts[2].get_payload()).splitlines() == ["Subject: x", " y"]


def test_a_notification_quotes_a_header_section_in_utf8() -> None:
    message = message_from_bytes(notification("jörg@d0.test", "bob@d1.test", "Subject: Grüße".encode()))
    head = cast("list[Message]", message.get_payload())[2]
    assert (head.get_content_charset(), head.get_payload(decode=True)) == ("utf-8", "Subject: Grüße\n".encode())


@pytest.mark.parametrize("sender", ["a@d0.test", "jörg@d0.test"])
def test_each_notification_leaves_an_event(bounces: Inbox, relay: Inbox, sender: str) -> None:
    mail = b"MAIL FROM:<%b> SMTPUTF8\r\n" % sender.encode()
    recipients = b"RCPT TO:<bob@d1.test>\r\nRCPT TO:<eve@d1.test>\r\n"
    letter = b"Subject: \xff\xc3\xbc\r\n\r\nbody\r\n"
    talk(bounces, b"EHLO x\r\n" + mail + recipients + b"DATA\r\n" + letter + b".\r\nQUIT\r\n")
    wait_until(lambda: len(notified(bounces)) == 2)
    assert notified(bounces) == [{"sender": sender, "recipient": f"{name}@d1.test"} for name in ("bob", "eve")]
    assert len(relay.raw()) == 2


def test_the_api_lists_notifications_until_the_relay_has_taken_them(bounces: Inbox, relay: Inbox) -> None:
    relay.rules({"on": "message", "then": "tarpit", "delay_s": 1.0})
    assert bounces.client.get("/api/bounces").json() == {"waiting": [], "total": 0}
    with client(bounces) as smtp:
        smtp.sendmail("a@d0.test", ["bob@d1.test"], "Subject: a\r\n\r\n")
    waiting = {"waiting": [{"sender": "a@d0.test", "recipient": "bob@d1.test"}], "total": 1}
    assert bounces.client.get("/api/bounces").json() == waiting
    wait_until(lambda: len(relay.raw()) == 1)
    assert bounces.client.get("/api/bounces").json() == waiting, "the relay has not answered yet"
    wait_until(lambda: notified(bounces) != [])
    assert bounces.client.get("/api/bounces").json() == {"waiting": [], "total": 1}


def test_notifications_beyond_the_limit_are_recorded_and_the_others_use_few_connections(
    bounces: Inbox, relay: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounce, "MOST", 20)
    relay.rules({"on": "connect", "then": "tarpit", "delay_s": 0.2})
    with client(bounces) as smtp:
        smtp.sendmail("a@d0.test", [f"{i}@d1.test" for i in range(21)], LETTER)
    wait_until(lambda: relay.call(lambda: relay.reception.books.open) > 1)
    most = 0
    while len(notified(bounces)) < 21:
        most = max(most, relay.call(lambda: relay.reception.books.open))
    assert most <= bounce.CONNECTIONS + 1  # one may be closing
    (refused,) = [event for event in notified(bounces) if "error" in event]
    assert (refused["recipient"], refused["error"]) == ("20@d1.test", "20 notifications wait, the limit")
    assert len(relay.raw()) == 20


def test_a_message_that_is_not_kept_is_not_bounced_either(bounces: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    bounces.rules({"to": "b*", "then": "bounce"})
    with monkeypatch.context() as broken, client(bounces) as smtp:
        broken.setattr(bounces.spool, "keep", raises(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(smtplib.SMTPDataError):
            smtp.sendmail("a@d0.test", ["bob@d1.test", "eve@d1.test"], LETTER)
    with client(bounces) as smtp:
        smtp.sendmail("a@d0.test", ["bea@d1.test", "eve@d1.test"], LETTER)
    wait_until(lambda: "bea@d1.test" in [event["recipient"] for event in notified(bounces)])
    assert len(notified(bounces)) == 1


# -------------------------------------------------------------------------------------------------------------- bounds


def test_a_full_inbox_says_so_and_takes_mail_again(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(max_messages=1)
    assert [sent(inbox), sent(inbox)] == ["kept", "452 4.3.1 1 messages are kept, the limit"]
    inbox.call(inbox.spool.delete)
    assert sent(inbox) == "kept"


def test_what_a_full_inbox_refuses_is_recorded_with_its_sender(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(max_messages=1)
    text = TRANSACTION + LETTER.replace(b".d", b"..d") + b".\r\nMAIL FROM:<c@d2.test>\r\nMAIL FROM:c\r\nQUIT\r\n"
    talk(inbox, b"EHLO x\r\n" + text)
    assert [(a["sender"], a["recipients"], a["reply"][:9]) for a in inbox.attempts()] == [
        ("c@d2.test", [], "452 4.3.1")
    ]


def test_each_limit_that_is_met_is_recorded(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(max_size=1000)
    recipients = b"".join(b"RCPT TO:<%d@d1.test>\r\n" % i for i in range(101))
    replies = talk(
        inbox,
        b"EHLO x\r\nMAIL FROM:<a@d0.test> SIZE=1001\r\nMAIL FROM:<a@d0.test>\r\n" + recipients + b"QUIT\r\n",
    )
    assert replies[-2][:9] == "452 4.5.3"
    big, many = inbox.attempts()
    assert (big["on"], big["sender"], big["recipients"], big["reply"][:9]) == ("mail", "a@d0.test", [], "552 5.3.4")
    assert (many["on"], many["sender"], many["reply"][:9]) == ("rcpt", "a@d0.test", "452 4.5.3")
    assert many["recipients"] == [f"{i}@d1.test" for i in range(101)]


def test_sessions_that_are_open_when_it_gets_full_are_told_at_the_end_of_data(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(max_messages=1)
    with client(inbox) as smtp:
        smtp.ehlo()
        smtp.mail("a@d0.test")
        smtp.rcpt("b@d1.test")
        assert sent(inbox) == "kept"
        assert smtp.data(b"x") == (452, b"4.3.1 1 messages are kept, the limit")
    assert len(inbox.raw()) == 1


def test_a_message_that_is_too_big_leaves_nothing(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(max_size=200_000)
    body = b"x" * 998 + b"\r\n"
    replies = talk(
        inbox,
        b"EHLO x\r\nMAIL FROM:<a@d0.test> SIZE=200001\r\nMAIL FROM:<a@d0.test>\r\nRCPT TO:<b@d1.test>\r\nDATA\r\n"
        + body * 300
        + b".\r\nQUIT\r\n",
    )
    assert [line[:9] for line in replies if line[:2] == "55"] == ["552 5.3.4", "552 5.3.4"]
    assert (inbox.raw(), [p for p in inbox.spool.folder.iterdir() if "index" not in p.name]) == ([], [])


def test_a_client_that_leaves_in_the_middle_leaves_nothing(inbox: Inbox) -> None:
    with socket.create_connection(("127.0.0.1", inbox.port), timeout=5) as connection:
        connection.sendall(b"EHLO x\r\nMAIL FROM:<a@d0.test>\r\nRCPT TO:<b@d1.test>\r\nDATA\r\n" + b"x" * 200_000)
        while not list(inbox.spool.folder.glob("incoming-*")):
            connection.sendall(b"x")
    wait_until(lambda: not inbox.call(lambda: list(inbox.spool.folder.glob("incoming-*"))))
    assert inbox.raw() == []


def test_many_clients_at_once_lose_no_message(inbox: Inbox) -> None:
    async def deliver(i: int) -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=inbox.port, start_tls=False) as smtp:
            for k in range(10):
                await smtp.sendmail("a@d0.test", f"user{i}@d1.test", b"Subject: %d-%d\r\n\r\n%b\r\n" % (i, k, b"x" * k))

    async def all_of_them() -> None:
        await asyncio.gather(*(deliver(i) for i in range(30)))

    asyncio.run(all_of_them())
    subjects = {stored.head["subject"] for stored in inbox.call(lambda: inbox.spool.find(limit=1000))}
    assert subjects == {f"{i}-{k}" for i in range(30) for k in range(10)}
    assert sorted(inbox.raw()) == sorted(
        b"Subject: %d-%d\r\n\r\n%b\r\n" % (i, k, b"x" * k) for i in range(30) for k in range(10)
    )


# -------------------------------------------------------------------------------------------- strangers and their time


@pytest.mark.parametrize("text", [b"", b"EHL", b"EHLO x\r\n", b"EHLO x\r\n" + TRANSACTION + b"half"])
def test_a_session_without_progress_is_ended(make_inbox: Callable[..., Inbox], text: bytes) -> None:
    inbox = make_inbox(timeout_s=0.2)
    began = time.monotonic()
    assert talk(inbox, text)[-1] == "421 4.4.2 Timeout"
    assert 0.2 <= time.monotonic() - began < 2
    assert inbox.raw() == []


def test_a_client_that_reads_nothing_is_ended_too(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(timeout_s=0.3)
    with socket.create_connection(("127.0.0.1", inbox.port), timeout=10) as silent:
        with pytest.raises(ConnectionError):
            silent.sendall(b"EHLO x\r\n" * 4_000_000)
        with client(inbox) as smtp:
            smtp.sendmail("a@d0.test", ["b@d1.test"], LETTER)


def test_what_comes_during_a_tarpit_is_not_kept_in_memory(inbox: Inbox) -> None:
    inbox.rules({"on": "connect", "then": "tarpit", "delay_s": 60})
    taken = 0
    with socket.create_connection(("127.0.0.1", inbox.port), timeout=1) as eager, suppress(TimeoutError):
        while taken < 200_000_000:
            taken += eager.send(b"NOOP\r\n" * 100_000)
    assert taken < 100_000_000, "more than the kernel's buffers hold (tcp(7))"


def test_a_long_line_ends_the_exchange_of_auth_in_whatever_pieces(inbox: Inbox) -> None:
    for pieces in ([b"A" * 4000 + b"\r\n"], [b"A" * 2000, b"A" * 2000 + b"\r\n"]):
        with client(inbox) as smtp:
            smtp.ehlo()
            assert smtp.docmd("AUTH LOGIN")[0] == 334
            for piece in pieces:
                cast("socket.socket", smtp.sock).sendall(piece)
                inbox.call(lambda: None)
            assert smtp.getreply()[0] == 500
            assert smtp.noop()[0] == 250


def test_a_login_before_starttls_is_forgotten(make_inbox: Callable[..., Inbox], tls: Tls) -> None:
    inbox = make_inbox(require_auth=True)
    with client(inbox) as smtp:
        smtp.login("ann", "secret")
        smtp.starttls(context=tls.client)
        smtp.ehlo()
        assert smtp.mail("a@d0.test")[0] == 530


def test_a_name_with_a_bare_line_feed_is_none(inbox: Inbox) -> None:
    assert [reply[:3] for reply in talk(inbox, b"EHLO x\nMAIL FROM:<a@d0.test>\r\nQUIT\r\n")] == ["220", "501", "221"]
