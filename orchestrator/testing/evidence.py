"""Text of the error NotArrived: the reasons why an expected message did not arrive."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.agents.inbox.folding import fold_address
from orchestrator.errors import Problem
from orchestrator.services import Role
from orchestrator.testing.conditions import named, single, wording
from orchestrator.testing.failure import part
from orchestrator.testing.traffic import entry
from orchestrator.up.bed import RunningBed
from orchestrator.up.inbox import Inbox

NEAR = 5
"""Maximum near misses in a text."""
LOOKED_AT = 200
"""Number of newest messages that are searched for near misses."""


def not_arrived(
    bed: RunningBed, conditions: Mapping[str, Any], *, count: int, timeout: float, after: int, since: int
) -> str:
    """Return the text of NotArrived; never raises Problem: the error replaces a part that cannot be read.

    ``after``: id of the last message before the mark; ``since``: id of the last event before the mark.
    """
    inbox, to = bed.inbox, [value for name, value in single(conditions) if name == "to"]
    number = "no message" if count == 1 else f"fewer than {count} messages"
    parts = [f"{number}{wording(conditions)} arrived within {timeout:g} s"]
    readers: dict[str, Callable[[], Iterable[str]]] = {
        "messages that came, and conditions that they miss": lambda: _near(inbox, conditions, after),
        "replies of rules and limits of the inbox": lambda: _attempts(inbox, to, since),
        "log of the relay": lambda: _log(bed, to),
        "queue of the relay": lambda: [entry(one) for one in bed.relay.queue()],
        "faults of DNS": lambda: _faults(bed),
    }
    for title, read in readers.items():
        try:
            parts.append(part(title, read()))
        except Problem as problem:
            parts.append(part(title, [f"cannot be read: {problem}"]))
    return "\n".join(parts)


def _near(inbox: Inbox, conditions: Mapping[str, Any], after: int) -> list[str]:
    """Return a line for each message that nearly meets the conditions, the nearest last."""
    came: Sequence[dict[str, Any]] = inbox.messages(limit=LOOKED_AT, after=after)["messages"]
    meets: dict[tuple[str, str], set[int]] = {
        (name, value): {one["id"] for one in inbox.messages(limit=LOOKED_AT, after=after, **{name: value})["messages"]}
        for name, value in single(conditions)
    }
    misses = {one["id"]: [pair for pair, ids in meets.items() if one["id"] not in ids] for one in came}
    nearest = sorted(came, key=lambda one: (len(misses[one["id"]]), -one["id"]))[:NEAR]
    lines = [f"({len(came) - NEAR} further messages came)"] if len(came) > NEAR else []
    lines += [f"{_summary(one)}{_missed(one, misses[one['id']])}" for one in reversed(nearest)]
    before = inbox.messages(limit=1, **named(conditions))["messages"]
    if before and before[0]["id"] <= after:
        lines.append(f"{_summary(before[0])}: meets all, but came before the mark (bed.begin, after=)")
    return lines


def _summary(one: Mapping[str, Any]) -> str:
    return f"{one['id']}: {one['sender'] or '<>'} -> {', '.join(one['recipients'])}, subject {one['subject']!r}"


def _missed(one: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> str:
    texts = {"to": one["recipients"], "sender": one["sender"] or "<>", "subject": one["subject"]}
    texts |= {"from": [author["address"] for author in one["author"]], "message_id": one["message_id"]}
    missed = [
        f"{name} is {texts[name]!r}, not {value!r}" if name in texts else f"not {value!r}" for name, value in pairs
    ]
    return f": {'; '.join(missed)}" if missed else ": meets all"


def _attempts(inbox: Inbox, to: Sequence[str], since: int) -> Iterator[str]:
    """Yield a line for each SMTP reply about one of these recipients, or about none (a reply on connect)."""
    wanted = set(map(fold_address, to))
    for event in inbox.attempts(after=since):
        data = event["data"]
        recipients = data["recipients"]
        if wanted and recipients and not wanted & set(map(fold_address, recipients)):
            continue
        rule = "a limit" if data["rule"] is None else f"rule {data['rule']} ({data['then']})"
        sender = "" if data["sender"] is None else f", {data['sender'] or '<>'} -> {', '.join(recipients)}"
        yield f"{rule} on {data['on']}{sender}: {data['reply'] or 'no reply'}"


def _log(bed: RunningBed, to: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the relay's log about these recipients; all lines if there are no recipients."""
    for address in to or (None,):
        for line in bed.relay.log(address):
            yield line.text


def _faults(bed: RunningBed) -> list[str]:
    if all(node.role is not Role.GATE for node in bed.plan.nodes):
        return []
    lines = []
    for one in bed.dns.rules():
        then = one["rcode"] if one["then"] == "answer" else one["then"]
        lines.append(f"{one['type']} {one['name']}: {then}, hits: {one['hits']}")
    return lines
