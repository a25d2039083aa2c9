"""Paths and parameters of MAIL and RCPT (RFC 5321, 4.1.2): quoted local-parts, source routes, address literals.

Source: RFC 5321, 4.1.1.2, 4.1.1.3, 4.1.2, 4.1.3, 4.5.3.1. An underscore is allowed in a domain: names with an
underscore occur in DNS and in beds.
"""

import re
from socket import AF_INET6, inet_pton
from typing import NamedTuple

MAX_LOCAL = 64
"""Maximum octets of a local-part, with its quotes and escapes (4.5.3.1.1)."""
MAX_DOMAIN = 255
"""Maximum octets of a domain (4.5.3.1.2)."""
MAX_PATH = 256
"""Maximum octets of a path, with its angle brackets and source route (4.5.3.1.3)."""

_PARAMETER = rb" +([a-z0-9][a-z0-9-]*(?:=[!-<>-~]+)?)"


def _grammar(wide: bytes) -> re.Pattern[bytes]:
    """Compile the pattern of a path and its parameters; ``wide``: range of the non-ASCII octets allowed as letters."""
    label = rb"[a-z0-9_%b]+(?:-+[a-z0-9_%b]+)*" % (wide, wide)
    domain = rb"%b(?:\.%b)*" % (label, label)
    atom = rb"[a-z0-9!#$%%&'*+/=?^_`{|}~%b-]+" % wide
    local = rb"%b(?:\.%b)*" % (atom, atom) + rb'|"(?:[ !#-\[\]-~%b]|\\[ -~])*"' % wide
    route = rb"@%b(?:,@%b)*:" % (domain, domain)
    return re.compile(
        rb" ?(<(?:(?:%b)?(?P<local>%b)@(?P<domain>%b|\[[!-Z^-~]+\])|(?P<bare>(?:postmaster)?))>)((?:%b)*) *"
        % (route, local, domain, _PARAMETER),
        re.IGNORECASE,
    )


_ARGUMENT = _grammar(b"")
_ARGUMENT_UTF8 = _grammar(rb"\x80-\xff")
_PARAMETERS = re.compile(_PARAMETER, re.IGNORECASE)
_IPV4 = re.compile(rb"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})")
_GENERAL = re.compile(rb"(?!ipv6:)[a-z0-9-]*[a-z0-9]:[!-Z^-~]+", re.IGNORECASE)


class PathTooLong(ValueError):
    """A path, or a part of it, has more octets than RFC 5321 allows."""


class Argument(NamedTuple):
    """Argument of ``MAIL FROM:`` or ``RCPT TO:``: a path and parameters."""

    local: bytes
    """Local-part as written; empty in ``<>``, ``postmaster`` in ``<postmaster>``."""
    domain: bytes
    """Domain in lower case; empty in ``<>`` and ``<postmaster>``."""
    parameters: list[bytes]
    """Parameters in upper case, each ``KEYWORD`` or ``KEYWORD=VALUE``."""


def read(text: bytes, *, utf8: bool = False) -> Argument | None:
    """Read a path and its parameters; ``None``: a syntax error. Raises PathTooLong if only the length is wrong.

    ``utf8``: non-ASCII letters in UTF-8 are allowed, too (RFC 6531, 3.3).
    """
    match = (_ARGUMENT_UTF8 if utf8 else _ARGUMENT).fullmatch(text)
    if match is None or (utf8 and not _is_utf8(match[1])):
        return None
    local, domain = match["local"] or match["bare"] or b"", (match["domain"] or b"").lower()
    if domain[:1] == b"[" and not _is_address(domain[1:-1]):
        return None
    if len(local) > MAX_LOCAL or len(domain) > MAX_DOMAIN or len(match[1]) > MAX_PATH:
        raise PathTooLong
    return Argument(local, domain, _PARAMETERS.findall(match[5].upper()))


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_address(literal: bytes) -> bool:
    """Return whether the text between brackets is an address (4.1.3)."""
    if match := _IPV4.fullmatch(literal):
        return all(int(number) <= 255 for number in match.groups())
    if literal[:5].lower() == b"ipv6:":
        try:
            inet_pton(AF_INET6, literal[5:].decode("ascii"))
        except OSError:
            return False
        return True
    return _GENERAL.fullmatch(literal) is not None
