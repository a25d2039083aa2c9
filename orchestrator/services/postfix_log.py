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

_QUEUED = re.compile(r"postfix/cleanup\[\d+\]: ([0-9A-Za-z]+): message-id=")
_REMOVED = re.compile(r"postfix/qmgr\[\d+\]: ([0-9A-Za-z]+): removed$")
_ADDRESS = r'<(?:"(?:[^"\\]|\\.)*"|[^">])*>'
_ATTEMPT = re.compile(
    rf"postfix/[a-z]+\[\d+\]: [0-9A-Za-z]+: to={_ADDRESS}, (?:orig_to={_ADDRESS}, )?relay=[^,]*, (?:conn_use=\d+, )?"
    r"delay=[\d.]+, delays=([\d.]+)/([\d.]+)/([\d.]+)/([\d.]+), (?:tls=[^,]*, )?dsn=\d\.\d+\.\d+, status=([a-z]+) "
)
_TROUBLE = re.compile(r"postfix/\S+\[\d+\]: (?:warning|error|fatal|panic): ")


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
            if attempt := _ATTEMPT.search(text):
                *delays, status = attempt.groups()
                statuses[status] += 1
                for record, seconds in zip(recorders, delays, strict=True):
                    record(round(float(seconds) * 1e9))
        elif ": message-id=" in text:
            if found := _QUEUED.search(text):
                queued.add(found[1])
                lengths[int(t)] = len(queued)
        elif text.endswith(": removed"):
            if found := _REMOVED.search(text):
                queued.discard(found[1])
                lengths[int(t)] = len(queued)
        elif len(warnings) < MOST_WARNINGS and _TROUBLE.search(text):
            warnings.append(text)
    return RelayLog(
        hops={name: histogram.library() for name, histogram in hops.items()},
        statuses=dict(statuses),
        queue=[(float(second + 1), length) for second, length in lengths.items()],
        warnings=warnings,
    )
