"""Recording a bed: readings of the engine, logs, waiting for lines, deaths."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bed.model import parse_bed
from orchestrator.errors import EngineFailed, NodeDied
from orchestrator.hosts import ContainerGone, ContainerSpec, LogLine, Node
from orchestrator.hosts.ownership import Identity, Kind, deployed_beds
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import make_plan
from orchestrator.up.attach import BED_FILE, attach, saved_bed
from orchestrator.up.collect import recorder as recorder_module
from orchestrator.up.collect.logs import Watch
from orchestrator.up.collect.recorder import Recorder
from orchestrator.up.collect.stats import FIGURES, point, rates
from tests.unit.hosts.fake import FakeHost, FakeNode

V1: dict[str, Any] = json.loads("""
{"read":"2026-11-23T01:31:43.04446716Z","preread":"2026-11-23T01:31:42.039425212Z","pids_stats":{"current":1},
"blkio_stats":{"io_service_bytes_recursive":[],"io_serviced_recursive":[],"sectors_recursive":[]},
"num_procs":0,"storage_stats":{},"cpu_stats":{"cpu_usage":{"total_usage":330507866,"percpu_usage":[18186564,312321302],
"usage_in_kernelmode":10000000,"usage_in_usermode":310000000},"system_cpu_usage":6860700000000,"online_cpus":2,
"throttling_data":{"periods":0,"throttled_periods":0,"throttled_time":0}},
"memory_stats":{"usage":5877760,"max_usage":6176768,"stats":{"cache":5271552,"hierarchical_memory_limit":
9223372036854771712,"inactive_file":3727360,"rss":94208,"total_inactive_file":3727360,"total_rss":94208},
"limit":25276514304},"name":"/collect-cap-1","networks":{"eth0":{"rx_bytes":736,"rx_packets":8,"rx_errors":0,
"rx_dropped":0,"tx_bytes":0,"tx_packets":0,"tx_errors":0,"tx_dropped":0}}}
""")
"""Captured: Engine 20.10.24, cgroup v1 (what stays constant left out)."""

V2: dict[str, Any] = json.loads("""
{"read":"2026-11-23T01:31:43Z","preread":"2026-11-23T01:31:42.039425212Z","pids_stats":{"current":5,"limit":29000},
"blkio_stats":{"io_service_bytes_recursive":[{"major":259,"minor":0,"op":"read","value":4096},
{"major":259,"minor":0,"op":"write","value":8192},{"major":8,"minor":0,"op":"read","value":1}],
"io_serviced_recursive":null,"io_queue_recursive":null,"sectors_recursive":null},"num_procs":0,"storage_stats":{},
"cpu_stats":{"cpu_usage":{"total_usage":1500000000,"usage_in_kernelmode":500000000,"usage_in_usermode":1000000000},
"system_cpu_usage":6860700000000,"online_cpus":2,
"throttling_data":{"periods":10,"throttled_periods":2,"throttled_time":250000000}},
"memory_stats":{"usage":9000000,"stats":{"anon":3000000,"file":5000000,"inactive_file":4000000,"active_file":1000000},
"limit":268435456},"networks":{"eth0":{"rx_bytes":1,"rx_packets":2,"rx_errors":3,"rx_dropped":4,"tx_bytes":5,
"tx_packets":6,"tx_errors":7,"tx_dropped":8},"eth1":{"rx_bytes":10,"rx_packets":20,"rx_errors":30,"rx_dropped":40,
"tx_bytes":50,"tx_packets":60,"tx_errors":70,"tx_dropped":80}}}
""")
"""The shape of cgroup v2 (Engine API 1.41, ``GET /containers/{id}/stats``)."""


def test_a_reading_of_cgroup_v1() -> None:
    reading = point("relay", V1)
    assert reading is not None
    assert reading["t"] == pytest.approx(1795397503.04446716, abs=2e-6)
    assert (reading["node"], reading["cpu_s"], reading["cpu_user_s"]) == ("relay", 0.330507866, 0.31)
    assert (reading["cpu_system_s"], reading["throttled_s"], reading["pids"]) == (0.01, 0.0, 1)
    assert reading["memory_b"] == 5877760 - 3727360
    assert (reading["rx_b"], reading["rx_packets"]) == (736, 8)
    assert reading["read_b"] is reading["write_b"] is None, "an empty list is no measurement"


def test_a_reading_of_cgroup_v2() -> None:
    reading = point("relay", V2)
    assert reading is not None
    assert (reading["cpu_s"], reading["throttled_s"], reading["memory_b"]) == (1.5, 0.25, 5_000_000)
    assert (reading["memory_max_b"], reading["read_b"], reading["write_b"]) == (268435456, 4097, 8192)
    network = [reading[k] for k in ("rx_b", "rx_packets", "rx_errors", "rx_drops", "tx_b", "tx_drops")]
    assert network == [11, 22, 33, 44, 55, 88]


def test_a_container_that_does_not_run_gives_no_reading() -> None:
    assert point("relay", V1 | {"read": "0001-01-01T00:00:00Z"}) is None
    assert point("relay", {}) is None


@given(st.sets(st.sampled_from(sorted(V1))))
def test_what_the_engine_does_not_say_is_unknown_and_no_zero(left_out: set[str]) -> None:
    reading = point("relay", {k: v for k, v in V1.items() if k not in left_out} | {"read": V1["read"]})
    assert reading is not None
    assert (reading["cpu_s"] is None) == ("cpu_stats" in left_out)
    assert (reading["memory_b"] is None) == ("memory_stats" in left_out)
    assert (reading["tx_b"] is None) == ("networks" in left_out)


@given(st.integers(min_value=0, max_value=999_999_999))
def test_the_reading_time_has_any_number_of_digits(nanoseconds: int) -> None:
    stamp = f"2026-11-23T01:31:43.{nanoseconds:09d}".rstrip("0").rstrip(".") + "Z"
    reading = point("relay", V1 | {"read": stamp})
    assert reading is not None
    assert reading["t"] == pytest.approx(1795397503 + nanoseconds / 1e9, abs=2e-6)


class Script:
    """An engine whose containers do what the test says, when it says it."""

    def __init__(self) -> None:
        self.lines: SimpleQueue[LogLine | Exception | None] = SimpleQueue()
        self.readings: SimpleQueue[dict[str, Any] | Exception | None] = SimpleQueue()
        self.ended: SimpleQueue[int | Exception] = SimpleQueue()
        self._clock = 0.0

    def say(self, *texts: str) -> None:
        """Print lines."""
        for text in texts:
            self._clock += 1
            self.lines.put(LogLine(t=self._clock, text=text))

    def end(self, status: int | Exception) -> None:
        """End, after what was printed."""
        self.ended.put(status)
        self.lines.put(None)
        self.readings.put(None)

    def node(self, container: str) -> Node:
        """As ``Host.node``."""
        return cast("Node", FakeNode(cast("FakeHost", self), container))

    def logs(self, container: str, *, follow: bool) -> Iterator[LogLine]:
        """As ``Node.logs``."""
        assert (container, follow) == ("c1", True)
        yield from self._until_none(self.lines)

    def stats(self, container: str) -> Iterator[dict[str, Any]]:
        """As ``Node.stats``."""
        assert container == "c1"
        yield from self._until_none(self.readings)

    def wait(self, container: str) -> int:
        """As ``Node.wait``."""
        assert container == "c1"
        status = self.ended.get()
        if isinstance(status, Exception):
            raise status
        return status

    @staticmethod
    def _until_none(queue: SimpleQueue[Any]) -> Iterator[Any]:
        for item in iter(queue.get, None):
            if isinstance(item, Exception):
                raise item
            yield item


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "collect")


@contextmanager
def recording(rundir: RunDir) -> Iterator[tuple[Recorder, Script]]:
    before = set(threading.enumerate())
    script = Script()
    with Recorder(rundir) as recorder:
        recorder.record("relay", script.node("c1"))
        yield recorder, script
    assert set(threading.enumerate()) <= before, "a thread is left"


def line(recorder: Recorder, watch: Watch, seconds: float) -> LogLine:
    recorder.await_lines([watch], seconds)
    return watch.found.result()


def written(rundir: RunDir) -> list[str]:
    return [text for _, text in rundir.log("relay")]


def test_every_line_up_to_the_end_is_in_the_run_directory(rundir: RunDir) -> None:
    texts = [f"line {n} \N{SNOWMAN} \x1b[31m" for n in range(3000)]
    with recording(rundir) as (recorder, script):
        script.say(*texts)
        recorder.expect_end()
        script.end(0)
    assert written(rundir) == texts
    assert [t for t, _ in rundir.log("relay")] == [float(n) for n in range(1, 3001)]
    assert recorder.faults == []


def test_readings_are_a_series(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        script.readings.put(V1)
        script.readings.put(V2)
        script.readings.put(V1 | {"read": "0001-01-01T00:00:00Z"})  # what an ended container sends for ever
        recorder.expect_end()
        script.end(0)
    assert [p["cpu_s"] for p in rundir.series("stats")] == [0.330507866, 1.5]


def test_a_watch_returns_the_line_it_was_opened_for(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        watch = recorder.watch("relay", r"daemon started .* port (\d+)")
        script.say("starting", "daemon started on port 25", "daemon started on port 26")
        assert line(recorder, watch, 5).text == "daemon started on port 25"
        recorder.expect_end()
        script.end(0)


def test_a_watch_may_be_opened_before_the_container_starts(rundir: RunDir) -> None:
    script = Script()
    script.say("ready")
    with Recorder(rundir) as recorder:
        watch = recorder.watch("relay", "ready")
        recorder.record("relay", script.node("c1"))
        assert line(recorder, watch, 5).t == 1.0
        recorder.expect_end()
        script.end(0)


def test_a_watch_fails_at_once_when_the_container_ends(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        watch = recorder.watch("relay", "ready")
        script.say("fatal: no such file")
        script.end(134)
        began = time.monotonic()
        with pytest.raises(NodeDied, match="fatal: no such file") as caught:
            line(recorder, watch, 60)
        assert time.monotonic() - began < 5
        assert (caught.value.node, caught.value.exit_status) == ("relay", 134)
        with pytest.raises(NodeDied):
            line(recorder, recorder.watch("relay", "ready"), 60)


def test_a_watch_that_waits_in_vain_shows_the_end_of_the_log(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        watch, seen = recorder.watch("relay", "ready"), recorder.watch("relay", "still loading")
        script.say("still loading")
        line(recorder, seen, 5)
        with pytest.raises(EngineFailed, match="still loading") as caught:
            line(recorder, watch, 0.01)
        assert not isinstance(caught.value, NodeDied)
        recorder.expect_end()
        script.end(0)


def test_the_first_death_stops_the_run(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        recorder.check()
        script.say("panic")
        script.end(1)
        assert recorder.died.wait(5)
        with pytest.raises(NodeDied, match="panic"):
            recorder.check()


def test_an_end_that_was_expected_is_no_death(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        recorder.expect_end("relay")
        script.end(137)
    recorder.check()
    assert not recorder.died.is_set()


def test_a_wait_that_breaks_is_repeated_and_the_death_is_heard(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "PAUSES_S", (0.0, 0.0))
    with recording(rundir) as (recorder, script):
        watch = recorder.watch("relay", "never")
        script.ended.put(EngineFailed("the end of container c1", "Read timed out.", "see whether it runs"))
        script.ended.put(EngineFailed("the end of container c1", "Connection reset by peer", "see whether it runs"))
        script.say("panic")
        script.end(139)
        assert recorder.died.wait(5)
        with pytest.raises(NodeDied, match="status 139"):
            recorder.check()
        with pytest.raises(NodeDied, match="panic"):
            line(recorder, watch, 60)
    assert recorder.faults == [], "nothing is missing"


def test_a_container_that_was_removed_has_ended(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        script.say("last words")
        script.end(ContainerGone("c1"))
        assert recorder.died.wait(5)
        with pytest.raises(NodeDied, match="its container was removed") as caught:
            recorder.check()
        assert (caught.value.exit_status, caught.value.tail) == (None, ["last words"])


def test_whoever_waits_hears_of_it_when_an_end_cannot_be_learnt(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PAUSES_S", (0.0,))
    with recording(rundir) as (recorder, script):
        watch = recorder.watch("relay", "never")
        script.ended.put(EngineFailed("the end of container c1", "no engine", "see whether it runs"))
        script.end(EngineFailed("the end of container c1", "no engine", "see whether it runs"))
        assert recorder.died.wait(5)
        for wait in (recorder.check, lambda: line(recorder, watch, 60), lambda: recorder.await_end("relay", 60)):
            with pytest.raises(EngineFailed, match=r"exit status of node relay.*no engine"):
                wait()
    assert [fault.partition(":")[0] for fault in recorder.faults] == ["end of relay"]


@contextmanager
def bed(rundir: RunDir, *nodes: str) -> Iterator[tuple[Recorder, FakeHost, dict[str, str]]]:
    """Record some nodes, all of which print "up"; containers by node."""
    engine = FakeHost(prints=lambda _: ["up"])
    with Recorder(rundir) as recorder:
        containers = {}
        for node in nodes:
            containers[node] = engine.create(ContainerSpec(name=node, image="", command=(), labels={})).id
            engine.node(containers[node]).start()
            recorder.record(node, engine.node(containers[node]))
        yield recorder, engine, containers
        recorder.expect_end()
        for container in containers.values():
            engine.node(container).remove()


def test_of_several_nodes_that_are_waited_for_the_one_that_died_is_named_at_once(rundir: RunDir) -> None:
    with bed(rundir, "slow", "broken", "other") as (recorder, engine, containers):
        watches = [recorder.watch(node, "never") for node in containers]
        engine.end(containers["broken"], 7)
        assert recorder.died.wait(5)
        engine.end(containers["slow"], 1)
        assert recorder.await_end("slow", 5)
        began = time.monotonic()
        with pytest.raises(NodeDied, match="status 7") as caught:
            recorder.await_lines(watches, 60)
        assert time.monotonic() - began < 5
        assert caught.value.node == "broken", "of several, the first"
        assert recorder._log("other")._listeners == [], "nothing listens any more"


def test_a_node_that_is_not_waited_for_ends_the_wait_by_its_death(rundir: RunDir) -> None:
    with bed(rundir, "slow", "ready") as (recorder, engine, containers):
        watch = recorder.watch("slow", "never")
        engine.end(containers["ready"], 9)
        with pytest.raises(NodeDied, match="node ready"):
            recorder.await_lines([watch], 60)


def test_a_node_that_may_end_needs_no_line(rundir: RunDir) -> None:
    with bed(rundir, "mortal", "slow") as (recorder, engine, containers):
        recorder.expect_end("mortal")
        mortal, slow = recorder.watch("mortal", "never"), recorder.watch("slow", "never")
        engine.end(containers["mortal"], 1)
        recorder.await_lines([mortal], 60)
        with pytest.raises(EngineFailed, match=r"log of node slow .*none in 0.01 s"):
            recorder.await_lines([recorder.watch("mortal", "never"), slow], 0.01)


def test_ticks_of_announced_loads_are_a_series(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        recorder.keep_ticks("relay", "0000000a", "calibration")
        recorder.keep_ticks("relay", "0000000b", "relay")
        done = recorder.watch("relay", "done")
        script.say(*(f'{{"tick": {{"run": "0000000{run}", "t": {n}}}}}' for n, run in enumerate("abca")))
        script.say('{"tick": {"run":', '{"event": "listening"}', "done")
        line(recorder, done, 5)
        recorder.expect_end()
        script.end(0)
    assert [(p["phase"], p["t"]) for p in rundir.series("sink")] == [
        *(("calibration", 0), ("relay", 1), ("calibration", 3)),
    ]
    assert [fault.partition(":")[0] for fault in recorder.faults] == ["ticks of relay"]
    assert len(written(rundir)) == 7


def test_a_full_disk_ends_the_ticks_and_nothing_else(rundir: RunDir) -> None:
    (rundir.path / "series" / "sink.jsonl").symlink_to("/dev/full")
    with recording(rundir) as (recorder, script):
        recorder.keep_ticks("relay", "0000000a", "relay")
        done = recorder.watch("relay", "done")
        script.say(*['{"tick": {"run": "0000000a"}}'] * 3, "done")
        line(recorder, done, 5)
        recorder.expect_end()
        script.end(0)
    (fault,) = recorder.faults
    assert "No space left" in fault
    assert len(written(rundir)) == 4


@pytest.mark.parametrize("stream", ["lines", "readings", "ended"])
def test_a_stream_that_breaks_is_reported_and_ends_nothing_else(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setattr(recorder_module, "PAUSES_S", ())
    with recording(rundir) as (recorder, script):
        watch = recorder.watch("relay", "before")
        script.say("before")
        line(recorder, watch, 5)
        if stream == "ended":
            script.end(ConnectionError("engine went away"))
        else:
            getattr(script, stream).put(ConnectionError("engine went away"))
            recorder.expect_end()
            script.end(0)
    name = {"lines": "logs", "readings": "stats", "ended": "end"}[stream]
    assert recorder.faults == [f"{name} of relay: ConnectionError: engine went away"]
    assert [(f["stream"], f["error"]) for f in rundir.series("recorder")] == [
        (f"{name} of relay", "ConnectionError: engine went away")
    ]
    assert written(rundir) == ["before"]


def test_whoever_waits_learns_that_the_log_is_broken(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        watch = recorder.watch("relay", "ready")
        script.lines.put(ConnectionError("engine went away"))
        with pytest.raises(EngineFailed, match="engine went away"):
            line(recorder, watch, 60)
        recorder.expect_end()
        script.end(0)


def test_stopping_is_bounded_while_a_container_runs_on(rundir: RunDir) -> None:
    script = Script()
    recorder = Recorder(rundir)
    recorder.record("relay", script.node("c1"))
    seen = recorder.watch("relay", "still here")
    waiting = recorder.watch("relay", "never")
    script.say("still here")
    line(recorder, seen, 5)
    recorder.close(timeout=0.01)
    assert written(rundir) == ["still here"], "the file is whole"
    assert {fault.partition(":")[0] for fault in recorder.faults} == {
        "logs of relay", "stats of relay", "end of relay",
    }  # fmt: skip
    with pytest.raises(EngineFailed, match="stopped"):
        line(recorder, waiting, 1)
    script.say("too late")
    script.end(0)
    recorder.close()
    assert written(rundir) == ["still here"]


def test_a_full_disk_is_reported_and_readiness_still_works(rundir: RunDir) -> None:
    (rundir.path / "logs" / "relay.log.gz").symlink_to("/dev/full")
    with recording(rundir) as (recorder, script):
        watch = recorder.watch("relay", "last")
        script.say(*(f"{n} {n * 7919:x}" * 50 for n in range(2000)), "last")
        assert line(recorder, watch, 5).text == "last"
        recorder.expect_end()
        script.end(0)
    assert any("No space left" in fault for fault in recorder.faults)


def test_what_was_printed_is_on_the_disk_before_the_recorder_is_closed(rundir: RunDir) -> None:
    with recording(rundir) as (recorder, script):
        watch = recorder.watch("relay", "evidence")
        script.say("evidence")
        line(recorder, watch, 5)
        recorder._log("relay").flush()
        assert written(rundir) == ["evidence"]
        recorder.expect_end()
        script.end(0)


@settings(max_examples=20)  # each starts a recorder
@given(texts=st.lists(st.text(alphabet=st.characters(exclude_characters="\n", exclude_categories=["Cs"]))))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    rundir = RunDir.create(tmp_path_factory.mktemp("any"), "collect")
    with recording(rundir) as (recorder, script):
        script.say(*texts)
        recorder.expect_end()
        script.end(0)
    assert written(rundir) == texts


def test_two_readings_of_one_moment_are_no_rate() -> None:
    class Still(FakeHost):
        def stats(self, container: str) -> Iterator[dict[str, Any]]:
            assert container
            return iter([V2, V2])

    host, identity = Still(), Identity(id="0000000a", bed="bed", kind=Kind.UP, nodes=("relay",), private=False)
    plan = make_plan(parse_bed({"name": "bed", "nodes": {"relay": {"service": "postfix"}}}, "bed"), cpus=1)
    files = {BED_FILE: saved_bed(plan, 1)}
    labels = identity.labels(node="relay")
    host.create(ContainerSpec(name="x", image="", command=(), labels=labels, files=files)).start()
    bed = attach(host, deployed_beds(host)[0])
    assert rates(bed) == {"relay": {"state": "running", **dict.fromkeys(FIGURES)}}
