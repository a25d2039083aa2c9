"""An inbox with 100,000 messages of 10 KB: its memory, and its page in a real browser."""

import json
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.agents.inbox.spool import Spool
from tests.bench.inbox import fill, letter
from tests.integration.browser import Browser

MESSAGES = 100_000
SOME = MESSAGES * 5 // 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An inbox in a process of its own."""

    pid: int
    http: int
    smtp: int

    @property
    def memory_mb(self) -> float:
        """The most memory that it has had resident so far."""
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Running]:
    folder = tmp_path / "spool"
    spool = Spool(folder, most_b=1 << 40, most_messages=1 << 40)
    fill(spool, MESSAGES)
    spool.close()
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"max_messages": 2 * MESSAGES}))
    options = ("--listen", "127.0.0.1", "--smtp", "0", "--http", "0", "--spool", folder, "--settings", settings)
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator.agents.inbox.server", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        ports = json.loads(process.stdout.readline())
        yield Running(pid=process.pid, http=ports["http"][0], smtp=ports["smtp"][0])
        process.terminate()


def ms(act: Callable[[], Any]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


@pytest.mark.alone
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_page_and_the_memory_with_100_000_messages(inbox: Running, record_testsuite_property: Any) -> None:
    took: dict[str, float] = {}

    def search(page: Browser, query: str, number: int, count: int = 1) -> float:
        page.value(f"document.getElementById('query').value = {json.dumps(query)}")

        def act() -> None:
            page.value("document.getElementById('query').dispatchEvent(new Event('input'))")
            page.wait(f"document.querySelector('.subject').textContent == 'order {number}'")
            page.wait(f"document.getElementById('count').textContent.startsWith('{count} ')")

        return ms(act)

    def show(page: Browser) -> None:
        page.go(f"http://127.0.0.1:{inbox.http}/")
        page.wait("document.querySelectorAll('#messages li').length == 100")

    def arrive(page: Browser) -> None:
        with smtplib.SMTP("127.0.0.1", inbox.smtp, timeout=5) as smtp:
            smtp.sendmail("ann@example.org", ["new@example.com"], letter(MESSAGES)[:-3])
        page.wait(f"document.querySelector('.subject').textContent == 'order {MESSAGES}'")

    def read(page: Browser) -> None:
        page.value("location.hash = '#5'")
        page.wait("document.querySelector('#detail pre')")

    with httpx.Client(base_url=f"http://127.0.0.1:{inbox.http}/api", timeout=300) as api:
        took["index of all words"] = ms(lambda: api.get("/messages", params={"query": "nothing"}).raise_for_status())
        for name, conditions in {
            "a list": {},
            "a recipient": {"to": f"user{SOME}@example.com"},
            "a subject": {"subject": f"order {SOME}"},
            "a word": {"query": f"code{SOME}"},
            "a word of all": {"query": "order"},
        }.items():
            took[f"API: {name}"] = ms(lambda: api.get("/messages", params=conditions).raise_for_status())  # noqa: B023
    with Browser() as page:
        took["page: first list"] = ms(lambda: show(page))
        page.wait("document.getElementById('live').textContent == 'live'")
        took["page: a recipient"] = search(page, f"to:user{SOME}@example.com", SOME)
        took["page: a subject"] = search(page, f'subject:"order {SOME + 1}"', SOME + 1)
        took["page: a word"] = search(page, f"code{SOME + 2}", SOME + 2)
        took["page: a word of all"] = search(page, "order", MESSAGES - 1, MESSAGES)
        took["page: arrival"] = ms(lambda: arrive(page))
        took["page: a message"] = ms(lambda: read(page))
        assert page.console == []
    took["memory, MB"] = inbox.memory_mb
    record_testsuite_property("took, ms", {name: round(value) for name, value in took.items()})  # seen with --junit-xml
    assert took["memory, MB"] < 200
    assert took["API: a recipient"] < 20  # 10 ms for the search, and a request around it
    assert took["API: a subject"] < 110
    assert all(value < 1500 for name, value in took.items() if name.startswith("page")), took
