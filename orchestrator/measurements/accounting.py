"""Outcome of each message of a load. A set of sequence numbers is an integer: bit n stands for number n."""

import base64
import zlib
from dataclasses import dataclass
from typing import Self

from orchestrator.agents.contract import LoadReport, SinkReport

EXAMPLES = 10
"""Maximum length of ``lost_examples``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """Messages of one load by outcome."""

    offered: int
    accepted: int
    refused: int
    """Not accepted for any reason; includes ``unresolved``."""
    unresolved: int
    """Sent completely, but without a reply: the message may have been delivered or not."""
    delivered: int
    duplicated: int
    corrupted: int
    misrouted: int
    outside: int
    """Delivered to an address that belongs to no domain."""
    foreign: int
    lost: int
    """Accepted, but not delivered."""
    lost_examples: tuple[int, ...]
    """The lowest sequence numbers of lost messages."""
    unaccepted: int
    """Delivered, but neither accepted nor ``unresolved``: the generator received a refusal."""

    @classmethod
    def check_off(cls, sent: LoadReport, got: SinkReport) -> Self | None:
        """Compare the reports of generator and sink, message by message; ``None`` if messages are not numbered."""
        if sent.accepted_set is None or sent.unresolved_set is None or sent.offered is None or sent.accepted is None:
            return None
        accepted, unresolved = bitmap(sent.accepted_set), bitmap(sent.unresolved_set)
        delivered = bitmap(got.delivered_set)
        lost = accepted & ~delivered
        as_counted = ("delivered", "duplicated", "corrupted", "misrouted", "outside", "foreign")
        return cls(
            **{name: getattr(got, name) for name in as_counted},
            offered=sent.offered,
            accepted=sent.accepted,
            refused=sum(sent.failed.values()),
            unresolved=sent.unresolved,
            lost=lost.bit_count(),
            lost_examples=tuple(lowest(lost, EXAMPLES)),
            unaccepted=(delivered & ~accepted & ~unresolved).bit_count(),
        )


def bitmap(text: str) -> int:
    """Decode a set of sequence numbers (``agents.contract``); raises ValueError if that fails."""
    try:
        return int.from_bytes(zlib.decompress(base64.b64decode(text)), "little")
    except zlib.error as error:
        raise ValueError(f"unreadable set of numbers: {error}") from error


def lowest(numbers: int, count: int) -> list[int]:
    """Return the ``count`` lowest numbers of a set."""
    first: list[int] = []
    while numbers and len(first) < count:
        bit = numbers & -numbers
        first.append(bit.bit_length() - 1)
        numbers ^= bit
    return first
