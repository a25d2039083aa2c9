"""What a bed that is up is asked, on the fake engine: a command that fails answers nothing."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from orchestrator import beds
from orchestrator.collect.recorder import Recorder
from orchestrator.engine import ContainerSpec, Output
from orchestrator.engine.fake import FakeEngine
from orchestrator.errors import EngineFailed
from orchestrator.live import Live
from orchestrator.plan import make_plan
from orchestrator.rundir import RunDir
from orchestrator.services import Role

FAILED = Output(status=1, stdout="", stderr="find: '/var/spool/postfix/active': Permission denied")


@contextmanager
def _live(runs: Path, said: Output) -> Iterator[Live]:
    """Bring the built-in bed up on an engine whose commands all say the same."""
    engine = FakeEngine(answer=lambda _spec, _command: said)
    plan = make_plan(beds.bed("relay", domains=2), cpus=2)
    rundir = RunDir.create(runs, "live")
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(engine, rundir))
        containers = {
            n.name: engine.create(ContainerSpec(name=n.name, image="", command=(), labels={})) for n in plan.nodes
        }
        for name, container in containers.items():
            engine.start(container)
            recorder.record(name, container)
        yield Live(engine=engine, plan=plan, containers=containers, recorder=recorder, rundir=rundir)
        recorder.expect_end()
        for container in containers.values():
            engine.remove_container(container)


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.live.NEWS_S", 0.0)


def test_a_queue_command_that_fails_is_no_empty_queue(tmp_path: Path) -> None:
    with _live(tmp_path, FAILED) as live, pytest.raises(EngineFailed, match="Permission denied"):
        live._held(1)


def test_a_queue_that_is_listed_is_counted(tmp_path: Path) -> None:
    with _live(tmp_path, Output(status=0, stdout="A1\nB2\nA1\n", stderr="")) as live:
        assert live._held(9) == 2


def test_cpu_times_that_could_not_be_read_are_not_kept(tmp_path: Path) -> None:
    with _live(tmp_path, FAILED) as live:
        with pytest.raises(EngineFailed, match="Permission denied"), live.record_cpus("relay"):
            pass
        assert live.rundir.result("relay-cpus") is None


def test_an_answer_is_what_a_command_that_succeeds_prints(tmp_path: Path) -> None:
    with _live(tmp_path, Output(status=0, stdout="3.7.11\n", stderr="a warning")) as live:
        assert live.ask(live.plan.node(Role.RELAY), "postconf", "-h", "mail_version") == "3.7.11\n"
