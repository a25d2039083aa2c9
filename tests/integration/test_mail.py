"""The bed `mail` on the real engine: a lab on a bridge, a relay, a mailbox with an API, DNS that can be broken."""

import json
import smtplib
import ssl
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import dns.message
import dns.query
import dns.rcode
import httpx
import pytest

from orchestrator import services
from orchestrator.bed.wiring import AUTHORITY
from orchestrator.errors import ExitCode
from orchestrator.hosts import Host
from tests.integration.beds import Up
from tests.integration.command import answer, call
from tests.integration.traces import DEVICES, on_the_host

pytestmark = pytest.mark.docker


@pytest.fixture
def inbox(mail: Up) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{mail.port('inbox', '8025/tcp')}", timeout=40) as client:
        client.put("/api/rules", json=[]).raise_for_status()
        client.delete("/api/messages").raise_for_status()
        yield client


def letter(to: str, subject: str = "hello") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ann@example.org", to, subject
    message.set_content("text\n")
    return message


def through_the_relay(mail: Up, *messages: EmailMessage) -> None:
    with smtplib.SMTP("127.0.0.1", mail.port("relay", "25/tcp"), timeout=10) as smtp:
        for message in messages:
            smtp.send_message(message)


def wait(inbox: httpx.Client, **conditions: Any) -> list[dict[str, Any]]:
    answer = inbox.get("/api/wait", params={"timeout": 30, **conditions})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["messages"])


def test_it_has_neither_veth_pair_nor_rule_on_the_host(real_engine: Host, mail: Up) -> None:
    assert not list(DEVICES.glob(f"tb{mail.id}*"))
    assert mail.id not in on_the_host(real_engine, "nft", "list", "ruleset")
    lab = next(f for f in real_engine.find({"testbed.id": mail.id}) if f.name.endswith("-lab"))
    bridge = json.loads(on_the_host(real_engine, "ip", "-json", "-4", "address", "show", "dev", f"br-{lab.id[:12]}"))
    assert [address for device in bridge for address in device.get("addr_info", [])] == []


@pytest.mark.parametrize(("node", "service"), [("gate", "dns-gate"), ("inbox", "inbox")])
def test_a_daemon_holds_no_further_rights(mail: Up, node: str, service: str) -> None:
    status = dict(line.split(":\t", 1) for line in mail.shell(node, "cat /proc/1/status").splitlines() if ":\t" in line)
    assert services.service(service).capabilities == ("NET_BIND_SERVICE",)
    assert (int(status["CapBnd"], 16), status["NoNewPrivs"]) == (1 << 10, "1")  # capabilities(7)


@pytest.mark.parametrize("node", ["gate", "inbox", "relay", "dns"])
def test_no_way_leads_out_of_it(mail: Up, node: str) -> None:
    assert mail.shell(node, "ip route show default; ip -6 route show default") == ""
    assert "table inet bed" in mail.shell(node, "cat /testbed/wall.loaded")


def test_mail_goes_through_the_relay_to_the_mailbox_of_a_well_known_domain(mail: Up, inbox: httpx.Client) -> None:
    through_the_relay(mail, letter("bob@example.com"))
    (message,) = wait(inbox, to="bob@example.com")
    assert (message["sender"], message["subject"]) == ("ann@example.org", "hello")
    assert "by relay.nodes.test (Postfix)" in inbox.get(f"/api/messages/{message['id']}/raw").text


def test_its_certificate_is_of_the_authority_of_the_bed(mail: Up, inbox: httpx.Client) -> None:
    trust = ssl.create_default_context(cadata=mail.shell("relay", f"cat {AUTHORITY}"))
    with smtplib.SMTP("localhost", mail.port("inbox", "587/tcp"), timeout=10) as smtp:
        smtp.starttls(context=trust)
        smtp.login("any", "password")
        smtp.send_message(letter("carol@example.net"))
    with smtplib.SMTP_SSL("localhost", mail.port("inbox", "465/tcp"), context=trust, timeout=10) as smtp:
        smtp.send_message(letter("carol@example.net"))
    assert [message["user"] for message in wait(inbox, to="carol@example.net", count=2)] == [None, "any"]


@pytest.mark.parametrize("port", ["587/tcp", "465/tcp"])
def test_the_relay_takes_mail_for_submission_with_tls_and_password_only(
    mail: Up, inbox: httpx.Client, port: str
) -> None:
    trust = ssl.create_default_context(cadata=mail.shell("relay", f"cat {AUTHORITY}"))
    at = "localhost", mail.port("relay", port)
    implicit = port == "465/tcp"
    with smtplib.SMTP_SSL(*at, context=trust, timeout=10) if implicit else smtplib.SMTP(*at, timeout=10) as smtp:
        if not implicit:
            with pytest.raises(smtplib.SMTPNotSupportedError):
                smtp.login("testbed", "testbed")
            assert smtp.docmd("MAIL", "FROM:<ann@example.org>")[0] == 530  # RFC 3207, 4
            smtp.starttls(context=trust)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            smtp.send_message(letter("carol@example.com"))
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login("testbed", "wrong")
        smtp.login("testbed", "testbed")
        smtp.send_message(letter("cärol@example.com", port))
    (message,) = wait(inbox, to="cärol@example.com", subject=port)
    assert "(Authenticated sender: testbed@" in inbox.get(f"/api/messages/{message['id']}/raw").text


def test_the_relay_offers_tls_on_port_25_and_no_password(mail: Up) -> None:
    trust = ssl.create_default_context(cadata=mail.shell("relay", f"cat {AUTHORITY}"))
    with smtplib.SMTP("localhost", mail.port("relay", "25/tcp"), timeout=10) as smtp:
        smtp.starttls(context=trust)
        smtp.ehlo()
        assert not smtp.has_extn("auth")
        assert smtp.sendmail("ann@example.org", "carol@example.com", "Subject: x\r\n\r\ntext\r\n") == {}


def test_the_gate_answers_the_host_as_well(mail: Up) -> None:
    query = dns.message.make_query("example.com", "MX")
    for ask, port in ((dns.query.udp, "53/udp"), (dns.query.tcp, "53/tcp")):
        answer = ask(query, "127.0.0.1", port=mail.port("gate", port), timeout=10)
        assert [str(item) for item in answer.answer[0]] == ["10 mx.example.com."]
    nothing = dns.query.udp(dns.message.make_query("example.edu", "MX"), "127.0.0.1", port=mail.port("gate", "53/udp"))
    assert nothing.rcode() == dns.rcode.NXDOMAIN


@pytest.mark.usefixtures("inbox")
def test_the_commands_find_mail_and_wait_for_it(mail: Up) -> None:
    late = call("wait-mail", "--bed", mail.id, "--to", "eve@example.org", "--timeout", "0")
    assert late.returncode == ExitCode.ENGINE
    assert "0 of 0 messages match; last refused attempts: none was refused" in late.stderr
    through_the_relay(mail, letter("eve@example.org", "welcome back"), letter("mallory@example.org"))
    (found,) = answer("wait-mail", "--bed", mail.id, "--to", "eve@example.org", "--subject", "welcome")
    assert (found["sender"], found["recipients"]) == ("ann@example.org", ["eve@example.org"])
    both = answer("wait-mail", "--bed", mail.id, "--sender", "ann@example.org", "--count", "2")
    listing = answer("inbox", "--bed", mail.id, "--query", "to:eve@example.org")
    assert (listing["messages"], listing["total"]) == ([found], 1)
    assert found in both
    after = [one["id"] for one in both if one != found]
    newer = answer("wait-mail", "--bed", mail.id, "--sender", "ann@example.org", "--after", str(found["id"]))
    assert [one["id"] for one in newer] == [id_ for id_ in after if id_ > found["id"]]
    page = call("inbox", "--bed", mail.id).stdout.splitlines()[-1]
    assert page == f"messages: 2; page: http://127.0.0.1:{mail.port('inbox', '8025/tcp')}/"
    assert answer("inbox", "--bed", mail.id, "--query", "to:eve@example.org", "--delete") == [found["id"]]
    assert call("inbox", "--bed", mail.id, "--delete").stdout == "deleted: 1\n"
    unset = call("wait-mail", "--bed", mail.id, "--to", "", "--timeout", "0")
    assert unset.returncode == ExitCode.USAGE
    bad = call("inbox", "--bed", mail.id, "--query", "before:never")
    assert (bad.returncode, "never" in bad.stderr) == (ExitCode.USAGE, True)


def test_the_commands_change_and_break_dns(mail: Up) -> None:
    def ask(kind: str) -> dns.message.Message:
        query = dns.message.make_query("shop.example.org", kind)
        return dns.query.udp(query, "127.0.0.1", port=mail.port("gate", "53/udp"), timeout=10)

    def run(*words: str) -> None:
        done = call("dns", words[0], "--bed", mail.id, *words[1:])
        assert done.returncode == 0, done.stderr

    run("set", "shop.example.org", "TXT", '"v=spf1 -all"', '"another"')
    assert sorted(str(item) for item in ask("TXT").answer[0]) == ['"another"', '"v=spf1 -all"']
    before = answer("dns", "queries", "--bed", mail.id)[-1]["id"]
    run("fail", "*.example.org", "TXT", "refused", "--times", "1")
    assert [ask("TXT").rcode() for _ in range(2)] == [dns.rcode.REFUSED, dns.rcode.NOERROR]
    run("fail", "shop.example.org", "*")
    rules = answer("dns", "rules", "--bed", mail.id)
    assert (rules[0]["name"], rules[0]["rcode"], rules[0]["hits"]) == ("shop.example.org", "SERVFAIL", 0)
    assert ask("A").rcode() == dns.rcode.SERVFAIL
    failed = answer("dns", "fail", "*", "TXT", "refused", "--bed", mail.id)
    assert answer("dns", "rules", "--bed", mail.id)[0] == failed
    run("clear", str(failed["id"]))
    assert answer("dns", "rules", "--bed", mail.id)[0]["id"] == rules[0]["id"]
    again = call("dns", "clear", str(failed["id"]), "--bed", mail.id)
    assert (again.returncode, f"none with the id {failed['id']}" in again.stderr) == (ExitCode.USAGE, True)
    run("clear")
    run("set", "shop.example.org", "TXT")
    assert ask("TXT").rcode() == dns.rcode.NXDOMAIN
    asked = answer("dns", "queries", "--bed", mail.id, "--after", str(before))
    assert [(q["type"], q["rcode"]) for q in asked if q["name"] == "shop.example.org"] == [
        *[("TXT", "REFUSED"), ("TXT", "NOERROR")],
        *[("A", "SERVFAIL"), ("TXT", "NXDOMAIN")],
    ]
    run("set", "key.example.org", "CNAME", "shop.example.com.")
    run("set", "shop.example.com", "TXT", '"of another zone"')
    query = dns.message.make_query("key.example.org", "TXT")
    found = dns.query.udp(query, "127.0.0.1", port=mail.port("gate", "53/udp"), timeout=10)
    assert [str(item) for rrset in found.answer for item in rrset] == ["shop.example.com.", '"of another zone"']
    for words in (("fail", "example.org", "MX", "nosuchcode"), ("set", "example.org", "MX", "ten")):
        assert call("dns", words[0], "--bed", mail.id, *words[1:]).returncode == ExitCode.USAGE
    run("set", "alias.example.org", "CNAME", "example.com.")
    for ignored in (("alias.example.org", "TXT", '"x"'), ("org", "SOA")):  # with NOERROR (RFC 2136, 3.4.2)
        assert call("dns", "set", "--bed", mail.id, *ignored).returncode == ExitCode.ENGINE
