"""Rules of a DNS gate: pattern of name, type and transport, action, count. The first rule that matches decides.

Bed files, the control socket and ``testbed dns fail`` share one model of a rule.
"""

from collections.abc import Sequence
from enum import StrEnum
from itertools import count
from typing import Annotated, Any, Self

import dns.exception
import dns.rcode
import dns.rdatatype
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator, model_validator

from orchestrator.agents.rules import glob


class Action(StrEnum):
    """Action of a rule on a query."""

    ANSWER = "answer"
    """Answer with ``rcode`` and no records."""
    DROP = "drop"
    """Never answer."""
    DELAY = "delay"
    """Answer ``delay_s`` later."""
    TRUNCATE = "truncate"
    """Answer with the TC bit and no records: the client then asks over TCP (RFC 1035, 4.2.1). Matches UDP only."""
    RESET = "reset"
    """Reset the connection. Matches TCP only."""
    PASS = "pass"  # noqa: S105
    """Forward the query; later rules do not apply."""


_OVER = {Action.TRUNCATE: "udp", Action.RESET: "tcp"}
"""Action that matches queries over one transport only -> this transport."""


class DnsRule(BaseModel):
    """One rule: a pattern for queries, and an action. The first rule that matches a query decides."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=255)] = "*"
    """Domain name in ASCII; may contain the wildcards ``*`` and ``?``; case does not matter."""
    type: str = "*"
    """``MX``, ``AAAA``, ``TYPE65``, or ``*``."""
    then: Action = Action.ANSWER
    rcode: str = "SERVFAIL"
    """Response code of the action ``answer``: SERVFAIL, NXDOMAIN, REFUSED, NOTIMP, ..."""
    times: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Apply to the first ``times`` matches only."""
    delay_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Delay of the answer in seconds, for the actions ``answer`` and ``delay``."""

    @field_validator("name")
    @classmethod
    def _ascii(cls, name: str) -> str:
        if not name.isascii():
            raise ValueError("needed in ASCII, as in questions: xn--...")
        return name

    @field_validator("name", "type", "rcode")
    @classmethod
    def _canonical(cls, text: str, info: ValidationInfo) -> str:
        """Return the value in its canonical spelling, which the gate compares with queries."""
        try:
            match info.field_name:
                case "name":
                    return text.removesuffix(".") or "."
                case "rcode":
                    return dns.rcode.to_text(dns.rcode.from_text(text))
            return text if text == "*" else dns.rdatatype.to_text(dns.rdatatype.from_text(text))
        except (dns.exception.DNSException, ValueError) as error:
            raise ValueError(f"{info.field_name} {text}: {error}") from error

    @model_validator(mode="after")
    def _delays(self) -> Self:
        if not self.delay_s and self.then is Action.DELAY:
            raise ValueError("delay needs delay_s, the seconds before the answer")
        if self.delay_s and self.then not in {Action.ANSWER, Action.DELAY}:
            raise ValueError(f"delay_s {self.delay_s}: {self.then} has no delay")
        return self


DNS_RULES = TypeAdapter(list[DnsRule])
"""Reads a list of rules from JSON."""


class _Kept:
    """A rule in force, with its id and its hits."""

    def __init__(self, id_: int, rule: DnsRule) -> None:
        self.id = id_
        self.rule = rule
        self.hits = 0
        self._name = glob(rule.name)

    def concerns(self, name: str, kind: str, over: str) -> bool:
        matches = self._name is None or self._name.match(name) is not None
        return matches and self.rule.type in {"*", kind} and over == _OVER.get(self.rule.then, over)

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, **self.rule.model_dump(mode="json"), "hits": self.hits}


class DnsRules:
    """Rules in force, in the order in which they are tried. Ids are never reused."""

    def __init__(self, rules: Sequence[DnsRule] = ()) -> None:
        self._ids = count(1)
        self._kept: list[_Kept] = []
        self._live: list[_Kept] = []
        """The rules that still apply. A rule with ``times`` is removed from this list after its last hit."""
        self.add(rules)

    def decide(self, name: str, kind: str, over: str) -> DnsRule | None:
        """Return the first rule that matches a query, and count the hit; ``None``: no rule matches."""
        kept = next((kept for kept in self._live if kept.concerns(name, kind, over)), None)
        if kept is None:
            return None
        kept.hits += 1
        if kept.hits == kept.rule.times:
            self._live.remove(kept)
        return kept.rule

    def add(self, rules: Sequence[DnsRule]) -> list[dict[str, Any]]:
        """Put rules before all others; return the new rules in the form of ``to_list``."""
        new = [_Kept(next(self._ids), rule) for rule in rules]
        self._kept[:0] = self._live[:0] = new
        return [kept.to_dict() for kept in new]

    def remove(self, id_: int) -> int | None:
        """Remove the rule with this id, and return its hits; ``None``: there is no such rule."""
        removed = next((kept for kept in self._kept if kept.id == id_), None)
        self._kept, self._live = ([kept for kept in of if kept is not removed] for of in (self._kept, self._live))
        return removed.hits if removed else None

    def clear(self) -> None:
        """Remove all rules."""
        self._kept, self._live = [], []

    def to_list(self) -> list[dict[str, Any]]:
        """Return the fields of each rule (``DnsRule``), with ``id`` and ``hits``."""
        return [kept.to_dict() for kept in self._kept]
