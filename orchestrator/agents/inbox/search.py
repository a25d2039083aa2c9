"""Search for messages: parses terms in Mailpit's syntax, and makes SQL conditions with bound parameters."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.agents.inbox.folding import fold, fold_address
from orchestrator.agents.inbox.words import MATCHES, matching

Condition = tuple[str, list[object]]
"""A condition on the table ``messages``, and its parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term of a search: ``to:bob@d1.test``, ``-subject:hello``. A term without a field matches words anywhere."""

    field: str
    value: str
    negated: bool = False


MOST_TERMS = 50
"""Maximum number of terms: SQLite nests one expression for each term."""
_WORD = re.compile(r'([-!]?)(?:([a-z-]+):)?(?:"([^"]*)"|(\S+))', re.IGNORECASE)
_SIZE = re.compile(r"(\d{1,12})([km]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def parse(text: str) -> list[Term]:
    """Parse a search in Mailpit's syntax: ``field:value``, with quotes around a value, and ``-`` or ``!`` for negation.

    A word that is only punctuation is ignored.

    Raises:
        ValueError: every word is only punctuation.
    """
    terms = []
    for minus, name, quoted, bare in _WORD.findall(text):
        field, value = name.lower(), quoted or bare
        if field not in _FIELDS:
            field, value = "", f"{name}:{value}"
        if field or any(map(str.isalnum, value)):
            terms.append(Term(field=field, value=value, negated=bool(minus)))
    if text.strip() and not terms:
        raise ValueError(f"words are needed, not signs alone: {text[:40]!r}")
    return terms


def where(terms: Sequence[Term]) -> Condition:
    """Return the condition that all these terms match.

    Raises:
        ValueError: a value cannot be parsed; the text names this value.
    """
    if len(terms) > MOST_TERMS:
        raise ValueError(f"a search has at most {MOST_TERMS} terms, not {len(terms)}")
    sql, args = ["1"], list[object]()
    for term in terms:
        condition, values = _FIELDS[term.field](term.value)
        sql.append(f"NOT ({condition})" if term.negated else f"({condition})")
        args += values
    return " AND ".join(sql), args


def by_marks(condition: Condition) -> bool:
    """Return whether a change of marks or tags can make an older message match."""
    return "seen = " in condition[0] or "FROM tags" in condition[0]


def _address(*fields: str) -> Callable[[str], Condition]:
    """Match address fields: a value with ``@`` is a whole address, any other value is a part of a name or address."""
    marks = ", ".join("?" * len(fields))

    def condition(value: str) -> Condition:
        address = fold_address(value)
        match, text = ("address = ?", address) if "@" in value.strip("@") else ("instr(text, ?)", fold(address))
        return f"id IN (SELECT message FROM addresses WHERE {match} AND field IN ({marks}))", [text, *fields]  # noqa: S608

    return condition


def _sender(value: str) -> Condition:
    of = "id IN (SELECT message FROM addresses WHERE address = ? AND field = 'sender')"
    return of, [fold_address(value.strip("<>"))]


def _subject(value: str) -> Condition:
    """Match a part of the subject. SQLite scans the index of the subjects: a tenth of the table's size."""
    return "id IN (SELECT id FROM messages WHERE instr(subject, ?))", [fold(value)]


def _has(value: str) -> Condition:
    kinds = {"attachment": "attachments", "attachments": "attachments", "inline": "inline", "inlines": "inline"}
    if (kind := kinds.get(value.lower())) is None:
        raise ValueError(f"has: needs attachment or inline, not {value!r:.40}")
    return MATCHES, [f"has : {kind}"]


def _is(value: str) -> Condition:
    match value.lower():
        case "read" | "seen":
            return "seen = 1", []
        case "unread" | "unseen":
            return "seen = 0", []
        case "tagged":
            return "id IN (SELECT message FROM tags)", []
    raise ValueError(f"is: needs read, unread or tagged, not {value!r:.40}")


def _unix_time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def _time(field: str, operator: str) -> Callable[[str], Condition]:
    def condition(value: str) -> Condition:
        try:
            t = _unix_time(value.replace("/", "-"))
        except ValueError:
            raise ValueError(f"{field}: needs a date as 2026-11-27 or 2026-11-27T08:00, not {value!r:.40}") from None
        return f"t {operator} ?", [t]

    return condition


def _size(field: str, operator: str) -> Callable[[str], Condition]:
    def condition(value: str) -> Condition:
        if not (found := _SIZE.fullmatch(value)):
            raise ValueError(f"{field}: needs octets as 900, 10k or 2M, not {value!r:.40}")
        return f"size {operator} ?", [int(found[1]) * _UNITS[found[2].lower()]]

    return condition


_RECIPIENTS = ("rcpt", "hidden")
_addressed = _address("author", *_RECIPIENTS, "to", "cc", "bcc", "reply_to")
_FIELDS: dict[str, Callable[[str], Condition]] = {
    "": lambda value: (MATCHES, [matching(value)]),
    "rcpt": _address(*_RECIPIENTS),
    "to": _address(*_RECIPIENTS, "to"),
    "from": _address("author"),
    "cc": _address("cc"),
    "bcc": _address("bcc", "hidden"),
    "reply-to": _address("reply_to"),
    "addressed": _addressed,
    "sender": _sender,
    "subject": _subject,
    "message-id": lambda value: ("message_id = ?", [value.strip("<>")]),
    "tag": lambda value: ("id IN (SELECT message FROM tags WHERE fold(tag) = ?)", [fold(value)]),
    "is": _is,
    "has": _has,
    "before": _time("before", "<"),
    "after": _time("after", ">="),
    "larger": _size("larger", ">"),
    "smaller": _size("smaller", "<"),
}
