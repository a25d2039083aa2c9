"""SPF, DKIM and DMARC of a message, against a name server of the test."""

import socketserver
import threading
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import dkim
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator.agents.inbox.authentication import Authentication, check
from orchestrator.agents.inbox.stored import Envelope

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)
DER = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
RELAY = "198.18.0.3"
LETTER = b"From: Ann <ann@my-shop.test>\r\nTo: bob@d1.test\r\nSubject: hello\r\n\r\nYour code is 4711.\r\n"
Records = dict[str, list[str] | dns.rcode.Rcode]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[Records]:
    """Yield the TXT records of a name server, which every look-up asks; it can be filled while it runs."""
    known: Records = {}

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            octets, socket = self.request
            answer = dns.message.make_response(dns.message.from_wire(octets))
            (question,) = answer.question
            found = known.get(question.name.to_text(omit_final_dot=True), [])
            if isinstance(found, list):
                texts = [f'"{text[:200]}" "{text[200:]}"' for text in found]
                if texts and question.rdtype == dns.rdatatype.TXT:
                    answer.answer.append(dns.rrset.from_text_list(question.name, 0, "IN", "TXT", texts))
            else:
                answer.set_rcode(found)
            socket.sendto(answer.to_wire(), self.client_address)

    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], server.server_address[1]
        monkeypatch.setattr("dns.resolver.default_resolver", resolver)
        yield known
        server.shutdown()
        thread.join()


def signed(message: bytes = LETTER, domain: str = "my-shop.test") -> bytes:
    headers: bytes = dkim.sign(message, b"s1", domain.encode(), PEM, include_headers=[b"from", b"subject"])
    return headers + message


def key() -> list[str]:
    return [f"v=DKIM1; k=rsa; p={b64encode(DER).decode()}"]


def checked(message: bytes, sender: str = "ann@my-shop.test", client: str = RELAY, **envelope: Any) -> Authentication:
    known = Envelope(
        sender=sender, recipients=("bob@d1.test",), client=client, **{"helo": "relay.nodes.test"} | envelope
    )
    return check(message, known, ["ann@my-shop.test"])


@pytest.mark.parametrize(
    ("record", "result"),
    [
        ([], "none"),
        ([f"v=spf1 ip4:{RELAY} -all"], "pass"),
        (["v=spf1 ip4:198.18.0.0/30 -all"], "pass"),
        (["v=spf1 -all"], "fail"),
        (["v=spf1 ~all"], "softfail"),
        (["v=spf1 include:other.test -all"], "pass"),
        (["v=spf1 nonsense"], "permerror"),
        (["v=spf1 -all", "v=spf1 +all"], "permerror"),
        (dns.rcode.SERVFAIL, "temperror"),
    ],
)
def test_spf_is_checked_for_the_host_that_handed_the_message_over(
    records: Records, record: list[str] | dns.rcode.Rcode, result: str
) -> None:
    records |= {"my-shop.test": record, "other.test": [f"v=spf1 ip4:{RELAY} -all"]}
    spf = checked(LETTER).spf
    assert (spf.result, spf.domain, spf.client) == (result, "my-shop.test", RELAY)


def test_spf_of_an_empty_sender_is_that_of_ehlo_and_a_message_over_http_has_none(records: Records) -> None:
    records["relay.nodes.test"] = [f"v=spf1 ip4:{RELAY} -all"]
    assert (checked(LETTER, sender="").spf.result, checked(LETTER, sender="").spf.domain) == (
        "pass",
        "relay.nodes.test",
    )
    assert checked(LETTER, client="", helo="").spf.result == "none"


def test_a_signature_is_that_of_its_message_and_key(records: Records) -> None:
    records["s1._domainkey.my-shop.test"] = key()
    message = signed()
    (good,) = checked(message).dkim
    assert (good.result, good.domain, good.selector) == ("pass", "my-shop.test", "s1")
    assert [one.result for one in checked(message.replace(b"4711", b"4712")).dkim] == ["fail"]
    assert [one.result for one in checked(message.replace(b"hello", b"HELLO")).dkim] == ["fail"]
    assert [one.result for one in checked(b"Received: from x\r\n" + message).dkim] == ["pass"]
    assert [one.result for one in checked(signed(message)).dkim] == ["pass", "pass"]
    assert checked(LETTER).dkim == []
    (keyless,) = checked(signed(domain="d9.test")).dkim
    assert (keyless.result, "missing public key" in keyless.reason) == ("permerror", True)
    records["s1._domainkey.d9.test"] = dns.rcode.SERVFAIL
    assert [one.result for one in checked(signed(domain="d9.test")).dkim] == ["temperror"]
    assert len(checked(b"DKIM-Signature: v=1; nonsense\r\n" * 100 + LETTER).dkim) == 5


@pytest.mark.parametrize(
    ("record", "sender", "domain", "result", "policy"),
    [
        ("v=DMARC1; p=reject", "ann@my-shop.test", None, "pass", "reject"),
        ("v=DMARC1; p=reject", "ann@bounces.my-shop.test", None, "pass", "reject"),
        ("v=DMARC1; p=reject; aspf=s", "ann@bounces.my-shop.test", None, "fail", "reject"),
        ("v=DMARC1;p=quarantine", "ann@shop.test", None, "fail", "quarantine"),
        ("v=DMARC1;p=quarantine", "ann@shop.test", "mail.my-shop.test", "pass", "quarantine"),
        ("v=DMARC1;p=quarantine; adkim=s", "ann@shop.test", "mail.my-shop.test", "fail", "quarantine"),
        ("v=DMARC1;p=quarantine", "ann@shop.test", "evil.test", "fail", "quarantine"),
        ("v=DMARC1; p=perhaps", "ann@my-shop.test", None, "permerror", ""),
        ("v=spf1 -all", "ann@my-shop.test", None, "none", ""),
        (dns.rcode.SERVFAIL, "ann@my-shop.test", None, "temperror", ""),
    ],
)
def test_dmarc_asks_for_spf_or_dkim_of_the_domain_of_from(
    records: Records, record: Any, sender: str, domain: str | None, result: str, policy: str
) -> None:
    for name in ("my-shop.test", "bounces.my-shop.test", "shop.test"):
        records[name] = [f"v=spf1 ip4:{RELAY} -all"]
    for name in ("mail.my-shop.test", "evil.test"):
        records[f"s1._domainkey.{name}"] = key()
    records["_dmarc.my-shop.test"] = record if isinstance(record, dns.rcode.Rcode) else [record]
    found = checked(signed(domain=domain) if domain else LETTER, sender=sender)
    assert found.spf.result == "pass"
    assert (found.dmarc.result, found.dmarc.domain, found.dmarc.policy) == (result, "my-shop.test", policy)


def test_a_subdomain_has_the_record_of_its_organisation(records: Records) -> None:
    records["_dmarc.shop.co.uk"] = ["v=DMARC1; p=reject; sp=none"]
    envelope = Envelope(sender="ann@d0.test", recipients=(), client=RELAY, helo="x")
    assert check(LETTER, envelope, ["ann@news.shop.co.uk"]).dmarc.policy == "none"
    assert check(LETTER, envelope, ["ann@shop.co.uk"]).dmarc.policy == "reject"
    assert check(LETTER, envelope, ["ann@other.co.uk"]).dmarc.result == "none"
    assert check(LETTER, envelope, []).dmarc.result == "permerror"
    assert check(LETTER, envelope, ["a@d0.test", "b@d1.test"]).dmarc.result == "permerror"


def test_several_dmarc_records_end_the_discovery(records: Records) -> None:
    records["_dmarc.my.shop.test"] = ["v=DMARC1; p=none", "v=DMARC1; p=reject"]
    records["_dmarc.shop.test"] = ["v=DMARC1; p=reject"]
    envelope = Envelope(sender="ann@d0.test", recipients=(), client=RELAY, helo="x")
    dmarc = check(LETTER, envelope, ["ann@my.shop.test"]).dmarc
    assert (dmarc.result, dmarc.reason) == ("none", "2 records at _dmarc.my.shop.test")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=100), st.text(max_size=30), st.text("v=spf1 +-?~:/%{}ilmx.0a;pDMARC", max_size=30))
@example(b"; s=" + b"x" * 80 + b"; d=" + b"y" * 80 + b"; h=from; b=; bh=; a=rsa-sha256", "a@" + "ü" * 70, "%{ir1000}")
def test_nothing_hostile_is_an_error(records: Records, tags: bytes, address: str, record: str) -> None:
    records["my-shop.test"] = [f"v=spf1 {record}"]
    records["_dmarc.my-shop.test"] = [f"v=DMARC1;{record}"]
    checked(b"DKIM-Signature: v=1" + tags + b"\r\n" + LETTER)
    check(LETTER, Envelope(sender=address, recipients=(), client="::1", helo=address), [address, record])
    check(LETTER, Envelope(sender=address, recipients=(), client=RELAY, helo=record), [f"x@{address}"])
