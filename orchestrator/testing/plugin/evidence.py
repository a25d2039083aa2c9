"""Evidence of a bed for the report of a failed test: nodes' logs, the relay's queue, the mail."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from orchestrator.plaintext import LAYOUT, plain
from orchestrator.testing.bed import MailBed
from orchestrator.testing.message import Message

_LINES = 40
"""Most lines of each log and of the queue in a report."""
_MESSAGES = 100
"""Most messages in a report, the newest."""
_LINE = 300
"""Most characters of a line in a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Observations of a bed since a test began."""

    texts: dict[str, list[str]]
    """File name, such as ``relay.log`` -> lines."""
    messages: Sequence[Message]

    def save(self, folder: Path) -> Path:
        """Write logs, queue and mail (``ID.eml``) into a folder and return it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in self.texts.items():
            (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="replace")
        for message in self.messages:
            message.save(folder / f"{message.id}.eml")
        return folder

    def sections(self) -> Iterator[tuple[str, str]]:
        """Yield title and text of each section of a report, control characters made visible."""
        for name, lines in self.texts.items():
            if lines:
                cut = f", the last {_LINES} of {len(lines)} lines" if len(lines) > _LINES else ""
                yield f"testbed: {name}{cut}", "\n".join(plain(line[:_LINE], LAYOUT) for line in lines[-_LINES:])
