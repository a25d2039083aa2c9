"""The inbox of a bed in a test: waits for mail, checks that no mail comes, makes rules."""

import time
from collections.abc import Mapping
from typing import Any, Unpack

from orchestrator.errors import TimedOut
from orchestrator.testing import conditions as words
from orchestrator.testing import evidence
from orchestrator.testing.aio import AsyncInbox
from orchestrator.testing.conditions import Conditions, limits, merged, named, wording
from orchestrator.testing.failure import NotArrived, Unexpected, part
from orchestrator.testing.message import Message
from orchestrator.testing.rules import MakesRules, Rule
from orchestrator.testing.traffic import POLL_S, Search, Traffic, entry
from orchestrator.up.bed import RunningBed


class BedInbox(MakesRules):
    """The inbox. Only messages that arrived after the mark count (``MailBed.begin``).

    Methods with conditions raise InvalidInput for invalid conditions, and EngineFailed if the inbox does not
    answer. Rules stay in force until they are removed.
    """

    def __init__(self, bed: RunningBed, made: list[Rule]) -> None:
        self._bed, self._made = bed, made
        self.api = bed.inbox
        """Client of the inbox's HTTP API, as the commands use it."""
        self._after = self._since = 0

    @property
    def url(self) -> str:
        """Address of the web page and the HTTP API, without a slash at its end."""
        return self.api.url

    @property
    def aio(self) -> AsyncInbox:
        """The same inbox for coroutines."""
        return AsyncInbox(self)

    def begin(self) -> None:
        """Set the mark: messages that arrived before this call no longer count."""
        newest = self.api.messages(limit=1)
        self._after = newest["messages"][0]["id"] if newest["messages"] else 0
        self._since = newest["cursor"]

    def wait_for(
        self, *, timeout: float = 10.0, after: Message | None = None, **conditions: Unpack[Conditions]
    ) -> Message:
        """Return the first message that meets all conditions as soon as it arrives, or at once if it is there.

        ``timeout``: in seconds, 0 to 600. ``after``: a message; only later ones count.

        Raises:
            NotArrived: no such message arrived in time.
            NodeDied: a node has ended, or ends during the wait; only in the process that brought the bed up.
        """
        request = self.request(1, timeout, conditions, after)
        try:
            return self.received(self.api.wait(**request))[0]
        except TimedOut:
            raise self.not_arrived(request, conditions) from None

    def wait_for_all(
        self,
        *wanted: Conditions,
        count: int = 1,
        timeout: float = 10.0,
        **conditions: Unpack[Conditions],
    ) -> list[Message]:
        """Wait for ``count`` messages for each of ``wanted``, under one time limit; add ``conditions`` to each.

        ``wait_for_all({"to": ann}, {"to": bob}, subject="Welcome")`` or ``wait_for_all(count=3, to=ann)``. The result
        follows the order of ``wanted``, then the order of arrival; one message may count for several of ``wanted``.

        Raises:
            NotArrived: fewer messages arrived in time.
        """
        limits(timeout, count)
        deadline = time.monotonic() + timeout
        found: list[Message] = []
        for one in merged(wanted, conditions):
            request = self.request(count, max(0.0, deadline - time.monotonic()), one)
            try:
                found += self.received(self.api.wait(**request))[:count]
            except TimedOut:
                raise self.not_arrived({**request, "timeout": timeout}, one) from None
        return found

    def messages(self, **conditions: Unpack[Conditions]) -> list[Message]:
        """Return all messages that arrived after the mark and meet the conditions, in the order of their arrival."""
        return self.received(self.api.all_messages(after=self._after, **named(conditions)))

    def expect_none(self, *, timeout: float = 10.0, **conditions: Unpack[Conditions]) -> None:
        """Wait until all mail that may meet the conditions is delivered, refused or deferred; then check it.

        Mail that the relay has not accepted yet is not seen: call this after the program has sent its mail.
        ``timeout``: maximum wait for mail on its way, in seconds.

        Raises:
            Unexpected: a message that meets the conditions arrived or waits in the queue, or a message that may meet
                them is still on its way.
        """
        limits(timeout)
        deadline, search = time.monotonic() + timeout, Search(conditions)
        while moving := self._moving(search, wording(conditions)):
            if time.monotonic() >= deadline:
                title = f"mail that may be a message{wording(conditions)} is still on its way after {timeout:g} s"
                raise Unexpected(part(title, moving))
            time.sleep(POLL_S)

    def _moving(self, search: Search, wanted: str) -> list[str]:
        """Return a line for each message on its way that may fulfil the conditions.

        Raises:
            Unexpected: a message that fulfils them arrived, or waits in the queue.
        """
        relay = self._bed.relay
        traffic = Traffic.look(self.api, relay)  # before the inbox: it then has mail that left the queue
        arrived = self.api.messages(limit=10, after=self._after, **named(search.conditions))["messages"]
        if arrived:
            raise Unexpected(part(f"a message{wanted} arrived", map(repr, self.received(arrived))))
        if waiting := [q for q in traffic.queue if not q.on_its_way and search.waits(q, relay)]:
            raise Unexpected(part(f"a message{wanted} waits in the queue of the relay", map(entry, waiting)))
        moving = [entry(q) for q in traffic.queue if q.on_its_way and search.may_come(q)]
        moving += [f"a notification to {sender}" for sender in traffic.bounces if search.may_bounce_to(sender)]
        return moving if traffic.quiet else [*moving, "a notification that was made just now"]

    def _rule(self, then: str, **given: Any) -> Rule:
        return self.make_rule(then, **given)

    def make_rule(self, then: str, **given: Any) -> Rule:
        """Put a rule in front of all others; ``given``: the arguments of the actions' methods."""
        rule = words.rule(then, given)
        made = self.api.add_rule(rule)
        text = ", ".join(f"{name}: {value}" for name, value in rule.items())
        self._made.append(Rule(self, made["id"], text))
        return self._made[-1]

    def remove(self, rule: int) -> int:
        """Remove the rule with this id, and return its hits; raises InvalidInput if no rule has this id."""
        hits: int = self.api.remove_rule(rule)["hits"]
        return hits

    def hits(self, rule: int) -> int | None:
        """Return how often a rule was applied; ``None`` if it is not in force."""
        return next((one["hits"] for one in self.api.rules() if one["id"] == rule), None)

    def request(
        self, count: int, timeout: float, conditions: Mapping[str, Any], after: Message | None = None
    ) -> dict[str, Any]:
        """Return the parameters of a waiting request; raises InvalidInput if a parameter is invalid."""
        limits(timeout, count)
        known = max(self._after, after.id if after else 0)
        return {"count": count, "timeout": timeout, "after": known, **named(conditions)}

    def received(self, summaries: list[dict[str, Any]]) -> list[Message]:
        """Return messages in the order of their arrival."""
        return [Message(one, self.api.raw) for one in sorted(summaries, key=lambda one: one["id"])]

    def not_arrived(self, request: Mapping[str, Any], conditions: Mapping[str, Any]) -> NotArrived:
        """Return the error of a request that was not fulfilled in time."""
        count, timeout, after = request["count"], request["timeout"], request["after"]
        text = evidence.not_arrived(self._bed, conditions, count=count, timeout=timeout, after=after, since=self._since)
        return NotArrived(text)
