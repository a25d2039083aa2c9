"""Progress of a command on standard error: one line for each step, with its duration."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from orchestrator.plaintext import plain


@contextmanager
def _timed(name: str, taken: list[dict[str, Any]]) -> Iterator[None]:
    """Time the block, and append its name and duration in seconds to ``taken``."""
    began = time.monotonic()
    try:
        yield
    finally:
        taken.append({"name": name, "seconds": round(time.monotonic() - began, 3)})


class Steps:
    """Shows a command's steps: one line for each finished step; on a terminal, a spinner for the running step."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self.taken: list[dict[str, Any]] = []
        """Name and duration in seconds of every step that has ended."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show one step while the block runs."""
        with self._console.status(escape(plain(f"{name} ...", keep=""))) as status:
            self._status = status
            mark = "[red]x[/red]"
            try:
                with _timed(name, self.taken):
                    yield
                mark = "[green]ok[/green]"
            finally:
                self._status = None
                self._console.print(f"{mark} {escape(plain(name))} [dim]{self.taken[-1]['seconds']:.1f} s[/dim]")

    def show(self, text: str) -> bool:
        """Show progress of the running step on a terminal, until the next text; without a terminal return False."""
        if shown := self._console.is_terminal and self._status is not None:
            self._status.update(escape(plain(text)))
        return shown

    def say(self, text: str) -> None:
        """Show progress of the running step. On a terminal the next text replaces this text, except a "warning:"."""
        if text.startswith("warning:") or not self.show(text):
            self._console.print(f"   {plain(text)}", markup=False)


class Within:
    """Shows one of many runs as a single step of ``Steps``, so that each run takes one line."""

    def __init__(self, outer: Steps) -> None:
        self._outer = outer
        self.taken: list[dict[str, Any]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show one step of the run while the block runs."""
        self._outer.show(name)
        with _timed(name, self.taken):
            yield

    def say(self, text: str) -> None:
        """Show progress of the run."""
        self._outer.say(text)
