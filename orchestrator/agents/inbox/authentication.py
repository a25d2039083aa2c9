"""SPF, DKIM and DMARC of a kept message (RFC 7208, RFC 6376, RFC 7489), checked against the bed's DNS.

Results are the keywords of RFC 8601, 2.7. Queries go to the name server of ``/etc/resolv.conf``. A check blocks.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import dkim
import dns.exception
import dns.resolver
import spf
from publicsuffixlist import PublicSuffixList

from orchestrator.agents.inbox import head
from orchestrator.agents.inbox.stored import Envelope

LOOKUP_S = 2.0
"""Time limit of one DNS query, in seconds; the whole SPF check may take twice as long."""
MOST_CHECKED = 8 * 1024 * 1024
"""Signatures of larger messages, in octets, are not checked: dkimpy keeps several copies of the message in memory."""
MOST_SIGNATURES = 5
"""Maximum number of DKIM signatures that are checked."""
_DMARC1 = re.compile(rb"v\s*=\s*DMARC1\s*(;|$)")
_POLICIES = {"none", "quarantine", "reject"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spf:
    """Result of SPF: whether the sender's domain allows the client to send mail."""

    result: str
    """none, neutral, pass, fail, softfail, temperror or permerror."""
    domain: str
    """Domain of the envelope's sender, or of EHLO if the sender is empty."""
    client: str
    """Checked IP address: the client that sent the message to the inbox, usually the bed's relay."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dkim:
    """Result of one DKIM signature of the message."""

    result: str
    """pass, fail, temperror or permerror."""
    domain: str
    selector: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dmarc:
    """Result of DMARC: whether SPF or DKIM passed for the domain of From."""

    result: str
    """none, pass, fail, temperror or permerror."""
    domain: str
    policy: str
    """The domain's policy for failures: none, quarantine or reject. Empty: no record."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """All results for a message."""

    spf: Spf
    dkim: list[Dkim]
    """One result for each signature, in order."""
    dmarc: Dmarc


class _Unanswered(Exception):
    """The name server did not answer a question."""


def check(message: bytes, envelope: Envelope, authors: Iterable[str], *, whole: bool = True) -> Authentication:
    """Check a message; ``authors``: addresses in From; not ``whole``: ``message`` is the start of a large message."""
    sender, signatures = _spf(envelope), list(_dkim(message, whole=whole))
    domains = sorted({_domain(author) for author in authors})
    try:
        dmarc = _dmarc(domains, sender, signatures)
    except _Unanswered as error:
        dmarc = Dmarc(result="temperror", domain=", ".join(domains), policy="", reason=str(error))
    return Authentication(spf=sender, dkim=signatures, dmarc=dmarc)


def _spf(envelope: Envelope) -> Spf:
    if not envelope.client:
        result, reason = "none", "the message did not come over SMTP"
    else:
        try:
            result, reason = spf.check2(
                envelope.client, envelope.sender, envelope.helo, timeout=LOOKUP_S, querytime=2 * LOOKUP_S
            )
        except Exception as error:  # noqa: BLE001 names and records are untrusted: an error of the library is a result
            result, reason = "permerror", str(error)
    domain = _domain(envelope.sender or envelope.helo)
    return Spf(result=result, domain=domain, client=envelope.client, reason=reason)


def _dkim(message: bytes, *, whole: bool) -> Iterator[Dkim]:
    count = sum(name.lower() == "dkim-signature" for name, _ in head.fields(message))
    for place in range(min(count, MOST_SIGNATURES)):
        if not whole:
            reason = f"messages of up to {MOST_CHECKED} octets are checked"
            yield Dkim(result="neutral", domain="", selector="", reason=reason)
            continue
        log, signed = _Errors(), None
        try:
            signed = dkim.DKIM(message, logger=log)
            valid = signed.verify(place, dnsfunc=_key)
            result = "pass" if valid else "permerror" if log.texts else "fail"
            reason = "; ".join(log.texts) or ("" if valid else "the signature does not match this message and key")
        except _Unanswered as error:
            result, reason = "temperror", str(error)
        except dkim.ValidationError as error:
            result, reason = "fail", str(error)
        except Exception as error:  # noqa: BLE001 signatures and keys are untrusted: see above
            result, reason = "permerror", str(error)
        fields = signed.signature_fields if signed else {}
        domain, selector = (fields.get(tag, b"").decode(errors="replace").lower() for tag in (b"d", b"s"))
        yield Dkim(result=result, domain=domain, selector=selector, reason=reason)


class _Errors:
    """A logger for dkimpy; keeps its errors, such as an absent or broken key."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def error(self, text: object) -> None:
        """Keep an error."""
        self.texts.append(str(text))

    def debug(self, text: object) -> None:
        """Ignore a debug message."""


def _key(name: bytes, timeout: float) -> bytes | None:  # noqa: ARG001 dkimpy passes it by name
    return next(iter(_texts(name.decode())), None)


def _dmarc(domains: Sequence[str], sender: Spf, signatures: Sequence[Dkim]) -> Dmarc:
    if len(domains) != 1 or not domains[0]:
        reason = f"From has to name one domain, not {len(domains)}"
        return Dmarc(result="permerror", domain=", ".join(domains), policy="", reason=reason)
    (domain,) = domains
    for place in dict.fromkeys((domain, _organisation(domain))):
        if records := _records(place):
            break
    if len(records) != 1:
        reason = f"{len(records) or 'no'} record{'s' * (len(records) > 1)} at _dmarc.{place}"
        return Dmarc(result="none", domain=domain, policy="", reason=reason)
    (record,) = records
    policy = record.get("p", "")
    if place != domain:
        policy = record.get("sp", policy)
    if policy not in _POLICIES:
        reason = f"the record at _dmarc.{place} has the policy {policy!r}"
        return Dmarc(result="permerror", domain=domain, policy="", reason=reason)
    modes = {"SPF": record.get("aspf"), "DKIM": record.get("adkim")}
    checks: list[tuple[str, Spf | Dkim]] = [("SPF", sender), *(("DKIM", one) for one in signatures)]
    passed = [(kind, one.domain) for kind, one in checks if one.result == "pass"]
    aligned = [f"{kind} of {of}" for kind, of in passed if _aligned(of, domain, strict=modes[kind] == "s")]
    unclear = any(one.result == "temperror" for _, one in checks)
    result = "pass" if aligned else "temperror" if unclear else "fail"
    reason = ", ".join(aligned) or "neither SPF nor DKIM passed for this domain"
    return Dmarc(result=result, domain=domain, policy=policy, reason=f"{reason}; record at _dmarc.{place}")


def _records(domain: str) -> list[dict[str, str]]:
    """Return the tags of each DMARC record of a domain. More than one record ends the discovery (RFC 7489, 6.6.3)."""
    records = [text for text in _texts(f"_dmarc.{domain}.") if _DMARC1.match(text)]
    pairs = ((tag.partition("=") for tag in record.decode(errors="replace").lower().split(";")) for record in records)
    return [{name.strip(): value.strip() for name, _, value in tags} for tags in pairs]


def _aligned(of: str, domain: str, *, strict: bool) -> bool:
    return of == domain if strict else _organisation(of) == _organisation(domain)


def _organisation(domain: str) -> str:
    """Return the organisational domain (RFC 7489, 3.2)."""
    return _suffixes().privatesuffix(domain) or domain


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def _domain(address: str) -> str:
    """Return the domain of an address, or a bare domain, in lower case and ASCII."""
    domain = address.rpartition("@")[2].rstrip(".").lower()
    try:
        return domain.encode("idna").decode()
    except UnicodeError:
        return domain


def _texts(name: str) -> list[bytes]:
    try:
        answer = dns.resolver.resolve(name, "TXT", lifetime=LOOKUP_S)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except dns.exception.DNSException as error:
        raise _Unanswered(f"{name} {error}") from error
    return [b"".join(record.strings) for record in answer]
