"""The recorder on a real engine: nothing that a container printed is missing, and stopping is clean."""

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from orchestrator.errors import EngineFailed, NodeDied, TimedOut
from orchestrator.hosts import ContainerSpec, Host, docker
from orchestrator.hosts.docker import DockerHost
from orchestrator.measurements.rundir import RunDir
from orchestrator.up.collect.recorder import Recorder

pytestmark = [pytest.mark.docker, pytest.mark.alone]
IMAGE = "testbed/helper:bookworm"


@pytest.fixture
def engine() -> Host:
    return docker.connect()


@contextmanager
def container(engine: Host, script: str) -> Iterator[str]:
    name = f"testbed-recorder-{secrets.token_hex(3)}"
    made = engine.create(
        ContainerSpec(name=name, image=IMAGE, command=("/bin/sh", "-c", script), labels={"testbed.test": "recorder"})
    ).id
    try:
        yield made
    finally:
        engine.node(made).remove()


def test_a_flood_of_lines_is_whole_when_the_container_is_removed(engine: Host, tmp_path: Path) -> None:
    rundir = RunDir.create(tmp_path, "recorder")
    before = set(threading.enumerate())
    with (
        Recorder(rundir) as recorder,
        container(engine, "seq 1 50000; echo done; exec sleep 600") as made,
    ):
        watch = recorder.watch("flood", "^done$")
        engine.node(made).start()
        recorder.record("flood", engine.node(made))
        recorder.await_lines([watch], 60)
        recorder.expect_end()
    assert [text for _, text in rundir.log("flood")] == [*(str(n) for n in range(1, 50001)), "done"]
    assert recorder.faults == []
    recorder.check()
    assert {t.name for t in set(threading.enumerate()) - before} == set()
    readings = rundir.series("stats")
    assert readings
    assert readings[0]["cpu_s"] > 0
    assert readings[0]["memory_b"] > 0


def test_lines_printed_just_before_the_end_are_whole(engine: Host, tmp_path: Path) -> None:
    rundir = RunDir.create(tmp_path, "recorder")
    with Recorder(rundir) as recorder, container(engine, "echo up; seq 1 20000; exit 3") as made:
        never = recorder.watch("brief", "never")
        engine.node(made).start()
        recorder.record("brief", engine.node(made))
        with pytest.raises(NodeDied, match="status 3") as caught:
            recorder.await_lines([never], 60)
        assert caught.value.tail[-1] == "20000"
        with pytest.raises(NodeDied):
            recorder.check()
    assert len(list(rundir.log("brief"))) == 20001
    assert recorder.faults == []


class Between:
    """A socket between us and the engine; its connections can be cut, as a restart of the engine cuts them."""

    def __init__(self, path: Path, engine: str) -> None:
        self._engine = engine
        self._open: list[socket.socket] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, far = self._listening.accept()[0], socket.socket(socket.AF_UNIX)
                far.connect(self._engine)
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):  # cut
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Break off every connection there is; new ones work."""
        for end in self._open.copy():
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no connection any more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()


def test_a_death_is_heard_though_the_engine_broke_off_every_answer(
    engine: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        pytest.skip(f"the engine is reached over {host}, and this test stands between on a unix socket")
    between = Between(tmp_path / "engine.sock", host.removeprefix("unix://"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    rundir = RunDir.create(tmp_path, "recorder")
    with Recorder(rundir) as recorder, container(engine, "echo up; exec sleep 600") as made:
        up, never = recorder.watch("cut", "^up$"), recorder.watch("cut", "never")
        engine.node(made).start()
        recorder.record("cut", docker.connect().node(made))  # through the socket between
        recorder.await_lines([up], 60)
        between.cut()
        with pytest.raises(EngineFailed) as lost:
            recorder.await_lines([never], 60)
        assert not isinstance(lost.value, TimedOut), "its log is lost"
        assert recorder.await_end("cut", 0) is None
        recorder.check()
        cast("DockerHost", engine)._clients.here.kill(made)
        assert recorder.died.wait(30)
        with pytest.raises(NodeDied, match="status 137"):
            recorder.check()
    between.close()
    assert "end of cut" not in {fault.partition(":")[0] for fault in recorder.faults}


def test_a_container_that_somebody_removed_has_ended(engine: Host, tmp_path: Path) -> None:
    rundir = RunDir.create(tmp_path, "recorder")
    with Recorder(rundir) as recorder, container(engine, "exec sleep 600") as made:
        engine.node(made).start()
        engine.node(made).remove()
        recorder.record("gone", engine.node(made))
        assert recorder.died.wait(30)
        with pytest.raises(NodeDied, match="its container was removed"):
            recorder.check()
