"""A session of pytest that holds a bed is killed at a random moment: soon nothing is left, other beds are unharmed."""

import os
import random
import signal
import smtplib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.hosts import Host
from orchestrator.hosts.ownership import ID, OWNER, scratch
from orchestrator.testing import MailBed
from tests.integration.command import POLL_S
from tests.integration.test_testcontainers import ryuk

pytestmark = pytest.mark.docker

LATEST_S = {"start": 4.0, "tests": 2.0, "stop": 2.0}
"""The kill comes at most this long after the beginning of a phase."""
REMOVED_S = 60.0
"""Time from the kill until nothing is left."""
REAPERS = ("on", "off", "silent")


@pytest.fixture
def neighbour() -> Iterator[MailBed]:
    """Hold a bed of another owner: this process."""
    with MailBed() as bed:
        yield bed


@pytest.fixture(scope="module")
def reapers(real_engine: Host) -> dict[str, dict[str, str]]:
    """Return the environment in which testcontainers' reaper is on, off or silent."""
    on, silent = ryuk(real_engine), ryuk(real_engine, "silent")
    return {
        "on": {"RYUK_CONTAINER_IMAGE": on, "TESTCONTAINERS_RYUK_DISABLED": "false"},
        "off": {"TESTCONTAINERS_RYUK_DISABLED": "true"},
        "silent": {"RYUK_CONTAINER_IMAGE": silent, "TESTCONTAINERS_RYUK_DISABLED": "false"},
    }


def hold(environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a session of pytest that holds a bed among testcontainers."""
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-qs", "-p", "no:cacheprovider", "tests/integration/bed_holder.py"],
        stdout=subprocess.PIPE,
        env={**os.environ, **environment, "BEDS": "testcontainers"},
        text=True,
    )


def until(holder: subprocess.Popen[str], phase: str) -> dict[str, str]:
    """Wait for the beginning of a phase; return what the holder printed before it: word -> value."""
    assert holder.stdout
    told: dict[str, str] = {}
    for line in holder.stdout:
        word, _, rest = line.strip().partition(" ")
        told[word] = rest
        if word == phase:
            return told
    raise AssertionError(f"{phase} was never reached")


def kill_one(engine: Host, environment: dict[str, str], phase: str, later_s: float) -> float:
    """Kill a holder after this part of a phase; return the seconds from the kill until nothing was left for good."""
    holder = hold(environment)
    told = until(holder, phase)
    time.sleep(later_s)  # the random moment
    holder.kill()
    killed = last = time.monotonic()
    holder.wait()
    watchdogs = watching(told["owner"])
    while (left := engine.find({OWNER: told["owner"]})) or watchdogs():
        if left:
            last = time.monotonic()
        assert time.monotonic() - killed < 2 * REMOVED_S, left
        time.sleep(POLL_S * 20)
    assert list(Path(tempfile.gettempdir()).glob(f"{scratch(told['owner'])}*")) == []
    return last - killed


def watching(owner: str) -> Callable[[], bool]:
    """Return a callable that tells whether a watchdog of this owner runs."""

    def running() -> bool:
        wanted = owner.encode()
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdecimal() and wanted in (process / "cmdline").read_bytes().split(b"\0"):
                    return True
            except OSError:
                continue
        return False

    return running


def kill_many(engine: Host, reapers: dict[str, dict[str, str]], kills: int, at_once: int) -> dict[str, float]:
    """Kill holders in turn with each reaper, in each phase; return the longest time for each reaper."""
    orders = []
    for number in range(kills):
        phase = (*LATEST_S,)[(number + number // 3) % 3]
        orders.append((REAPERS[number % 3], phase, random.uniform(0, LATEST_S[phase])))
    with ThreadPoolExecutor(at_once) as pool:
        took = list(pool.map(lambda order: kill_one(engine, reapers[order[0]], *order[1:]), orders))
    for order, seconds in zip(orders, took, strict=True):
        assert seconds < REMOVED_S, order
    return {reaper: max(s for o, s in zip(orders, took, strict=True) if o[0] == reaper) for reaper in REAPERS}


@pytest.mark.long
def test_the_librarys_reaper_removes_a_bed_whose_watchdog_was_killed_too(
    real_engine: Host, reapers: dict[str, dict[str, str]]
) -> None:
    holder = hold(reapers["on"])
    told = until(holder, "tests")
    os.kill(int(told["watchdog"]), signal.SIGKILL)
    holder.kill()
    holder.wait()
    deadline = time.monotonic() + REMOVED_S
    assert real_engine.find({OWNER: told["owner"]})
    while real_engine.find({OWNER: told["owner"]}):
        assert time.monotonic() < deadline
        time.sleep(POLL_S * 20)


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_nothing_is_left_of_a_killed_process_and_its_neighbour_is_unharmed(
    real_engine: Host,
    reapers: dict[str, dict[str, str]],
    neighbour: MailBed,
    capsys: pytest.CaptureFixture[str],
    kills: int,
) -> None:
    before = {item.id: item.state for item in real_engine.find({ID: neighbour.id})}
    longest = kill_many(real_engine, reapers, kills, at_once=3)
    with capsys.disabled():
        each = ", ".join(f"reaper {reaper} {seconds:.1f} s" for reaper, seconds in longest.items())
        sys.stdout.write(f"\n{kills} kills, longest time until nothing was left: {each}\n")
    assert {item.id: item.state for item in real_engine.find({ID: neighbour.id})} == before
    box = neighbour.mailbox()
    with smtplib.SMTP(neighbour.relay.host, neighbour.relay.port, timeout=30) as smtp:
        smtp.sendmail("ann@example.org", box, "Subject: hello\r\n\r\ntext\r\n")
    assert neighbour.inbox.wait_for(to=box, timeout=30).subject == "hello"
