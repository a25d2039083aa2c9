"""Reader of Postfix's log: duration of each hop, delivery outcomes, queue length, troubles by reason.

The lines are untrusted: they contain addresses from clients and replies from servers. So only the fields that Postfix
itself wrote are read (postconf(5), delay_logging_resolution_limit; smtp(8)).
"""

import re
from collections import Counter
from collections.abc import Iterable

from orchestrator.agents.histogram import Histogram
from orchestrator.services import RelayLog, Trouble

HOPS = ("a: before the queue manager", "b: in the queue", "c: connection set-up", "d: transmission")
"""The four parts of ``delays=a/b/c/d``, in the order in which a message passes them."""
MOST_REASONS = 200
"""Maximum number of distinct reasons."""
OTHER = "(other reasons)"
_LONGEST = 300
"""Maximum characters of a reason or an example."""

_LINE = r"[A-Z][a-z]{2} [ \d]\d [\d:]{8} \S+ postfix/(?:[\w.-]+/)*"
"""Start of a log line. The last group matches ``-o syslog_name=postfix/$service_name``, as in Debian for ``relay``."""
_ID = r"([0-9A-Za-z]+)"
_CLIENT = re.compile(rf"{_LINE}smtpd\[(\d+)\]: {_ID}: client=")
_QUEUED = re.compile(rf"{_LINE}cleanup\[\d+\]: {_ID}: message-id=")
_REMOVED = re.compile(rf"{_LINE}(?:qmgr|postsuper)\[\d+\]: {_ID}: (?:removed|requeued)\Z")
_ACTIVE = re.compile(rf"{_LINE}qmgr\[\d+\]: {_ID}: from=")
_IDLE = re.compile(rf"{_LINE}smtpd\[(\d+)\]: (?:(?:dis)?connect from |NOQUEUE: )")
"""A line that an smtpd process logs when it has no current message."""
_GIVEN_UP = r"(?:lost connection|timeout|too many errors|bare \S+ received)"
_LOST = re.compile(rf"{_LINE}smtpd\[(\d+)\]: {_GIVEN_UP} after (?:DATA|BDAT) (?:\(|from )")
"""A line about a connection that ended during the data: cleanup(8) discards the unfinished message."""
_DISCARDED = re.compile(
    rf"{_LINE}(?:cleanup\[\d+\]: {_ID}: (?:milter-)?(?:reject|discard): "
    rf"|smtpd\[\d+\]: {_ID}: (?:(?:(?:milter|proxy)-)?reject: (?:DATA|BDAT|END-OF-MESSAGE)[ :]|discard: )"
    rf"|(?:cleanup|smtpd)\[\d+\]: warning: {_ID}: (?:write )?queue file )"
)
"""A line about a message that was rejected or discarded after its queue id was logged (bad content, or too long)."""
_ADDRESS = r'<(?:"(?:[^"\\]|\\.)*"|[^">])*>'
_ATTEMPT = re.compile(
    rf"{_LINE}[\w-]+\[\d+\]: [0-9A-Za-z]+: to={_ADDRESS}, (?:orig_to={_ADDRESS}, )?relay=[^,]*, (?:conn_use=\d+, )?"
    r"delay=[\d.]+, delays=([\d.]+)/([\d.]+)/([\d.]+)/([\d.]+), (?:tls=[^,]*, )?dsn=\d\.\d+\.\d+, "
    r"status=([A-Za-z][A-Za-z ,-]{0,60}?)(?: (\(.*)|\Z)",
    re.DOTALL,
)
_SENT = "sent"
_TROUBLE = re.compile(
    rf"(?:{_LINE}(?:[\w-]+\[\d+\]: (?:(?:warning|error|fatal|panic): "
    r"|(?:[0-9A-Za-z]+: )?(?:connect to |lost connection with |conversation with |host \S+ (?:said|refused to talk)"
    r"|SSL_(?:accept|connect) error |Cannot start TLS))"
    rf"|smtpd\[\d+\]: (?:{_GIVEN_UP}|improper command pipelining) after [A-Z-]+ (?:\(|from )"
    r"|(?:smtpd|cleanup|postscreen)\[\d+\]: [0-9A-Za-z]+: (?:(?:milter|proxy)-)?reject: "
    rf"|qmgr\[\d+\]: [0-9A-Za-z]+: from={_ADDRESS}, status=)"
    r"|\S*post(?:conf|map|alias): (?:warning|error|fatal): )",
    re.DOTALL,
)
_ORDINARY = ("connect from ", "disconnect from ")

_PREFIX = re.compile(rf"{_LINE}([\w-]+)\[\d+\]: (?:(?:NOQUEUE|[0-9A-F]{{6,}}|[0-9B-Zb-z]{{12,}}): )?")
_V6 = r"(?:(?:[0-9A-Fa-f]{1,4}:){7}|(?=[0-9A-Fa-f:]{0,39}::)(?:[0-9A-Fa-f]{0,4}:){2,7})(?:[0-9A-Fa-f]{1,4}|(?<=::))"
"""An IPv6 address: eight groups, or fewer with ``::``. The pattern matches no time of day and no port."""
_VARYING = (
    (re.compile(r"; from=<.*", re.DOTALL), ""),
    (re.compile(r"\A(smtpd: improper command pipelining after \S+ from [^ ]+\]):.*", re.DOTALL), r"\1"),
    (re.compile(_ADDRESS), "<ADDRESS>"),
    (re.compile(r"(?:[\w.-]+\[|\[(?=[0-9A-Fa-f]*[.:]))[0-9A-Fa-f.:]+\](?::\d+)?|\bunknown\[[^\]]*\]"), "HOST"),
    (re.compile(rf"(?<![\w.:])(?:\d+(?:\.\d+){{3}}(?::\d+)?|{_V6})(?![\w.]|:[\w:])"), "HOST"),
    (re.compile(r"\b(?:[0-9A-F]{9,}|(?=[0-9A-Za-z]*\d)[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{12,})\b"), "ID"),
    (re.compile(r"(?<![/\w.-])(?:[\w-]+\.)+[A-Za-z]{2,}(?![\w/])"), "NAME"),
    (re.compile(r"(?<![\w.])(?!(?<=: )[2-5]\d\d(?:[ -]|\Z)|\d\.\d+\.\d+)\d+(?:\.\d+)?(?![\w.])"), "N"),
)  # fmt: skip
"""Patterns of the variable parts of a log line, and their placeholders. Reply and status codes are not replaced."""


def read(lines: Iterable[tuple[float, str]]) -> RelayLog:
    """Read a log (Unix time, text) in one pass; memory grows with the queue length."""
    hops = {name: Histogram() for name in HOPS}
    recorders = [histogram.record_ns for histogram in hops.values()]
    statuses: Counter[str] = Counter()
    queue = _Queue()
    reasons = _Reasons()
    for t, text in lines:
        if ": to=<" in text and (attempt := _ATTEMPT.match(text)):
            *delays, status, reply = attempt.groups()
            statuses[status] += 1
            for record, seconds in zip(recorders, delays, strict=True):
                record(round(float(seconds) * 1e9))
            if status != _SENT:
                reasons.add(f"{status}: {(reply or '')[1:].removesuffix(')')}", text)
            continue
        if queue.read(t, text):
            continue
        if _TROUBLE.match(text):
            reasons.add(_PREFIX.sub(r"\1: ", text, count=1), text)
    return RelayLog(
        hops={name: histogram.library() for name, histogram in hops.items()},
        statuses=dict(statuses),
        queue=[(float(second + 1), length) for second, length in queue.lengths.items()],
        troubles=reasons.ordered(),
    )


class _Queue:
    """Messages in the queue, each from its line of cleanup(8) until it is removed or discarded."""

    def __init__(self) -> None:
        self.lengths: dict[int, int] = {}
        """Unix second -> queue length at the end of this second."""
        self._queued: set[str] = set()
        self._gone: set[str] = set()
        """Ids of discarded messages. They are remembered because cleanup may log its line after smtpd."""
        self._begun: dict[str, str] = {}
        """Process id of an smtpd -> id of the current or last message of this process."""
        self._accepted: set[str] = set()
        """Ids of messages that have been in the active queue: a lost connection no longer discards these messages."""

    def read(self, t: float, text: str) -> bool:
        """Read one line; return whether the line reports ordinary progress of a message."""
        if ": client=" in text and (match := _CLIENT.match(text)):
            self._begun[match[1]] = match[2]
            self._gone.discard(match[2])
            self._accepted.discard(match[2])
            return True
        if ": message-id=" in text and (match := _QUEUED.match(text)):
            if match[1] not in self._gone:
                self._queued.add(match[1])
                self.lengths[int(t)] = len(self._queued)
            return True
        if text.endswith((": removed", ": requeued")) and (match := _REMOVED.match(text)):
            self._leave(t, match[1])
            return True
        if self._keep(text):
            return True
        if " after " in text and (match := _LOST.match(text)):
            self._throw_away(t, self._begun.get(match[1]))
        elif ("reject: " in text or "discard: " in text or "queue file " in text) and (match := _DISCARDED.match(text)):
            self._throw_away(t, next(filter(None, match.groups())))
        return False

    def _keep(self, text: str) -> bool:
        """Note that a lost connection no longer discards this line's message; return whether the line is ordinary."""
        if text.endswith(" (queue active)"):
            if (match := _ACTIVE.match(text)) and match[1] in self._queued:
                self._accepted.add(match[1])
            return True
        ordinary = text.startswith(_ORDINARY, text.find("]: ") + 3)
        if (ordinary or ": NOQUEUE: " in text) and (match := _IDLE.match(text)):
            self._begun.pop(match[1], None)
        return ordinary

    def _throw_away(self, t: float, message: str | None) -> None:
        if message and message != "NOQUEUE" and message not in self._accepted:
            self._gone.add(message)
            self._leave(t, message)

    def _leave(self, t: float, message: str) -> None:
        self._accepted.discard(message)
        if message in self._queued:
            self._queued.discard(message)
            self.lengths[int(t)] = len(self._queued)


class _Reasons:
    """Counts the lines that report trouble, by reason."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, reason: str, line: str) -> None:
        """Count one line; ``reason``: the text of the line without time and process."""
        for pattern, word in _VARYING:
            reason = pattern.sub(word, reason)
        reason = reason[:_LONGEST]
        if reason not in self._counts and len(self._counts) >= MOST_REASONS:
            reason = OTHER
        self._counts[reason] += 1
        self._examples.setdefault(reason, line[:_LONGEST])

    def ordered(self) -> list[Trouble]:
        """Return the reasons, the most frequent first."""
        counts = self._counts.most_common()
        return [Trouble(reason=reason, count=count, example=self._examples[reason]) for reason, count in counts]
