"""Mail between the relay and the inbox: the relay's queue, and notifications that the inbox has not sent yet."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.agents.inbox import head
from orchestrator.agents.inbox.folding import fold, fold_address
from orchestrator.services import Queued
from orchestrator.testing.conditions import single
from orchestrator.testing.failure import Unsettled, part
from orchestrator.up.bed import RunningBed
from orchestrator.up.inbox import Inbox
from orchestrator.up.relay import Relay

POLL_S = 0.05
"""Polling interval for the queue: no event reports that it is empty."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Mail that has not arrived."""

    queue: Sequence[Queued]
    bounces: Sequence[str]
    """Senders of messages whose notification waits in the inbox."""
    quiet: bool
    """Whether the inbox made no notification during the reading; otherwise a notification may be missing here."""

    @classmethod
    def look(cls, inbox: Inbox, relay: Relay) -> "Traffic":
        """Read the inbox's notifications, the relay's queue, and the notifications again."""
        before, queue, after = inbox.bounces(), relay.queue(), inbox.bounces()
        waiting = [one["sender"] for one in (*before["waiting"], *after["waiting"])]
        return cls(queue, waiting, before["total"] == after["total"])

    @property
    def settled(self) -> bool:
        """Whether nothing is queued, deferred or on its way."""
        return self.quiet and not self.queue and not self.bounces

    def lines(self) -> list[str]:
        """Return a line for each message."""
        return [*map(entry, self.queue), *(f"a notification to {one} waits in the inbox" for one in self.bounces)]


def settle(bed: RunningBed, timeout: float) -> None:
    """Wait up to ``timeout`` seconds until nothing is queued, deferred or on its way.

    Raises:
        Unsettled: some mail is still queued, deferred or on its way; the error lists it.
    """
    inbox, relay, deadline = bed.inbox, bed.relay, time.monotonic() + timeout
    while not (traffic := Traffic.look(inbox, relay)).settled:
        if time.monotonic() >= deadline:
            raise Unsettled(part(f"mail is still on its way after {timeout:g} s", traffic.lines()))
        time.sleep(POLL_S)


def entry(queued: Queued) -> str:
    """Return a line about a queued message."""
    to = [f"{address} ({reason})" if reason else address for address, reason in queued.recipients.items()]
    return f"{queued.id} {queued.state}: {queued.sender or '<>'} -> {', '.join(to) or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Search:
    """Conditions on messages, applied to mail that has not arrived. The condition ``query`` counts as met."""

    conditions: Mapping[str, Any]

    def may_come(self, queued: Queued) -> bool:
        """Return whether a message on its way, or a notification about it, may fulfil the conditions."""
        if not queued.recipients or self._envelope(queued):
            return True
        return self.may_bounce_to(queued.sender)

    def may_bounce_to(self, sender: str) -> bool:
        """Return whether a notification to this sender may fulfil the conditions."""
        return bool(sender) and self._envelope(Queued(id="", sender="", recipients={sender: ""}, state=""))

    def waits(self, queued: Queued, relay: Relay) -> bool:
        """Return whether a deferred message meets the conditions; reads its header section if a condition needs it."""
        if not self._envelope(queued):
            return False
        fields = [pair for pair in single(self.conditions) if pair[0] in {"from", "subject", "message_id"}]
        if not fields:
            return True
        section = relay.head(queued.id)
        return section is not None and all(_in_head(head.read(section), *pair) for pair in fields)

    def _envelope(self, queued: Queued) -> bool:
        for name, value in single(self.conditions):
            if name == "to" and not any(_is_address(value, one) for one in queued.recipients):
                return False
            if name == "sender" and fold_address(value.strip("<>")) != fold_address(queued.sender):
                return False
        return True


def _is_address(wanted: str, address: str) -> bool:
    """Compare like a search of the inbox: with the whole address if ``wanted`` has an ``@``, else with any part."""
    if "@" in wanted.strip("@"):
        return fold_address(wanted) == fold_address(address)
    return fold(wanted) in fold(address)


def _in_head(read: head.Head, name: str, value: str) -> bool:
    match name:
        case "from":
            return any(_is_address(value, text) for one in read.author for text in (one.address, one.name))
        case "subject":
            return fold(value) in fold(read.subject)
        case _:
            return value.strip("<>") == read.message_id
