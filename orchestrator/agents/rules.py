"""Rules of a sink: faults and limits for a recipient, sender and moment. The first rule that matches decides.

A ``greylist`` or ``rate`` rule that lets a message pass leaves the decision to the next rule.

Bed files, the HTTP API and the control socket share one model of a rule.
"""

import math
import random
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import translate
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Moment(StrEnum):
    """Moment at which rules apply: before the sink replies to a command or to the end of the data."""

    CONNECT = "connect"
    EHLO = "ehlo"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    MESSAGE = "message"


class Action(StrEnum):
    """Action of a rule."""

    ACCEPT = "accept"
    """Accept; later rules do not apply."""
    DEFER = "defer"
    """Answer with a temporary failure (4xx)."""
    REJECT = "reject"
    """Answer with a permanent failure (5xx)."""
    GREYLIST = "greylist"
    """Defer a triple of client, sender and recipient until ``delay_s`` after its first attempt (RFC 6647)."""
    BOUNCE = "bounce"
    """Accept the message, and ``delay_s`` later send a delivery status notification (RFC 3464) through the relay."""
    TARPIT = "tarpit"
    """Answer ``delay_s`` late."""
    DISCONNECT = "disconnect"
    """Close the connection: with ``reply``, or without one."""
    RESET = "reset"
    """Reset the connection (RST), without a reply."""
    RATE = "rate"
    """Defer every match above ``per_minute`` in the last minute."""
    PACE = "pace"
    """Delay replies so that at most ``per_second`` matches a second are accepted; refuse none."""
    DROP = "drop"
    """Accept the message and discard it."""


ENVELOPE = (Moment.MAIL, Moment.RCPT, Moment.DATA, Moment.MESSAGE)
"""Moments at which the sender is known."""
LATE = (Action.TARPIT, Action.PACE)
"""Actions that only delay the usual reply."""
_WITH_RECIPIENT = (Moment.RCPT, Moment.DATA, Moment.MESSAGE)
_MOMENTS: Mapping[Action, tuple[Moment, ...]] = {
    Action.GREYLIST: (Moment.RCPT,),
    Action.BOUNCE: (Moment.MESSAGE,),
    Action.DROP: (Moment.MESSAGE,),
}
"""Action that can apply at some moments only -> these moments, the default first."""
_REPLIES: Mapping[Action, tuple[str, str]] = {
    Action.DEFER: ("4", "451 4.3.0 Try again later"),
    Action.REJECT: ("5", "550 5.7.1 Rejected"),
    Action.GREYLIST: ("4", "450 4.7.1 Greylisted, try again later"),
    Action.RATE: ("4", "450 4.7.1 Too many messages, try again later"),
    Action.DISCONNECT: ("4", ""),
}
"""Action with a reply -> first digit of the reply code, and default reply."""
_GREETINGS = {"4": "421", "5": "554"}
"""First digit -> code of the default reply in place of a greeting (RFC 5321, 4.3.2)."""
_NEEDS: Mapping[Action, str] = {
    Action.GREYLIST: "delay_s",
    Action.TARPIT: "delay_s",
    Action.RATE: "per_minute",
    Action.PACE: "per_second",
}
_TAKES: Mapping[Action, tuple[str, ...]] = {Action.BOUNCE: ("delay_s",)}
_ONLY_SOME = ("delay_s", "per_minute", "per_second")
MOST_TRIPLES = 100_000
"""Maximum number of triples (client, sender, recipient) that a greylist rule keeps; the oldest are dropped first."""
MOST_PER_MINUTE = 100_000

Reply = Annotated[str, Field(pattern=r"^[45][0-9]{2}( [245]\.[0-9]{1,3}\.[0-9]{1,3})?( [!-~][ -~]{0,399})?$")]
"""One line of a reply: code, enhanced status code (RFC 3463), text."""
Address = Annotated[str, Field(min_length=1, max_length=320)]
Seconds = Annotated[float, Field(ge=0, le=3600)]


class Rule(BaseModel):
    """A rule: its conditions, its moment and its action."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    to: Address | None = None
    """Recipient; may contain the wildcards ``*`` and ``?``; case does not matter. Default: any."""
    from_: Annotated[Address | None, Field(alias="from")] = None
    """Envelope sender, as a pattern like ``to``; ``<>`` is the empty sender."""
    on: Moment | None = None
    """Moment of the rule. Default: ``message`` for bounce and drop, ``rcpt`` for all other actions."""
    then: Action
    reply: Reply | None = None
    times: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Apply to the first ``times`` matches only; the next rule decides about later matches."""
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Apply to each ``every``-th match only."""
    chance: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Apply to each match with this probability."""
    delay_s: Seconds | None = None
    per_minute: Annotated[int, Field(ge=1, le=MOST_PER_MINUTE)] | None = None
    per_second: Annotated[float, Field(gt=0, le=100_000)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        moments = _MOMENTS.get(self.then, tuple(Moment))
        if self.moment not in moments:
            raise ValueError(f"{self.then} needs on: {' or '.join(moments)}; found {self.moment}")
        if self.to and self.moment not in _WITH_RECIPIENT:
            raise ValueError(f"to: needs on: rcpt, data or message; no recipient is known on {self.moment}")
        if self.from_ and self.moment not in ENVELOPE:
            raise ValueError(f"from: needs on: mail, rcpt, data or message; no sender is known on {self.moment}")
        needed = _NEEDS.get(self.then)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"{self.then} needs {needed}:")
        for name in _ONLY_SOME:
            if getattr(self, name) is not None and name != needed and name not in _TAKES.get(self.then, ()):
                raise ValueError(f"{self.then} has no {name}:")
        if self.reply is not None:
            if self.then not in _REPLIES:
                raise ValueError(f"{self.then} has no reply:")
            if self.reply[0] not in ("45" if self.then is Action.DISCONNECT else _REPLIES[self.then][0]):
                raise ValueError(f"the reply of {self.then} begins with {_REPLIES[self.then][0]}, not {self.reply[0]}")
        return self

    @property
    def moment(self) -> Moment:
        """Moment at which the rule applies: ``on``, or the default of its action."""
        return self.on or _MOMENTS.get(self.then, (Moment.RCPT,))[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the keys that are set, with their names in a bed file."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def answer(self) -> str:
        """Return the reply line of the rule; empty if the rule sends no reply."""
        usual = _REPLIES.get(self.then, ("", ""))[1]
        if usual and self.moment is Moment.CONNECT:
            usual = _GREETINGS[usual[0]] + usual[3:]
        return self.reply or usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """Facts of a session; the conditions of rules are compared with these facts."""

    client: str = ""
    """IP address."""
    sender: str | None = None
    """Envelope sender without angle brackets; ``None``: not yet known, empty: ``<>``."""
    recipient: str | None = None


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Action of the first matching rule."""

    rule: int
    """Id of the rule; 0: no rule."""
    action: Action
    reply: str = ""
    """Reply line without CRLF; empty: the usual reply."""
    delay_s: float = 0.0
    """Delay of the reply in seconds; for ``bounce``, delay of the notification."""
    give_back: Callable[[], None] = field(default=_nothing, compare=False)
    """Gives the turn back to a ``pace`` rule; called if the client leaves before ``delay_s``."""


PASSED = Decision(rule=0, action=Action.ACCEPT)
"""No rule matches, or every matching rule lets the message pass."""


@dataclass(slots=True)
class RuleInForce:
    """A rule with its id and its state."""

    id: int
    rule: Rule
    to: re.Pattern[str] | None
    sender: re.Pattern[str] | None
    matches: int = 0
    hits: int = 0
    first_seen: dict[tuple[str, str, str], float] = field(default_factory=dict)
    recent: deque[float] = field(default_factory=deque)
    """Times of the matches accepted within the last minute."""
    due: float = -math.inf
    """Time of the newest turn of a ``pace`` rule."""
    free: list[float] = field(default_factory=list)
    """Times of the turns that were given back; a heap (heapq)."""

    def count_match(self, transaction: Transaction) -> bool:
        """Count a match of the patterns, and return whether the rule applies to it."""
        if self.to is not None and not (transaction.recipient and self.to.match(transaction.recipient)):
            return False
        if self.sender is not None and (
            transaction.sender is None or not self.sender.match(transaction.sender or "<>")
        ):
            return False
        if self.rule.times is not None and self.hits >= self.rule.times:
            return False
        self.matches += 1
        if self.matches % self.rule.every:
            return False
        return self.rule.chance >= 1 or random.random() < self.rule.chance

    def decide(self, transaction: Transaction, now: float) -> Decision:
        """Return the decision about a match, and update the rule's state."""
        rule = self.rule
        delay_s, reply, give_back = rule.delay_s or 0.0, rule.answer(), _nothing
        match rule.then:
            case Action.GREYLIST:
                if self._waited(transaction, now, delay_s):
                    return PASSED
                delay_s = 0.0
            case Action.RATE:
                if self._below(now, rule.per_minute or 1):
                    return PASSED
            case Action.PACE:
                turn = self._turn(now, 1 / (rule.per_second or 1))
                delay_s, give_back = turn - now, partial(heappush, self.free, turn)
        self.hits += 1
        return Decision(rule=self.id, action=rule.then, reply=reply, delay_s=delay_s, give_back=give_back)

    def _turn(self, now: float, gap_s: float) -> float:
        while self.free:
            if (turn := heappop(self.free)) >= now:
                return turn
        self.due = max(now, self.due + gap_s)
        return self.due

    def _waited(self, transaction: Transaction, now: float, delay_s: float) -> bool:
        triple = (transaction.client, transaction.sender or "", transaction.recipient or "")
        first = self.first_seen.setdefault(triple, now)
        if len(self.first_seen) > MOST_TRIPLES:
            del self.first_seen[next(iter(self.first_seen))]
        return now - first >= delay_s and now > first

    def _below(self, now: float, per_minute: int) -> bool:
        while self.recent and self.recent[0] <= now - 60:
            self.recent.popleft()
        if len(self.recent) >= per_minute:
            return False
        self.recent.append(now)
        return True


class Rules:
    """A list of rules in force, with the hits of each. Ids are never reused."""

    def __init__(
        self,
        rules: Sequence[Rule],
        clock: Callable[[], float] = time.monotonic,
        ids: Iterator[int] | None = None,
        fold: Callable[[str], str] = str.lower,
    ) -> None:
        self._clock = clock
        self._fold = fold
        """Folds patterns and addresses to one spelling before they are compared."""
        self.ids = ids or count(1)
        """Ids of new rules."""
        self.replace(rules)

    def __bool__(self) -> bool:
        return bool(self.in_force)

    def replace(self, rules: Sequence[Rule]) -> None:
        """Replace all rules in force by these rules; hits begin at 0."""
        self._put([self._new(rule) for rule in rules])

    def add(self, rule: Rule) -> RuleInForce:
        """Put a rule in front of all others."""
        added = self._new(rule)
        self._put([added, *self.in_force])
        return added

    def remove(self, id_: int) -> RuleInForce:
        """Remove a rule, and return the removed rule.

        Raises:
            KeyError: no rule in force has this id.
        """
        for kept in self.in_force:
            if kept.id == id_:
                self._put([other for other in self.in_force if other is not kept])
                return kept
        raise KeyError(id_)

    def _new(self, rule: Rule) -> RuleInForce:
        to, sender = (pattern and glob(self._fold(pattern)) for pattern in (rule.to, rule.from_))
        return RuleInForce(next(self.ids), rule, to or None, sender or None)

    def _put(self, rules: list[RuleInForce]) -> None:
        self.in_force = rules
        """The rules, in the order in which they are tried."""
        self._at: dict[Moment, list[RuleInForce]] = defaultdict(list)
        for kept in rules:
            self._at[kept.rule.moment].append(kept)

    def decide(self, moment: Moment, transaction: Transaction) -> Decision:
        """Return the decision of the moment's first matching rule that does not let the message pass, or ``PASSED``."""
        if not (rules := self._at.get(moment)):
            return PASSED
        sender, recipient = (known and self._fold(known) for known in (transaction.sender, transaction.recipient))
        transaction = Transaction(client=transaction.client, sender=sender, recipient=recipient)
        for kept in rules:
            if kept.count_match(transaction) and (decision := kept.decide(transaction, self._clock())) is not PASSED:
                return decision
        return PASSED


def glob(pattern: str | None) -> re.Pattern[str] | None:
    """Compile a pattern with the wildcards ``*`` and ``?``; brackets are plain text. ``None``: no condition."""
    if pattern is None or pattern == "*":
        return None
    return re.compile(translate(pattern.replace("[", "[[]")), re.IGNORECASE)
