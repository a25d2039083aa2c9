"""Conditions on messages and on rules, as keyword arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from orchestrator.errors import InvalidInput
from orchestrator.plaintext import plain

MOST_WAIT_S = 600.0
"""Longest time limit that the inbox accepts."""
Moment = Literal["connect", "ehlo", "auth", "mail", "rcpt", "data", "message"]


class OtherConditions(TypedDict, total=False):
    """Conditions on a message other than its recipient. A message must meet all of them, in any letter case."""

    sender: str
    """Sender of the envelope; ``<>``: the empty sender."""
    from_: str
    """Address or name in From, or a part of it."""
    subject: str
    """A part of the subject."""
    message_id: str
    """The Message-ID."""
    query: str
    """Words of a search, such as ``subject:"two words" has:attachment -tag:old`` (docs/mail.md)."""


class Conditions(OtherConditions, total=False):
    """Conditions on a message."""

    to: str | Sequence[str]
    """Recipient of the envelope; a list: the message must have all these recipients."""


class Match(TypedDict, total=False):
    """Conditions under which a rule applies, and how often."""

    to: str
    """Recipient, with ``*`` and ``?``; by default any."""
    sender: str
    """Sender of the envelope, with ``*`` and ``?``; ``<>``: the empty sender."""
    on: Moment
    """Stage of the SMTP session at which the rule applies: by default ``rcpt``, but ``message`` for bounce and drop."""
    times: int
    """Apply to the first ``times`` matches only."""
    every: int
    """Apply to each ``every``-th match only."""
    chance: float
    """Apply to each match with this probability."""


def limited(limits: Conditions, given: Mapping[str, Any]) -> Any:
    """Merge the conditions of a mailbox with further conditions; return keyword arguments.

    Raises:
        TypeError: both have the same condition. Python's own check would raise KeyError while handling an exception.
    """
    if twice := limits.keys() & given.keys():
        raise TypeError(f"{', '.join(map(repr, sorted(twice)))} is fixed here: use the inbox of the bed")
    return {**limits, **given}


def named(given: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Return conditions under their names in the API of the inbox.

    Raises:
        InvalidInput: a condition is unknown, or is neither a text nor a list of texts. Every message would
            meet None or an empty list.
    """
    conditions: dict[str, str | list[str]] = {}
    for name, value in given.items():
        if name not in Conditions.__annotations__:
            raise InvalidInput(f"conditions: {', '.join(Conditions.__annotations__)}", name, "correct the name")
        values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        if not values or not all(isinstance(one, str) for one in values):
            raise InvalidInput(f"a text as {name}, or a list of them", repr(value), "leave it out, or correct it")
        conditions[name.rstrip("_")] = value if isinstance(value, str) else values
    return conditions


def limits(timeout: float, count: int = 1) -> None:
    """Raise InvalidInput if the timeout or the number of messages is out of range."""
    if timeout is None or not 0 <= timeout <= MOST_WAIT_S:
        raise InvalidInput(f"a timeout of 0 to {MOST_WAIT_S:g} s", repr(timeout), "correct it")
    if count < 1:
        raise InvalidInput("a count of 1 or more", repr(count), "correct it")


def merged(wanted: Sequence[Conditions], common: Conditions) -> list[Conditions]:
    """Add the common conditions to each of ``wanted``; if ``wanted`` is empty, return the common conditions alone."""
    return [{**common, **one} for one in wanted or (Conditions(),)]


def rule(then: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule in the form of a bed file; raises InvalidInput for a None: the rule would match too much mail."""
    for name, value in given.items():
        if value is None and name != "reply":
            raise InvalidInput(f"a value of {name}", "None, which would match anything", "leave it out, or correct it")
    names = {"sender": "from", "from_": "from"}
    return {"then": then, **{names.get(name, name): value for name, value in given.items() if value is not None}}


def single(conditions: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return pairs of name and value, with one pair for each recipient."""
    pairs: list[tuple[str, str]] = []
    for name, value in named(conditions).items():
        pairs += [(name, value)] if isinstance(value, str) else [(name, one) for one in value]
    return pairs


def wording(conditions: Mapping[str, Any]) -> str:
    """Describe conditions for an error text: `` with to 'bob@example.com', subject 'Welcome'``; empty without any."""
    words = ", ".join(f"{name} {plain(repr(str(value)), keep='')}" for name, value in single(conditions))
    return f" with {words}" if words else ""
