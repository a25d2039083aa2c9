"""The recorder on a real engine: nothing that a container printed is missing, and stopping is clean."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.collect.recorder import Recorder
from orchestrator.engine import ContainerSpec, Engine, docker
from orchestrator.errors import NodeDied
from orchestrator.rundir import RunDir

pytestmark = pytest.mark.docker
IMAGE = "testbed/helper:bookworm"


@pytest.fixture
def engine() -> Engine:
    return docker.connect()


@contextmanager
def container(engine: Engine, script: str) -> Iterator[str]:
    name = f"testbed-recorder-{secrets.token_hex(3)}"
    made = engine.create(
        ContainerSpec(name=name, image=IMAGE, command=("/bin/sh", "-c", script), labels={"testbed.test": "recorder"})
    )
    try:
        yield made
    finally:
        engine.remove_container(made)


def test_a_flood_of_lines_is_whole_when_the_container_is_removed(engine: Engine, tmp_path: Path) -> None:
    rundir = RunDir.create(tmp_path, "recorder")
    before = set(threading.enumerate())
    with (
        Recorder(engine, rundir) as recorder,
        container(engine, "seq 1 50000; echo done; exec sleep 600") as made,
    ):
        watch = recorder.watch("flood", "^done$")
        engine.start(made)
        recorder.record("flood", made)
        watch.wait(60)
        recorder.expect_end()
    assert [text for _, text in rundir.log("flood")] == [*(str(n) for n in range(1, 50001)), "done"]
    assert recorder.faults == []
    recorder.check()
    assert {t.name for t in set(threading.enumerate()) - before} == set()
    readings = rundir.series("stats")
    assert readings
    assert readings[0]["cpu_s"] > 0
    assert readings[0]["memory_b"] > 0


def test_lines_printed_just_before_the_end_are_whole(engine: Engine, tmp_path: Path) -> None:
    rundir = RunDir.create(tmp_path, "recorder")
    with Recorder(engine, rundir) as recorder, container(engine, "echo up; seq 1 20000; exit 3") as made:
        never = recorder.watch("brief", "never")
        engine.start(made)
        recorder.record("brief", made)
        with pytest.raises(NodeDied, match="status 3") as caught:
            never.wait(60)
        assert caught.value.tail[-1] == "20000"
        with pytest.raises(NodeDied):
            recorder.check()
    assert len(list(rundir.log("brief"))) == 20001
    assert recorder.faults == []
