"""The DNS of a bed in a test: records, failures, questions."""

from typing import Any

from orchestrator.testing.rules import Rule
from orchestrator.up.dns import Dns


class BedDns:
    """The DNS server of a bed, and the gate (DNS proxy) before it. Bad names, types and records raise InvalidInput."""

    def __init__(self, dns: Dns, made: list[Rule]) -> None:
        self._dns, self._made = dns, made

    def set(self, name: str, kind: str, *data: str, ttl: int = 60) -> None:
        """Replace the records of a name and type: ``set("example.com", "MX", "10 inbox.nodes.test.")``.

        On return the server answers with the new records. ``ttl``: in seconds.

        Raises:
            EngineFailed: the server refuses the change; for example, it keeps the last NS of a zone.
        """
        self._dns.set(name, kind, data, ttl=ttl)

    def delete(self, name: str, kind: str) -> None:
        """Remove the records of a name and type."""
        self._dns.set(name, kind, [])

    def fail(
        self, name: str, kind: str = "*", then: str = "SERVFAIL", *, times: int | None = None, delay_s: float = 0.0
    ) -> Rule:
        """Fail questions of a name and type (``*`` and ``?`` match) until the returned rule is removed.

        ``then``: a response code, or ``drop``, ``delay``, ``truncate`` or ``reset``. ``times``: fail the next
        ``times`` questions only. ``delay_s``: seconds before the answer.
        """
        made = self._dns.fail(name, kind, then, times=times, delay_s=delay_s)
        self._made.append(Rule(self, made["id"], f"{kind} {name}: {then}"))
        return self._made[-1]

    def queries(self, name: str | None = None, kind: str | None = None, *, after: int = 0) -> list[dict[str, Any]]:
        """Return the questions that the nodes asked, the oldest first, at most the last 100,000.

        Each has ``id``, ``client``, ``over`` (udp or tcp), ``name``, ``type`` and ``rcode`` (None: no answer).
        ``after``: return only questions with an ``id`` above this one.
        """
        wanted = name.rstrip(".").lower() if name else None
        return [
            one
            for one in self._dns.queries(after=after)
            if wanted in {None, one["name"].rstrip(".").lower()} and kind in {None, one["type"]}
        ]

    def faults(self) -> list[dict[str, Any]]:
        """Return the rules in force, each with its ``id`` and ``hits``; the first that matches decides."""
        return self._dns.rules()

    def remove(self, rule: int) -> int:
        """Remove the rule with this id, and return its hits; raises InvalidInput if no rule has this id."""
        return self._dns.remove(rule)

    def hits(self, rule: int) -> int | None:
        """Return how often a rule was applied; ``None`` if it is not in force."""
        return next((one["hits"] for one in self._dns.rules() if one["id"] == rule), None)
