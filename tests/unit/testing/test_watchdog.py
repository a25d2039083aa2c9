"""The watchdog as a process: what it costs, what does not end it, and what does."""

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.testing.watchdog import Watchdog

READ = ["0", "0x0"], ["63", "0x0"]
"""A process in read(2) of file descriptor 0, as /proc/PID/syscall shows it on x86-64 and arm64."""
NOBODY = "nowhere/0/0/0/0"
"""OWNER label of nobody."""


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Watchdog]:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine")
    monkeypatch.setenv("RUNNER_TRACKING_ID", "github_1234")
    made = Watchdog(NOBODY)
    yield made
    made.process.kill()
    made.done()


def await_read(process: "subprocess.Popen[bytes]") -> Path:
    """Wait until the process waits for its pipe, and return its folder in /proc."""
    folder = Path(f"/proc/{process.pid}")
    while (folder / "syscall").read_text().split()[:2] not in READ:
        assert process.poll() is None
        os.sched_yield()
    return folder


def test_it_has_a_session_of_its_own_and_nothing_of_its_owner(watchdog: Watchdog) -> None:
    process = await_read(watchdog.process)
    assert os.getsid(watchdog.process.pid) == watchdog.process.pid
    assert b"RUNNER_TRACKING_ID" not in (process / "environ").read_bytes()
    opened = {int(fd.name): str(fd.readlink()) for fd in (process / "fd").iterdir()}
    assert set(opened) == {0, 1, 2}
    assert opened[0].startswith("pipe:")
    assert (opened[1], opened[2]) == ("/dev/null", "/dev/null")
    assert (process / "cwd").readlink() == Path("/")


def test_it_ends_with_the_word_of_its_owner_and_costs_less_than_50_ms_until_then(watchdog: Watchdog) -> None:
    await_read(watchdog.process)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with watchdog.guard():
        pass
    watchdog.done()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert watchdog.process.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.05


def test_no_signal_of_a_terminal_or_a_supervisor_ends_it(watchdog: Watchdog) -> None:
    await_read(watchdog.process)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        watchdog.process.send_signal(number)
    watchdog.done()
    assert watchdog.process.returncode == 0


def test_a_forked_child_that_lives_on_holds_no_pipe_and_ends_no_watch(watchdog: Watchdog) -> None:
    await_read(watchdog.process)
    child = os.fork()
    if child == 0:
        watchdog.done()
        signal.pause()
    try:
        assert watchdog.process.poll() is None
        watchdog.done()
        assert watchdog.process.returncode == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_failed_block_leaves_its_objects_to_the_watchdog(watchdog: Watchdog) -> None:
    await_read(watchdog.process)
    with pytest.raises(KeyError), watchdog.guard():
        raise KeyError
    watchdog.done()
    assert watchdog.process.poll() is None


@pytest.mark.parametrize(("gone", "limit_s", "status"), [(True, 60, 0), (False, 2, -signal.SIGALRM)])
def test_it_ends_though_the_engine_is_gone_or_never_answers(
    tmp_path: Path, *, gone: bool, limit_s: int, status: int
) -> None:
    path = tmp_path / "engine"
    with socket.socket(socket.AF_UNIX) as silent:
        if not gone:
            silent.bind(str(path))
            silent.listen()
        limits = f"r.LOOKS_S, r.LIMIT_S = (0, 0.1), {limit_s}"
        script = f"from orchestrator.testing import reaper as r; {limits}; r.watch('nobody')"
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "DOCKER_HOST": f"unix://{path}"},
            check=False,
            timeout=60,
        )
    assert done.returncode == status
