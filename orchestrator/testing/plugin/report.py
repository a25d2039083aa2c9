"""Report of a failed test: nodes' logs, the relay's queue, the mail, as sections of pytest's report and as files."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.errors import Problem
from orchestrator.plaintext import LAYOUT, plain
from orchestrator.testing.bed import MailBed
from orchestrator.testing.message import Message
from orchestrator.testing.traffic import entry
from orchestrator.up.node import RunningNode

_LINES, _CHARACTERS = 40, 400
"""Maximum lines of a section and maximum characters of a line in a report; the files are complete."""
_MESSAGES = 100
"""Maximum messages in a report: the newest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Observations of a bed since a test began."""

    texts: dict[str, list[str]]
    """File name, such as ``relay.log`` -> lines."""
    messages: list[Message]

    def save(self, folder: Path) -> None:
        """Write logs, queue and mail (``17.eml``) into a folder; make the folder if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in self.texts.items():
            (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="replace")
        for message in self.messages:
            message.save(folder / f"{message.id}.eml")

    def sections(self) -> Iterator[tuple[str, str]]:
        """Yield title and text of each section of a report, with control characters made visible."""
        for name, lines in self.texts.items():
            cut = f", the last {_LINES} of {len(lines)} lines" if len(lines) > _LINES else ""
            text = "\n".join(plain(line[:_CHARACTERS], LAYOUT) for line in lines[-_LINES:])
            yield f"testbed: {name}{cut}", text or "(empty)"


def collect(bed: MailBed, since: float) -> Evidence:
    """Read a bed: the mail since its mark, the relay's queue now, the logs of its nodes since a Unix time.

    If a part cannot be read, the error replaces it: the test is reported in any case.
    """
    messages: list[Message] = []

    def mail() -> list[str]:
        messages.extend(bed.inbox.messages()[-_MESSAGES:])
        return [_line(message) for message in messages]

    parts: dict[str, Callable[[], list[str]]] = {
        "mail.txt": mail,
        "queue.txt": lambda: _queue(bed),
        **{f"{name}.log": partial(_log, node, since) for name, node in bed.running.nodes.items()},
    }
    with ThreadPoolExecutor(len(parts)) as pool:
        texts = dict(zip(parts, pool.map(_readable, parts.values()), strict=True))
    return Evidence(texts=texts, messages=messages)


def folder_name(test: str) -> str:
    """Return a folder name for a test's id, different for each id: ``test_mail.py-test_welcome-1a2b3c4d``."""
    name = re.sub(r"[^A-Za-z0-9_.=+]+", "-", test).strip("-.")
    return f"{name[-120:]}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"


def _readable(read: Callable[[], list[str]]) -> list[str]:
    try:
        return read()
    except (Problem, OSError) as error:
        return [f"not readable: {error}"]


def _line(message: Message) -> str:
    to = ", ".join(message.recipients)
    return f"{message.id}.eml  {message.received_at:%H:%M:%S}  {message.sender or '<>'} -> {to}  {message.subject!r}"


def _queue(bed: MailBed) -> list[str]:
    return [entry(queued) for queued in bed.relay.queue()]


def _log(node: RunningNode, since: float) -> list[str]:
    return [f"{_clock(line.t)} {line.text}" for line in node.log() if line.t >= since]


def _clock(t: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(t))}.{int(t % 1 * 1000):03}"
