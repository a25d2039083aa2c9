"""Rules that a test makes: faults and limits of the inbox, and failures of DNS."""

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Protocol, Self, Unpack

from orchestrator.errors import InvalidInput
from orchestrator.testing.conditions import Match


class Maker(Protocol):
    """The part of a bed in which a rule is in force."""

    def remove(self, rule: int) -> int:
        """Remove a rule and return its hits; raises InvalidInput if it is not in force."""
        ...

    def hits(self, rule: int) -> int | None:
        """Return the hits of a rule; ``None``: it is not in force."""
        ...


class Rule:
    """A rule in force, tried before all older rules. A context manager: the end of the block removes only this rule."""

    def __init__(self, maker: Maker, id_: int, text: str) -> None:
        self.id = id_
        """Id of the rule; no later rule of the bed gets this id."""
        self._maker, self._text, self._hits = maker, text, 0
        self._in_force = True

    def __repr__(self) -> str:
        return f"<Rule {self.id}: {self._text}>"

    @property
    def hits(self) -> int:
        """How often the rule was applied, up to its removal."""
        if self._in_force and (hits := self._maker.hits(self.id)) is not None:
            self._hits = hits
        return self._hits

    def remove(self) -> None:
        """Remove the rule; idempotent."""
        if self._in_force:
            with suppress(InvalidInput):  # already gone: all rules were replaced
                self._hits = self._maker.remove(self.id)
            self._in_force = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class MakesRules(ABC):
    """Makes rules of the inbox: one method for each action (docs/mail.md, Rules). The first rule that matches decides.

    Each method raises InvalidInput for an invalid rule.
    """

    __slots__ = ()

    @abstractmethod
    def _rule(self, then: str, **given: Any) -> Rule:
        """Put a rule in front of all others."""

    def accept(self, **match: Unpack[Match]) -> Rule:
        """Accept the mail; later rules are not tried."""
        return self._rule("accept", **match)

    def defer(self, reply: str | None = None, **match: Unpack[Match]) -> Rule:
        """Answer with a temporary failure, ``451 4.3.0 Try again later`` by default."""
        return self._rule("defer", reply=reply, **match)

    def reject(self, reply: str | None = None, **match: Unpack[Match]) -> Rule:
        """Answer with a permanent failure, ``550 5.7.1 Rejected`` by default."""
        return self._rule("reject", reply=reply, **match)

    def greylist(self, delay_s: float, reply: str | None = None, **match: Unpack[Match]) -> Rule:
        """Defer each client, sender and recipient until ``delay_s`` seconds after their first attempt (RFC 6647)."""
        return self._rule("greylist", delay_s=delay_s, reply=reply, **match)

    def bounce(self, delay_s: float = 0.0, **match: Unpack[Match]) -> Rule:
        """Accept the message, and send a notification to its sender ``delay_s`` seconds later (RFC 3464)."""
        return self._rule("bounce", delay_s=delay_s, **match)

    def tarpit(self, delay_s: float, **match: Unpack[Match]) -> Rule:
        """Answer ``delay_s`` seconds late."""
        return self._rule("tarpit", delay_s=delay_s, **match)

    def disconnect(self, reply: str | None = None, **match: Unpack[Match]) -> Rule:
        """Close the connection, with ``reply`` or without one."""
        return self._rule("disconnect", reply=reply, **match)

    def reset(self, **match: Unpack[Match]) -> Rule:
        """Reset the connection (RST), without a reply."""
        return self._rule("reset", **match)

    def rate(self, per_minute: int, reply: str | None = None, **match: Unpack[Match]) -> Rule:
        """Defer all matches above ``per_minute``."""
        return self._rule("rate", per_minute=per_minute, reply=reply, **match)

    def pace(self, per_second: float, **match: Unpack[Match]) -> Rule:
        """Delay the answers, so that at most ``per_second`` matches are answered each second."""
        return self._rule("pace", per_second=per_second, **match)

    def drop(self, **match: Unpack[Match]) -> Rule:
        """Accept the message and discard it."""
        return self._rule("drop", **match)
