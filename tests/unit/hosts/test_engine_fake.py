"""The engine in memory keeps the contract, so that what is tested with it means something."""

import subprocess
from collections.abc import Sequence

import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Engine, Output
from orchestrator.hosts.fake import FakeEngine, broken
from tests.engine_contract import SERVE, EngineContract


def answer(_spec: ContainerSpec, command: tuple[str, ...]) -> Output:
    """Run the command here; one that sleeps is late."""
    if command[0] == "sleep":
        raise TimeoutError
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Output(status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def prints(spec: ContainerSpec) -> Sequence[str]:
    return ["one", "two"] if SERVE in spec.command else []


class TestFakeEngine(EngineContract):
    """The contract, in memory."""

    @pytest.fixture
    def engine(self) -> Engine:
        """Give one of its own to each test."""
        return FakeEngine(answer, prints)

    def end(self, engine: Engine, container: str) -> None:
        """Let it end."""
        assert isinstance(engine, FakeEngine)
        engine.end(container, 3)


def test_images_are_built_loaded_and_found_by_label() -> None:
    engine = FakeEngine()
    assert list(engine.build(b"", "testbed/x:1", {}, {"testbed.context": "abc"})) == ["built testbed/x:1"]
    engine.load_root("root.tar", "testbed/debian:1")
    assert [tag for tag, _ in engine.images("testbed.context")] == ["testbed/x:1"]
    assert engine.image("testbed/debian:1") == {"id": "root.tar"}
    engine.pull("testbed/debian:1")
    with pytest.raises(EngineFailed, match="testbed/debian:2 from its registry"):
        engine.pull("testbed/debian:2")


@pytest.mark.parametrize("late", [False, True])
def test_an_engine_breaks_once_at_the_chosen_call(*, late: bool) -> None:
    whole = FakeEngine()
    engine = broken(whole, 2, EngineFailed("an answer", "none", "try again"), late=late)
    engine.info()
    with pytest.raises(EngineFailed):
        engine.load_root("root.tar", "testbed/debian:1")
    assert ("testbed/debian:1" in whole.tags) is late
    engine.load_root("root.tar", "testbed/debian:1")
