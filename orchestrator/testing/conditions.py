"""Conditions on messages and on rules, as keyword arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from orchestrator.plaintext import plain

Moment = Literal["connect", "ehlo", "auth", "mail", "rcpt", "data", "message"]


class Conditions(TypedDict, total=False):
    """Conditions on a message; all that are given have to hold. Letters of either case are equal."""

    to: str | Sequence[str]
    """Recipient of the envelope; several: each of them."""
    sender: str
    """Sender of the envelope; ``<>``: the empty one."""
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
    """Sender of the envelope, likewise; ``<>``: the empty one."""
    on: Moment
    """Moment of the session; by default ``rcpt``, for bounce and drop ``message``."""
    times: int
    """Apply to the first matches only, this many."""
    every: int
    """Apply to each match with this number or a multiple of it."""
    chance: float
    """Apply to each match with this probability."""


def named(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions that are given, under their names in the API of the inbox."""
    return {name.rstrip("_"): value for name, value in given.items() if value is not None}


def merged(wanted: Sequence[Conditions], common: Conditions) -> list[Conditions]:
    """Return each of ``wanted`` with the common conditions; without any, the common conditions alone."""
    return [{**common, **one} for one in wanted or (Conditions(),)]


def rule(then: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule as a bed file has it."""
    names = {"sender": "from", "from_": "from"}
    return {"then": then, **{names.get(name, name): value for name, value in given.items() if value is not None}}


def single(conditions: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the conditions one by one, each recipient on its own."""
    pairs: list[tuple[str, str]] = []
    for name, value in named(conditions).items():
        pairs += [(name, value)] if isinstance(value, str) else [(name, one) for one in value]
    return pairs


def wording(conditions: Mapping[str, Any]) -> str:
    """Return conditions for a reader: ``to 'bob@example.com', subject 'Welcome'``."""
    return ", ".join(f"{name} {plain(repr(str(value)), keep='')}" for name, value in single(conditions)) or "any"
