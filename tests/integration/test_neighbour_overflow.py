"""The kernel's neighbour table, really overflowing; and settings of this host, really changed and put back."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.hosts import Host
from orchestrator.hosts.docker import DockerHost
from orchestrator.hosts.kernel_settings import LOCK, SETTINGS, HostSettings
from tests.integration.command import Watched, call
from tests.integration.traces import on_the_host, traces

pytestmark = [pytest.mark.docker, pytest.mark.alone]

NAME = "neighbour-overflow"
LITERAL = "neighbour: arp_cache: neighbor table overflow!"
FILES = [f"/proc/sys/net/ipv4/neigh/default/gc_thresh{n}" for n in (1, 2, 3)]
OTHER = {"net.ipv4.neigh.default.gc_thresh3": "8192"}
HOLDER = """
import sys
from orchestrator.hosts import docker
from orchestrator.hosts.kernel_settings import HostSettings
from orchestrator.interrupts import raise_on_signals

raise_on_signals()
with HostSettings(docker.connect(), {"net.ipv4.neigh.default.gc_thresh3": "8192"}) as settings:
    settings.apply()
    print("applied", flush=True)
    sys.exit(sys.stdin.readline())
"""
"""A command that has changed a setting, and fails when it is told to."""

Hold = Callable[[], "subprocess.Popen[str]"]


def settings(engine: Host) -> str:
    """Return the bytes of the host's settings."""
    return on_the_host(engine, "cat", *FILES)


def locks(engine: Host) -> list[str]:
    return [found.name for found in engine.find({SETTINGS: None})]


@pytest.fixture
def unchanged(real_engine: Host) -> Iterator[str]:
    """Give the host's settings as they are, and see that they are so again in the end, byte for byte."""
    before = settings(real_engine)
    yield before
    assert settings(real_engine) == before
    assert locks(real_engine) == []


@pytest.fixture
def hold(real_engine: Host, unchanged: str) -> Iterator[Hold]:
    """Start commands that have changed a setting; those that a failed test leaves behind are ended."""
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", HOLDER], text=True, stdin=pipe, stdout=pipe, stderr=pipe)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "applied\n", process.communicate()[1]
        assert settings(real_engine) == unchanged.replace(unchanged.split()[2], "8192")
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def ask(runs: Path, *words: str, code: int) -> dict[str, Any]:
    """Ask, and return what is said when it ends with this exit code."""
    done = call("run", NAME, "--runs", runs, "--format", "json", *words, timeout=300)
    assert done.returncode == code, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


# ------------------------------------------------------------------------------------------------------------ the table


@pytest.mark.usefixtures("unchanged")
def test_the_symptom_is_shown_and_gone_with_a_larger_table_which_is_not_kept(tmp_path: Path) -> None:
    said = ask(tmp_path, "--fix", "gc-thresh", "--allow-host-changes", code=0)
    verdict = said["verdict"]
    assert verdict["outcome"] == "CONFIRMED"
    assert {e["holds"] for e in verdict["evidence"]} == {True}, verdict["evidence"]
    assert verdict["quotes"][0]["source"] == "the kernel's log"
    assert LITERAL in verdict["quotes"][0]["text"]
    assert any("status=deferred" in quote["text"] for quote in verdict["quotes"])
    assert verdict["figures"]["look_ups_failed"] == pytest.approx(2560 - 1024, rel=0.05)
    told = {row[0]: row[1] for row in verdict["tables"][1]["rows"]}
    assert any(name in told["sendto(2) with IP_RECVERR"] for name in ("ENOBUFS", "EINVAL"))
    assert LITERAL in Path(said["report"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("fix", ["route", "permanent"])
def test_10_addresses_refute_it_and_a_fix_inside_the_bed_does_no_harm(tmp_path: Path, fix: str) -> None:
    said = ask(tmp_path, "--addresses", "10", "--messages", "5", "--fix", fix, code=1)
    assert said["verdict"]["outcome"] == "REFUTED"
    assert said["verdict"]["quotes"] == []
    assert said["verdict"]["figures"]["fixed_look_ups_failed"] == 0


def test_consent_is_asked_for_before_anything_is_made(tmp_path: Path) -> None:
    done = call("run", NAME, "--runs", tmp_path, "--fix", "gc-thresh")
    assert done.returncode == 4
    assert "needed: consent to raise net.ipv4.neigh.default.gc_thresh1, 2 and 3" in done.stderr
    assert "do:     add --allow-host-changes" in done.stderr
    assert list(tmp_path.iterdir()) == []


def asked(run: Watched) -> bool:
    """See that the question is being asked: the table was read."""
    return bool(run.rundir and run.rundir.series("readings"))


def test_a_relay_that_is_killed_leaves_no_verdict(real_engine: Host, tmp_path: Path) -> None:
    run = Watched(real_engine, tmp_path, "--addresses", "10", scenario=NAME)
    run.until(asked)
    cast("DockerHost", real_engine)._clients.here.kill(run.nodes["relay"].id)
    assert run.end() == 3, run.said
    assert "status 137" in run.output()
    assert traces(real_engine, run.ids) == []


# ------------------------------------------------------------------------------------------------------------- the host


def test_a_failure_puts_settings_back(hold: Hold) -> None:
    assert hold().communicate("it failed\n", timeout=60)[1].strip() == "it failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_puts_settings_back(hold: Hold, number: signal.Signals) -> None:
    held = hold()
    held.send_signal(number)
    assert f"Interrupted: {number.name}" in held.communicate(timeout=60)[1]


def test_only_one_at_a_time_changes_them(real_engine: Host, hold: Hold) -> None:
    held = hold()
    mine = HostSettings(real_engine, OTHER)
    with pytest.raises(Exception, match="another command changes settings of this host"), mine:
        pass
    held.communicate("\n", timeout=60)


def test_clean_puts_back_what_a_killed_command_has_left_and_spares_a_living_one(
    real_engine: Host, hold: Hold, unchanged: str
) -> None:
    held = hold()
    call("clean")
    assert locks(real_engine) == [LOCK]
    assert settings(real_engine) != unchanged
    held.kill()
    held.wait(60)
    assert locks(real_engine) == [LOCK]
    done = call("clean")
    assert done.returncode == 0, done.stderr
    assert "removing host-settings" in done.stderr
