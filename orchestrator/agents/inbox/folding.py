"""Folding of texts and addresses for comparison: lower case, no accents (texts only), domains in Unicode."""

import re
from collections.abc import Iterable
from unicodedata import normalize

import dns.exception
import dns.name

BETWEEN = " \ue000 "
"""Separator of fields in an index. No text contains this word, so no phrase matches across two fields."""
_IDNA = dns.name.IDNA_2008_UTS_46
_MOST_LABEL = 63
_ACCENTS = re.compile("[\u0300-\u036f]")
_DOTS = re.compile("[.\u3002\uff0e\uff61]")  # UTS #46, 2.3
_MOST_KEPT = 10_000


class _Characters(dict[int, str]):
    """Code point -> folded character. NFKD folds each one separately: a run of combining marks takes quadratic time."""

    def __missing__(self, code: int) -> str:
        if len(self) >= _MOST_KEPT:
            self.clear()
        self[code] = _ACCENTS.sub("", normalize("NFKD", chr(code)).casefold())
        return self[code]


_CHARACTERS = _Characters()


def fold(text: str) -> str:
    """Return a text in lower case, without accents and compatibility characters (NFKD); takes linear time."""
    return text.lower() if text.isascii() else text.translate(_CHARACTERS)


def fold_address(address: str) -> str:
    """Return an address in lower case with its domain in Unicode (UTS #46, U-labels); accents stay.

    A text without ``@`` is a domain, or a part of one.
    """
    local, at, domain = address.rpartition("@")
    return local.casefold() + at + ".".join(map(_label, _DOTS.split(domain)))


def not_named(recipients: Iterable[str], named: Iterable[str]) -> list[str]:
    """Return the envelope recipients that the message's header section does not name (Bcc)."""
    folded = set(map(fold_address, named))
    return [recipient for recipient in recipients if fold_address(recipient) not in folded]


def _label(label: str) -> str:
    lower = label.lower()
    if len(label) > _MOST_LABEL or (label.isascii() and not lower.startswith("xn--")):
        return lower
    try:
        if label.isascii():
            lower = _IDNA.decode(lower.encode())
        return _IDNA.decode(_IDNA.encode(lower)).lower()
    except (dns.exception.DNSException, UnicodeError):  # a pattern, an emoji, or another label outside IDNA 2008
        return lower
