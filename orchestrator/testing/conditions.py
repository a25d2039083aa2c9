"""Conditions on messages and on rules, as keyword arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from orchestrator.plaintext import plain

Moment = Literal["connect", "ehlo", "auth", "mail", "rcpt", "data", "message"]


class Conditions(TypedDict, total=False):
    """Conditions on a message; all given ones must hold. Case makes no difference."""

    to: str | Sequence[str]
    """Recipient of the envelope; a list: the message has every one of them."""
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


class Match(TypedDict, total=False):
    """Conditions under which a rule applies, and how often."""

    to: str
    """Recipient, with ``*`` and ``?``; by default any."""
    sender: str
    """Sender of the envelope, with ``*`` and ``?``; ``<>``: the empty sender."""
    on: Moment
    """Moment of the session at which the rule applies: by default ``rcpt``, but ``message`` for bounce and drop."""
    times: int
    """Apply to the first ``times`` matches only."""
    every: int
    """Apply to each ``every``-th match only."""
    chance: float
    """Apply to each match with this probability."""


def named(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions that are given, under their names in the API of the inbox."""
    return {name.rstrip("_"): value for name, value in given.items() if value is not None}


def merged(wanted: Sequence[Conditions], common: Conditions) -> list[Conditions]:
    """Return each of ``wanted`` with the common conditions added; if it is empty, the common conditions alone."""
    return [{**common, **one} for one in wanted or (Conditions(),)]


def rule(then: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule in the form of a bed file."""
    names = {"sender": "from", "from_": "from"}
    return {"then": then, **{names.get(name, name): value for name, value in given.items() if value is not None}}


def single(conditions: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return pairs of name and value, with one pair for each recipient."""
    pairs: list[tuple[str, str]] = []
    for name, value in named(conditions).items():
        pairs += [(name, value)] if isinstance(value, str) else [(name, one) for one in value]
    return pairs


def wording(conditions: Mapping[str, Any]) -> str:
    """Return conditions as text for a person: ``to 'bob@example.com', subject 'Welcome'``."""
    return ", ".join(f"{name} {plain(repr(str(value)), keep='')}" for name, value in single(conditions)) or "any"
