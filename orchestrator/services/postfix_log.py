"""What Postfix's log says of the mail that went through: how long each hop took, what became of it, how long the queue.

The lines are untrusted: they hold addresses that a client chose and replies that a server chose. Only the fields that
Postfix itself wrote are read (postconf(5), delay_logging_resolution_limit; smtp(8)).
"""

import re
from collections import Counter
from collections.abc import Iterable

from orchestrator.agents.histogram import Histogram
from orchestrator.services import RelayLog

HOPS = ("a: before the queue manager", "b: in the queue", "c: connection set-up", "d: transmission")
"""The four parts of ``delays=a/b/c/d``, in the order in which a message passes them."""
MOST_WARNINGS = 20

_LINE = r"[A-Z][a-z]{2} [ \d]\d [\d:]{8} \S+ postfix/"
_QUEUED = re.compile(rf"{_LINE}cleanup\[\d+\]: ([0-9A-Za-z]+): message-id=")
_REMOVED = re.compile(rf"{_LINE}qmgr\[\d+\]: ([0-9A-Za-z]+): removed\Z")
_ADDRESS = r'<(?:"(?:[^"\\]|\\.)*"|[^">])*>'
_ATTEMPT = re.compile(
    rf"{_LINE}[a-z]+\[\d+\]: [0-9A-Za-z]+: to={_ADDRESS}, (?:orig_to={_ADDRESS}, )?relay=[^,]*, (?:conn_use=\d+, )?"
    r"delay=[\d.]+, delays=([\d.]+)/([\d.]+)/([\d.]+)/([\d.]+), (?:tls=[^,]*, )?dsn=\d\.\d+\.\d+, status=([a-z]+) "
)
_TROUBLE = re.compile(rf"{_LINE}(?:\S+\[\d+\]: (?:warning|error|fatal|panic): |smtp\[\d+\]: connect to )")


def read(lines: Iterable[tuple[float, str]]) -> RelayLog:
    """Read a log (Unix time, text) in one pass; memory grows with the mail that is in the queue at a time."""
    hops = {name: Histogram() for name in HOPS}
    recorders = [histogram.record_ns for histogram in hops.values()]
    statuses: Counter[str] = Counter()
    queued: set[str] = set()
    lengths: dict[int, int] = {}
    warnings: list[str] = []
    for t, text in lines:
        if ": to=<" in text:
            if attempt := _ATTEMPT.match(text):
                *delays, status = attempt.groups()
                statuses[status] += 1
                for record, seconds in zip(recorders, delays, strict=True):
                    record(round(float(seconds) * 1e9))
        elif ": message-id=" in text:
            if found := _QUEUED.match(text):
                queued.add(found[1])
                lengths[int(t)] = len(queued)
        elif text.endswith(": removed"):
            if found := _REMOVED.match(text):
                queued.discard(found[1])
                lengths[int(t)] = len(queued)
        elif len(warnings) < MOST_WARNINGS and _TROUBLE.match(text):
            warnings.append(text)
    return RelayLog(
        hops={name: histogram.library() for name, histogram in hops.items()},
        statuses=dict(statuses),
        queue=[(float(second + 1), length) for second, length in lengths.items()],
        warnings=warnings,
    )
