"""The engine in memory keeps the contract, so that what is tested with it means something."""

import subprocess
from collections.abc import Sequence

import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Host, Output
from tests.engine_contract import SERVE, EngineContract
from tests.unit.hosts.broken import broken
from tests.unit.hosts.fake import FakeHost


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
    def engine(self) -> Host:
        """Give one of its own to each test."""
        made = FakeHost(answer, prints)
        made.images.load_root("root.tar", self.image)
        return made

    def end(self, engine: Host, container: str) -> None:
        """Let it end."""
        assert isinstance(engine, FakeHost)
        engine.end(container, 3)


def test_images_are_built_loaded_and_found_by_label() -> None:
    engine = FakeHost()
    assert list(engine.images.build(b"", "testbed/x:1", {}, {"testbed.context": "abc"})) == ["built testbed/x:1"]
    engine.images.load_root("root.tar", "testbed/debian:1")
    assert [tag for tag, _ in engine.images.list("testbed.context")] == ["testbed/x:1"]
    assert engine.images.find("testbed/debian:1") == {"id": "root.tar"}
    engine.images.pull("testbed/debian:1")
    with pytest.raises(EngineFailed, match="testbed/debian:2 from its registry"):
        engine.images.pull("testbed/debian:2")


@pytest.mark.parametrize("late", [False, True])
def test_an_engine_breaks_once_at_the_chosen_call(*, late: bool) -> None:
    whole = FakeHost()
    engine = broken(whole, 2, EngineFailed("an answer", "none", "try again"), late=late)
    engine.info()
    with pytest.raises(EngineFailed):
        engine.images.load_root("root.tar", "testbed/debian:1")
    assert ("testbed/debian:1" in whole.images.tags) is late
    engine.images.load_root("root.tar", "testbed/debian:1")
