"""Reader of a load order in JSON: checks that every value is within its bounds."""

import json
import re
from ipaddress import ip_network
from typing import Any

from orchestrator.agents.contract import LoadOrder
from orchestrator.agents.wire import MAX_BODY, MAX_SEQ, MIN_BODY, recipients_of

MOST_BODIES = 256 * 1024 * 1024
"""Maximum octets of all bodies together; the generator keeps one body of each size in memory."""

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
"""Pattern of a domain name in lower case: labels of at most 63 octets (RFC 1035, 2.3.4)."""
LOCAL_PART = rf"(?=[^@]{{1,64}}(?:@|\Z)){_ATOM}(?:\.{_ATOM})*"
"""Pattern of a local part: a Dot-string of at most 64 octets (RFC 5321, 4.1.2 and 4.5.3.1.1)."""


class BadOrder(ValueError):
    """An invalid load order; the text gives the allowed values and the found value."""


def read_order(text: str, **lists: list[str]) -> LoadOrder:
    """Read a load order from JSON; raises BadOrder.

    ``lists``: ``domains`` and ``recipients``, used if the order itself does not have these keys.
    """
    try:
        order = LoadOrder.from_dict({**lists, **json.loads(text)})
    except (ValueError, TypeError) as error:
        raise BadOrder(f"needed a LoadOrder as a JSON object; found: {error}") from error
    check(order)
    return order


def check(order: LoadOrder) -> None:
    """Raise BadOrder for the first value out of bounds."""
    check_names(order.run, order.domains)
    check_recipients(order.domains, order.recipients)
    _text("sender", order.sender, rf"[a-z0-9._-]{{1,64}}@{DOMAIN}", "an address of plain characters")
    _target(order)
    _each("sizes", order.sizes, 10_000)
    for size in order.sizes:
        _number("sizes", size, MIN_BODY, MAX_BODY, whole=True)
    if sum(set(order.sizes)) > MOST_BODIES:
        raise BadOrder(f"sizes: needed {MOST_BODIES} octets at most, all sizes together; found {sum(set(order.sizes))}")
    _number("port", order.port, 1, 65_535, whole=True)
    _number("connections", order.connections, 1, 50_000, whole=True)
    _number("per_connection", order.per_connection, 1, 1_000_000, whole=True)
    _number("timeout", order.timeout, 0.01, 3600)
    _number("stall_for", order.stall_for, 0, 3600)
    if order.stall_at is not None:
        _number("stall_at", order.stall_at, 0, 86_400)
    if order.rate is not None:
        _number("rate", order.rate, 0.001, 1_000_000)
    if order.seconds is None and order.messages is None:
        raise BadOrder("seconds, messages: needed one of them at least; found neither, so the load would never end")
    if order.seconds is not None:
        _number("seconds", order.seconds, 0.001, 7 * 86_400)
    if order.messages is not None:
        _number("messages", order.messages, 1, MAX_SEQ, whole=True)
    if order.rate is not None and order.seconds is not None and order.rate * order.seconds > MAX_SEQ:
        raise BadOrder(f"rate, seconds: needed {MAX_SEQ} messages at most; found {order.rate * order.seconds:.0f}")


def check_names(run: str, domains: list[str]) -> None:
    """Raise BadOrder if the run id or a domain is unsafe in a message."""
    _text("run", run, "[0-9a-f]{8}", "eight hex digits")
    _each("domains", domains, 1 << 17)
    for domain in domains:
        _text("domains", domain, DOMAIN, "names of lower-case letters, digits, '-', '_' and dots")
        if len(domain) > 253:
            raise BadOrder(f"domains: needed names of at most 253 characters (RFC 1035); found {domain[:60]!r}...")


def check_recipients(domains: list[str], recipients: list[str]) -> None:
    """Raise BadOrder if an address is unsafe in RCPT TO (RFC 5321, 4.1.2), or a domain has no recipient."""
    _each("recipients", recipients, 1 << 17)
    for recipient in recipients:
        _text("recipients", recipient, rf"{LOCAL_PART}(?:@{DOMAIN})?", "plain addresses")
    try:
        recipients_of(domains, recipients)
    except ValueError as error:
        raise BadOrder(f"recipients: needed {error}") from error


def _target(order: LoadOrder) -> None:
    _text("target", order.target, "[0-9a-f:./]{2,60}", "an address or a prefix")
    try:
        network = ip_network(order.target)
    except ValueError as error:
        raise BadOrder(f"target: needed an address or a prefix; found {order.target!r}: {error}") from error
    if "/" in order.target and network.num_addresses < len(order.domains):
        raise BadOrder(
            f"target: needed an address for each of {len(order.domains)} domains; found {network.num_addresses}"
        )


def _each(name: str, values: Any, most: int) -> None:
    if not isinstance(values, list) or not 1 <= len(values) <= most:
        found = len(values) if isinstance(values, list) else repr(values)[:60]
        raise BadOrder(f"{name}: needed a list of 1 to {most}; found {found}")


def _text(name: str, value: Any, pattern: str, meaning: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise BadOrder(f"{name}: needed {meaning}; found {str(value)[:60]!r}")


def _number(name: str, value: Any, least: float, most: float, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    # bool is a subclass of int; NaN fails every comparison
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise BadOrder(f"{name}: needed {kind} from {least} to {most}; found {str(value)[:60]!r}")
