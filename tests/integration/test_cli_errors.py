"""Bad input that shows with an engine or in a process of its own: a message, the exit code, and nothing left."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from orchestrator.errors import ExitCode
from orchestrator.hosts import Host
from orchestrator.hosts.ownership import ID
from tests.integration.beds import Up
from tests.integration.command import POLL_S, TESTBED, call

SMALL = ("run", "relay-throughput", "--domains", "4", "--seconds", "1", "--calibration", "1")
pytestmark = pytest.mark.docker

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="takes root: another user id, a small file system")


def _message(done: subprocess.CompletedProcess[str]) -> str:
    """Return the message of a command that ended with one, and with no traceback."""
    assert "Traceback" not in done.stderr
    start = done.stderr.find("needed: ")
    assert start >= 0, done.stderr
    message = done.stderr[start:]
    assert "\nfound:  " in message
    assert "\ndo:     " in message
    assert len(message.splitlines()) <= 30
    return message


def _objects(engine: Host) -> set[str]:
    return {found.name for found in engine.find({ID: None})}


@pytest.mark.alone
def test_an_interface_that_is_not_there_is_named_before_anything_is_made(real_engine: Host, tmp_path: Path) -> None:
    before = _objects(real_engine)
    for words in (("up", "--domains", "2", "--name", "test-parent"), SMALL):
        done = call(*words, "--parent", "nosuch0", "--runs", tmp_path / "runs")
        assert "interface nosuch0" in _message(done)
        assert done.returncode == ExitCode.HOST
        assert "make its networks" not in done.stderr
    assert _objects(real_engine) <= before


def test_a_subnet_that_another_bed_has_is_named_with_its_network(relay_bed: Up, tmp_path: Path) -> None:
    bed = tmp_path / "bed.yaml"
    bed.write_text(f"name: x\nsubnet: {relay_bed.subnet}\nnodes: {{dns: {{service: bind}}}}\n", encoding="utf-8")
    done = call("up", bed, "--runs", tmp_path / "runs")
    assert f"tb-{relay_bed.id}-lab" in _message(done)
    assert done.returncode == ExitCode.USAGE
    assert not (tmp_path / "runs").exists()


def test_a_bed_that_does_not_come_up_leaves_its_logs_and_names_them(tmp_path: Path) -> None:
    bed = tmp_path / "bed.yaml"
    settings = "{service: postfix, settings: {main_cf: {nosuchparameter: 1}}}"
    bed.write_text(f"name: x\ndomains: 2\nnodes: {{relay: {settings}}}\n", encoding="utf-8")
    done = call("up", bed, "--runs", tmp_path / "runs")
    assert "unused parameter: nosuchparameter" in _message(done)
    assert done.returncode == ExitCode.ENGINE
    (kept,) = (tmp_path / "runs").iterdir()
    assert str(kept) in done.stderr
    assert (kept / "logs" / "relay.log.gz").is_file()


def test_a_node_and_a_bed_that_do_not_exist_are_named(relay_bed: Up) -> None:
    for words, said in (
        (("logs", "--bed", relay_bed.id, "nosuch"), "choose one of dns, load, relay, sink"),
        (("exec", "--bed", relay_bed.id, "nosuch", "id"), "choose one of dns, load, relay, sink"),
        (("stats", "nosuch"), "one bed 'nosuch'"),
        (("down", "nosuch"), "one bed 'nosuch'"),
        (("images", "--release", "potato"), "potato"),
    ):
        done = call(*words)
        assert said in _message(done)
        assert done.returncode == ExitCode.USAGE


@ROOT
def test_a_user_who_may_not_use_the_engine_is_told() -> None:
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    if subprocess.run([*user, TESTBED, "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("another user cannot read this checkout")
    with tempfile.TemporaryDirectory() as home:
        shutil.chown(home, "nobody", "nogroup")
        for words in (("ps",), SMALL):
            done = subprocess.run(
                [*user, TESTBED, *words], cwd=home, text=True, capture_output=True, check=False, timeout=60
            )
            assert "permission to use the container engine" in _message(done)
            assert done.returncode == ExitCode.ENGINE


@pytest.mark.alone
@ROOT
@pytest.mark.parametrize(
    "size",
    [pytest.param("16k", id="before the start"), pytest.param("600k", id="on its way", marks=pytest.mark.long)],
)
def test_a_run_directory_that_is_full_ends_the_run_and_is_named(real_engine: Host, tmp_path: Path, size: str) -> None:
    before = _objects(real_engine)
    script = 'mount -t tmpfs -o size="$1" tmpfs "$2"; shift 2; exec "$@"'
    words: list[str | Path] = [TESTBED, *SMALL, "--runs", tmp_path]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script, "sh", size, tmp_path, *words],
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    message = _message(done)
    assert "No space left on device" in message
    assert str(tmp_path) in message
    assert done.returncode == ExitCode.HOST
    assert _objects(real_engine) <= before


@pytest.mark.alone
@ROOT
def test_a_full_disk_hides_no_interrupt_of_a_sweep(real_engine: Host, tmp_path: Path) -> None:
    before = _objects(real_engine)
    script = 'mount -t tmpfs -o size=8m tmpfs "$1"; shift; exec "$@"'
    words: list[str | Path] = [
        TESTBED,
        *SMALL,
        "--seconds",
        "60",
        "--probe",
        "1",
        "--vary",
        "connections=2,3",
        "--runs",
        tmp_path,
    ]
    sweep = subprocess.Popen(
        ["unshare", "--mount", "sh", "-euc", script, "sh", tmp_path, *words],
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    inside = Path(f"/proc/{sweep.pid}/root") / tmp_path.relative_to("/")  # as its mount namespace has it (proc(5))
    deadline = time.monotonic() + 90
    while not list(inside.glob("*/results/calibration-load.json")):
        assert sweep.poll() is None, sweep.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
    with (inside / "everything").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    sweep.send_signal(signal.SIGINT)
    _, said = sweep.communicate(timeout=60)
    assert "interrupted (SIGINT)" in said
    assert "run.json in " in said
    assert "sweep.json could not be updated: No space left on device" in said
    assert "Traceback" not in said
    assert sweep.returncode == ExitCode.INTERRUPTED
    assert _objects(real_engine) <= before


def test_output_that_nobody_takes_ends_the_command_quietly(tmp_path: Path) -> None:
    """A reader that leaves, a full disk, closed streams, a bare environment: each in a process of its own."""
    bare = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    script = """
        "$0" schema | :; echo "${PIPESTATUS[0]}"
        "$0" schema > /dev/full; echo $?
        "$0" plan --domains 2 <&- >&- 2>&-; echo $?
        "$0" plan --domains 2 </dev/null | wc --lines; echo "${PIPESTATUS[0]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, TESTBED], env=bare, cwd=tmp_path, text=True, capture_output=True, check=False, timeout=60
    )
    assert done.stdout.split() == [str(int(ExitCode.NO_READER)), str(int(ExitCode.HOST)), "0", "6", "0"], done.stderr
    assert done.stderr.splitlines()[0] == "needed: room for the output"
    assert "Traceback" not in done.stderr
