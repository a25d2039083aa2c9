"""Set-up: which engine is used, how one is started, and what is said when that cannot be."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import Host, debian, setup

as_root = pytest.mark.skipif(debian.as_root(["true"]) is None, reason="needs root's rights")


@contextmanager
def nobody() -> Iterator[None]:
    """Lay root's rights down."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Choose no engine."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("bare")
def test_nothing_chosen_is_this_machines_own_engine() -> None:
    assert setup.chosen() is None


@pytest.mark.parametrize("text", ["{}", "no json", "[]", json.dumps({"currentContext": "default"})])
def test_a_config_that_names_no_context_chooses_nothing(bare: Path, text: str) -> None:
    (bare / "config.json").write_text(text)
    assert setup.chosen() is None


def test_the_environment_or_a_context_chooses(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "config.json").write_text(json.dumps({"currentContext": "lab"}))
    assert setup.chosen() == "lab"
    monkeypatch.setenv("DOCKER_HOST", "ssh://lab.test")
    assert setup.chosen() == "ssh://lab.test"
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    assert setup.chosen() is None


def test_a_chosen_engine_that_does_not_answer_is_not_replaced(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{bare}/nobody.sock")
    said: list[str] = []
    with pytest.raises(EngineFailed):
        setup.ensure_engine(said.append)
    assert said == []


def test_a_socket_that_this_user_may_not_use_is_closed() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        Path(folder).chmod(0o755)  # anybody may look
        path = Path(folder) / "socket"
        assert not setup.closed(path)
        listener.bind(str(path))
        assert not setup.closed(path)
        path.chmod(0)
        with nobody():
            assert setup.closed(path)


@pytest.mark.usefixtures("bare")
def test_no_permission_for_the_engine_is_said_and_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        Path(folder).chmod(0o755)
        path = Path(folder) / "socket"
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        monkeypatch.setattr(setup, "SOCKET", path)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        said: list[str] = []
        with nobody(), pytest.raises(EngineFailed) as caught:
            setup.ensure_engine(said.append)
    assert "permission" in caught.value.needed
    assert "group docker" in caught.value.do
    assert said == []


@as_root
def test_a_daemon_outlives_us_holds_no_pipe_and_logs(tmp_path: Path) -> None:
    """Whoever reads our output sees its end while the daemon goes on: facts.md names the trap."""
    log = tmp_path / "daemon.log"
    program = (
        "import sys; from pathlib import Path; from orchestrator.hosts import setup\n"
        "command = ['sh', '-c', 'echo ready; exec sleep 60']\n"
        f"print(setup.start(command, Path({str(log)!r})).pid)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    pid = int(ran.stdout)
    try:
        assert os.getsid(pid) != os.getsid(0)
        assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
    finally:
        os.kill(pid, signal.SIGKILL)
    assert log.read_text() in {"", "ready\n"}


@as_root
def test_an_engine_is_waited_for_until_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_LOOK_S", 0.01)
    answers = iter([EngineFailed("an engine", "none", "wait"), EngineFailed("an engine", "none", "wait"), "engine"])

    def connect() -> Host:
        answer = next(answers)
        if isinstance(answer, EngineFailed):
            raise answer
        return cast("Host", answer)

    with setup.start(["sleep", "60"], tmp_path / "log") as daemon:
        assert cast("str", setup.answering(daemon, tmp_path / "log", connect)) == "engine"
        daemon.kill()


@as_root
def test_an_engine_that_ends_is_told_at_once_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_LOOK_S", 0.01)

    def connect() -> Host:
        raise EngineFailed("an engine", "none", "wait")

    log = tmp_path / "log"
    with (
        setup.start(["sh", "-c", "echo no iptables; exit 3"], log) as daemon,
        pytest.raises(EngineFailed) as caught,
    ):
        setup.answering(daemon, log, connect)
    assert "ended with 3" in caught.value.found
    assert "no iptables" in caught.value.found


def test_without_roots_rights_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "tool", lambda name: None if name == "sudo" else name)
    with nobody(), pytest.raises(EngineFailed) as caught:
        setup.start(["dockerd"], tmp_path / "log")
    assert "dockerd" in caught.value.do


def test_where_there_is_no_apt_get_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "tool", lambda _name: None)
    with pytest.raises(EngineFailed) as caught:
        debian.install(["docker.io"], needed="an engine", say=print)
    assert "docker.io" in caught.value.do


def test_a_failing_tool_shows_the_end_of_what_it_printed() -> None:
    with pytest.raises(EngineFailed) as caught:
        debian._run(["sh", "-c", "echo E: locked >&2; exit 100"], "a package")
    assert "ended with 100" in caught.value.found
    assert "E: locked" in caught.value.found
