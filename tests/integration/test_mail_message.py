"""A message in the bed `mail`: SPF, DKIM and DMARC against records in the real BIND."""

import smtplib
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import dkim
import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from orchestrator.bed.addressing import twin
from orchestrator.hosts import Host
from orchestrator.services.agents import PYTHON
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.command import call

pytestmark = pytest.mark.docker

LETTER = b"From: Ann <ann@example.org>\r\nTo: bob@example.com\r\nSubject: hello\r\n\r\nYour code is 4711.\r\n"


@pytest.fixture(scope="module")
def mail(real_engine: Host) -> Iterator[Up]:
    bed = bring_up("mail")
    yield bed
    bring_down(real_engine, bed)


def put(mail: Up, name: str, *texts: str) -> None:
    done = call("dns", "set", "--bed", mail.id, name, "TXT", *texts)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def inbox(mail: Up) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{mail.port('inbox', '8025/tcp')}/api", timeout=40) as client:
        yield client


def deliver(mail: Up, inbox: httpx.Client, message: bytes) -> int:
    """Send a message through the relay, and return its id."""
    newest = max((m["id"] for m in inbox.get("/messages").json()["messages"]), default=0)
    with smtplib.SMTP("127.0.0.1", mail.port("relay", "25/tcp"), timeout=10) as smtp:
        smtp.sendmail("ann@example.org", ["bob@example.com"], message)
    (kept,) = inbox.get("/wait", params={"after": newest, "timeout": 30}).json()["messages"]
    return int(kept["id"])


def results(mail: Up, inbox: httpx.Client, message: bytes) -> dict[str, Any]:
    """Send a message through the relay, and return what the inbox finds."""
    found = inbox.get(f"/messages/{deliver(mail, inbox, message)}/authentication")
    assert found.status_code == 200, found.text
    return dict(found.json())


def test_a_message_is_checked_against_the_dns_of_the_bed(mail: Up, inbox: httpx.Client) -> None:
    nothing = results(mail, inbox, LETTER)
    relay = mail.address("relay")
    assert nothing["spf"]["result"] == "none"
    assert nothing["spf"]["client"] in {str(relay), str(twin(relay))}
    assert (nothing["dkim"], nothing["dmarc"]["result"]) == ([], "none")

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = f"v=DKIM1; k=rsa; p={b64encode(public).decode()}"
    put(mail, "s1._domainkey.example.org", f'"{text[:200]}" "{text[200:]}"')
    put(mail, "_dmarc.example.org", '"v=DMARC1; p=reject"')
    put(mail, "example.org", '"v=spf1 a:relay.nodes.test -all"')
    signed = dkim.sign(LETTER, b"s1", b"example.org", pem, include_headers=[b"from", b"subject"]) + LETTER
    passed = results(mail, inbox, signed)
    assert (passed["spf"]["result"], passed["dkim"][0]["result"]) == ("pass", "pass")
    assert (passed["dmarc"]["result"], passed["dmarc"]["policy"]) == ("pass", "reject")

    put(mail, "example.org", '"v=spf1 -all"')
    forwarded = results(mail, inbox, signed)
    assert (forwarded["spf"]["result"], forwarded["dmarc"]["result"]) == ("fail", "pass")
    forged = results(mail, inbox, signed.replace(b"4711", b"4712"))
    assert (forged["dkim"][0]["result"], forged["dmarc"]["result"]) == ("fail", "fail")

    rule = '[{"name": "example.org", "type": "TXT", "rcode": "SERVFAIL"}]'
    mail.exec("gate", *PYTHON, "-m", "orchestrator.agents.control", "add", rule)
    assert results(mail, inbox, LETTER)["spf"]["result"] == "temperror"
