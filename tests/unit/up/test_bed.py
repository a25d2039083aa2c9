"""The handle to a bed, on the fake engine: what a load leaves behind, and what it hears."""

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import interrupts
from orchestrator.agents.contract import LoadOrder
from orchestrator.bed import builtin
from orchestrator.errors import EngineFailed, InvalidInput, NodeDied, TimedOut
from orchestrator.hosts import ContainerSpec, LogLine, Output, Overdue
from orchestrator.interrupts import Interrupted
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import make_plan
from orchestrator.services import Role
from orchestrator.up import bed as handle
from orchestrator.up.bed import RecordedBed
from orchestrator.up.collect import recorder
from orchestrator.up.collect.recorder import Recorder
from orchestrator.up.node import RunningNode
from orchestrator.up.relay import Relay
from orchestrator.up.sink import Sink
from tests.unit import factory
from tests.unit.hosts.fake import FakeHost

REPORT = {
    "run": "00000000", "started": 1.0, "ended": 2.0, "offered": 1, "accepted": 1, "failed": {}, "unresolved": 0,
    "connections": 1, "late": 0, "cpu_s": 0.0, "stalled_s": 0.0, "response": factory.histogram([0.1]),
    "service": factory.histogram([0.1]), "connect": factory.histogram([0.1]), "accepted_set": factory.bitmap([0]),
    "unresolved_set": factory.bitmap([]),
}  # fmt: skip
ARRIVED = {
    "run": "00000000", "delivered": 1, "duplicated": 0, "corrupted": 0, "misrouted": 0, "foreign": 0, "bytes": 1,
    "connections": 1, "domains": 1, "first": 1.5, "last": 1.5, "cpu_s": 0.0, "memory_b": 1,
    "transit": factory.histogram([0.1]), "age": factory.histogram([0.1]), "delivered_set": factory.bitmap([0]),
}  # fmt: skip


FAILED = Output(status=1, stdout="", stderr="find: '/var/spool/postfix/active': Permission denied")


def answer(_: ContainerSpec, command: tuple[str, ...]) -> Output:
    """Answer as the agents do; a relay's queue is empty."""
    told: dict[str, object] = {}
    if "orchestrator.agents.load" in command:
        told = {"report": REPORT}
    elif "orchestrator.agents.control" in command:
        told = ARRIVED
    return Output(status=0, stdout=json.dumps(told) + "\n" if told else "", stderr="")


@contextmanager
def up(tmp_path: Path, output: Output | None = None) -> Iterator[tuple[RecordedBed, FakeHost]]:
    """Bring the built-in bed up with two domains; ``output``: the answer of every command, instead of the agents'."""
    engine = FakeHost(answer if output is None else lambda _spec, _command: output)
    plan = make_plan(builtin.bed("relay").model_copy(update={"domains": 2}), cpus=2)
    rundir = RunDir.create(tmp_path, "live")
    with Recorder(rundir) as recorder:
        nodes = {}
        for node in plan.nodes:
            container = engine.create(ContainerSpec(name=node.name, image="", command=(), labels={}))
            container.start()
            recorder.record(node.name, container)
            nodes[node.name] = RunningNode(plan=node, container=container, recorder=recorder)
        yield RecordedBed(host=engine, plan=plan, nodes=nodes, recorder=recorder, rundir=rundir), engine
        recorder.expect_end()
        for running in nodes.values():
            running.container.remove()


def test_a_paused_node_continues_whatever_ends_its_block(tmp_path: Path) -> None:
    with up(tmp_path) as (bed, engine):
        relay = bed.nodes["relay"]

        def fail() -> None:
            with relay.pause():
                assert engine.found("relay").state == "paused"
                raise KeyError("relay")

        with pytest.raises(KeyError):
            fail()
        assert engine.found("relay").state == "running"
        with pytest.raises(Interrupted), relay.pause():
            raise Interrupted(signal.SIGINT)
        assert engine.found("relay").state == "running"


def test_a_signal_while_a_node_is_being_paused_leaves_it_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with up(tmp_path) as (bed, engine):
        pause = engine.pause

        def paused(container: str) -> None:
            pause(container)
            interrupts._interrupt(signal.SIGTERM, None)

        monkeypatch.setattr(engine, "pause", paused)
        with pytest.raises(Interrupted), bed.nodes["relay"].pause():
            pytest.fail("the block runs in spite of the signal")
        assert engine.found("relay").state == "running"


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the news of a death after a failure."""
    monkeypatch.setattr("orchestrator.up.node.NEWS_S", 0.0)


def listeners(bed: RecordedBed) -> int:
    """Count the listeners of all logs."""
    return sum(len(log._listeners) for log in bed.recorder._logs.values())


def test_fifty_loads_leave_no_thread_and_one_listener_for_all(tmp_path: Path) -> None:
    with up(tmp_path) as (bed, _):
        threads = set(threading.enumerate())
        for number in range(50):
            bed.send(f"load-{number}", LoadOrder(messages=1)).drain(5)
        assert {t.name for t in set(threading.enumerate()) - threads} == set()
        assert listeners(bed) == 1
    assert len(bed.phases) == 100


def test_a_load_whose_name_is_no_part_of_a_file_name_is_not_sent(tmp_path: Path) -> None:
    with up(tmp_path) as (bed, engine):
        engine.answer = lambda _spec, command: pytest.fail(f"{command} was run")
        with pytest.raises(InvalidInput, match="a name of 1 to 200 printable characters"):
            bed.send("../load", LoadOrder(messages=1))


def test_a_line_that_was_printed_already_leaves_no_listener(tmp_path: Path) -> None:
    with up(tmp_path) as (bed, engine):
        engine.prints = lambda _: ["resolver priming query complete"]
        node = bed.role(Role.DNS)
        for _ in range(3):
            assert node.wait_for_log("priming", 5)
        assert node.wait_for_log("never", 0.01) is None
        assert listeners(bed) == 0


@pytest.mark.parametrize("seconds", [5, 0.01])
@pytest.mark.parametrize("lost", ["breaks", "ends while the container runs", "is recorded no more"])
def test_a_log_that_is_lost_is_not_read_as_a_missing_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, seconds: float
) -> None:
    def logs(engine: FakeHost, container: str, *, follow: bool) -> Iterator[LogLine]:
        yield from ()
        if follow and lost == "breaks":
            raise EngineFailed("the log", "the engine did not answer", "see whether it runs")
        if follow and lost == "is recorded no more":
            engine.node(container).wait()

    monkeypatch.setattr(FakeHost, "logs", logs)
    monkeypatch.setattr(recorder, "GRACE_S", 0.1)
    with up(tmp_path) as (bed, _):
        if lost == "is recorded no more":
            bed.recorder.close(timeout=0)
        with pytest.raises(EngineFailed, match=r"the engine did not answer|its stream ended|recording was stopped"):
            bed.role(Role.DNS).wait_for_log("never", seconds)


def test_a_wait_for_a_line_ends_when_another_node_dies(tmp_path: Path) -> None:
    with up(tmp_path) as (bed, engine):
        dns, *_, other = bed.nodes.values()
        engine.end(other.container.id, 3)
        with pytest.raises(NodeDied, match=f"node {other.name}"):
            dns.wait_for_log("never", 5)


def test_a_probe_names_the_node_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with up(tmp_path) as (bed, engine):

        def die(spec: ContainerSpec, command: tuple[str, ...]) -> Output:
            if "orchestrator.agents.probe" in command:
                engine.end(bed.nodes["relay"].container.id, 75)
            return answer(spec, command)

        engine.answer = die
        monkeypatch.setattr(handle, "FIRST_MAIL_S", 4.0)
        began = time.monotonic()
        with pytest.raises(NodeDied, match=r"node relay running.*status 75"):
            bed.deliver_first(["d0.test"])
        assert time.monotonic() - began < 3


@pytest.mark.usefixtures("no_grace")
def test_messages_name_the_command_as_it_was_given(tmp_path: Path) -> None:
    def late(spec: ContainerSpec, command: tuple[str, ...]) -> Output:
        assert (spec.name, command) == ("relay", ("postqueue", "-p"))
        raise TimeoutError

    with up(tmp_path) as (bed, engine):
        relay = bed.relay.node
        engine.answer = late
        with pytest.raises(TimedOut, match=r"needed postqueue -p to end within 3 s"):
            relay.exec("postqueue", "-p", timeout=3)
        engine.answer = lambda *_: FAILED
        with pytest.raises(EngineFailed, match=r"needed postqueue -p to succeed"):
            list(relay.lines(("postqueue", "-p"), 3))


def test_every_line_of_a_command_that_ended_in_time_is_read_however_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with up(tmp_path, Output(status=0, stdout="first\n\nlast\n", stderr="")) as (bed, _):
        lines = bed.relay.node.lines(("true",), 60)
        read = [next(lines)]
        for thread in threading.enumerate():
            if thread.name == "exec in relay":
                thread.join()
        later = time.monotonic() + 61
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert [*read, *lines] == ["first", "", "last"]


@pytest.mark.usefixtures("no_grace")
def test_a_command_that_goes_on_for_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(_: FakeHost, _container: str, command: Sequence[str], *, timeout: float, **__: object) -> Iterator[str]:
        yield "first"
        raise Overdue(command, timeout)

    monkeypatch.setattr(FakeHost, "exec_lines", lines)
    with up(tmp_path) as (bed, _):
        reading = bed.relay.node.lines(("yes",), 0.05)
        assert next(reading) == "first"
        with pytest.raises(TimedOut, match=r"yes to end within 0.05 s"):
            next(reading)
        assert "exec in relay" not in [thread.name for thread in threading.enumerate()]


def test_a_silent_command_ends_at_once_when_a_node_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def lines(*_: object, **__: object) -> Iterator[str]:
        yield "first"
        ended.wait()

    monkeypatch.setattr(FakeHost, "exec_lines", lines)
    with up(tmp_path) as (bed, engine):
        reading = bed.relay.node.lines(("cat",), 3600)
        assert next(reading) == "first"
        engine.end(bed.nodes["load"].container.id, 3)
        with pytest.raises(NodeDied, match="node load"):
            next(reading)
        assert bed.recorder._on_death == [], "nothing listens any more"
    ended.set()


def test_a_fact_that_nothing_announces_is_looked_for_until_it_holds_the_time_is_over_or_a_node_dies(
    tmp_path: Path,
) -> None:
    with up(tmp_path) as (bed, engine):
        looks = iter([False, False, True])
        assert bed.until(lambda: next(looks), 60, 0.001)
        assert next(looks, None) is None
        assert not bed.until(lambda: False, 0.01, 0.001)

        def die() -> bool:
            engine.end(bed.nodes["relay"].container.id, 9)
            return False

        with pytest.raises(NodeDied, match="node relay"):
            bed.until(die, 60, 60)


def test_a_queue_that_is_not_empty_in_time_is_kept_with_its_length(tmp_path: Path) -> None:
    with up(tmp_path) as (bed, engine):
        load = bed.send("load", LoadOrder(messages=1))
        queue = Output(status=0, stdout="A1\nB2\n", stderr="")
        engine.answer = lambda spec, command: queue if spec.name == "relay" else answer(spec, command)
        load.drain(0)
        assert (bed.rundir.result("load-queue") or {})["left"] == 2


def test_a_queue_that_neither_relay_nor_sink_can_count_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with up(tmp_path) as (bed, _):
        load = bed.send("load", LoadOrder(messages=1))
        monkeypatch.setattr(Sink, "counts", False)
        monkeypatch.setattr(Relay, "queue_length", lambda _: None)
        load.drain(0)
        assert (bed.rundir.result("load-queue") or {})["left"] is None
        drained = bed.measurements().drained("load")
        assert drained is not None
        assert drained.left is None


@pytest.mark.usefixtures("no_grace")
def test_a_queue_command_that_fails_is_no_empty_queue(tmp_path: Path) -> None:
    with up(tmp_path, FAILED) as (bed, _), pytest.raises(EngineFailed, match="Permission denied"):
        bed.relay.queue_length()


def test_a_queue_that_is_listed_is_counted(tmp_path: Path) -> None:
    with up(tmp_path, Output(status=0, stdout="A1\nB2\nA1\n", stderr="")) as (bed, _):
        assert bed.relay.queue_length() == 2


@pytest.mark.usefixtures("no_grace")
def test_cpu_times_that_could_not_be_read_are_not_kept(tmp_path: Path) -> None:
    with up(tmp_path, FAILED) as (bed, _):
        with pytest.raises(EngineFailed, match="Permission denied"), bed.record_cpus("relay"):
            pass
        assert bed.rundir.result("relay-cpus") is None


def test_an_answer_is_what_a_command_that_succeeds_prints(tmp_path: Path) -> None:
    with up(tmp_path, Output(status=0, stdout="3.7.11\n", stderr="a warning")) as (bed, _):
        assert bed.relay.node.ask("postconf", "-h", "mail_version") == "3.7.11\n"
