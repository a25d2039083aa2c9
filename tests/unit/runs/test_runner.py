"""A run from start to end on the fake engine: its steps, and what is left when each of them breaks."""

import errno
import io
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from orchestrator.bed.model import Bed, Strict, parse_bed
from orchestrator.cli.shell import end_with
from orchestrator.errors import EngineFailed, ExitCode, HostCannot, NodeDied, Problem
from orchestrator.hosts import ContainerSpec, Output, cleaning, images
from orchestrator.interrupts import Interrupted
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome, Verdict
from orchestrator.report import html, terminal
from orchestrator.report.summary import summarize_run
from orchestrator.runs import runner, sweep
from orchestrator.scenarios import Scenario
from orchestrator.services.bind import Bind
from orchestrator.up import bringup, node
from orchestrator.up.bed import RecordedBed
from tests.unit import disk
from tests.unit.hosts.fake import FakeHost

READING = "nofile\t20000\ngc_thresh3\t1024\nneighbours\tentries 00000002\nmeminfo\tMemAvailable: 8000000 kB\n"


class Params(Strict):
    """None."""


class Asked(Scenario[Params]):
    """A question that one name server answers."""

    name, question = "asked", "Does it answer?"
    params: type[Strict] = Params

    def __init__(self, drive: Callable[[RecordedBed], None] = lambda _: None) -> None:
        self._drive = drive

    def bed(self, params: Params) -> Bed:  # noqa: ARG002, D102
        return parse_bed({"name": "one", "domains": 2, "nodes": {"dns": {"service": "bind"}}}, "bed")

    def drive(self, bed: RecordedBed, params: Params) -> None:  # noqa: ARG002, D102
        self._drive(bed)

    def judge(self, measured: Measurements, params: Params) -> Verdict:  # noqa: ARG002, D102
        there = measured.rundir.logs() == ["dns"]
        return Verdict(outcome=Outcome.CONFIRMED if there else Outcome.INCONCLUSIVE, claim="It answers.", reason="")


class Steps:
    """Remembers the steps."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.said: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:  # noqa: D102
        yield
        self.taken.append({"name": name, "seconds": 0.0})

    def say(self, text: str) -> None:  # noqa: D102
        self.said.append(text)


class Breaking(FakeHost):
    """Fails at the n-th call of a verb that makes something."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__(answer=_answer, prints=lambda _: ["all zones loaded", "23-Nov running"])
        self.images.tags["testbed/debian:bookworm"] = {"id": "base"}
        for image, release in images.needed_by(Asked().bed(Params())):
            self.images.tags[images.tag(image, release)] = {images.LABEL: images.digest(image), "id": image}
        self.calls = itertools.count(1)
        self.at = at

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in {"info", "create_network", "create", "start", "run", "logs", "exec"}:
            return self._counted(name, found)
        return found

    def _counted(self, name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(self.calls) == self.at:
                raise EngineFailed(f"{name} to work", "the call that the test breaks", "nothing")
            return verb(*args, **kwargs)

        return call


def _answer(spec: ContainerSpec, command: tuple[str, ...]) -> Output:  # noqa: ARG001
    return Output(status=0, stdout=READING, stderr="")


def _run(host: FakeHost, runs: Path, asked: Asked | None = None, steps: Steps | None = None) -> runner.Finished:
    return runner.run(
        asked or Asked(),
        Params(),
        connect=lambda: host,
        runs=runs,
        parent=None,
        command=["testbed", "run", "asked"],
        steps=steps or Steps(),
    )


def _facts(runs: Path) -> dict[str, Any]:
    (path,) = runs.glob("*/run.json")
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def test_a_run_keeps_everything_and_leaves_nothing(tmp_path: Path) -> None:
    host, steps = Breaking(), Steps()
    finished = _run(host, tmp_path, steps=steps)
    assert finished.exit_code is ExitCode.OK
    assert host.find({}) == []
    facts = _facts(tmp_path)
    assert facts["status"] == "finished"
    assert facts["verdict"]["outcome"] == "CONFIRMED"
    assert facts["plan"]["nodes"][0]["name"] == "dns"
    assert [step["name"] for step in facts["steps"]] == [step["name"] for step in steps.taken][: len(facts["steps"])]
    assert (finished.rundir.path / "report.html").is_file()
    assert (finished.rundir.path / "config/dns/etc/bind/testbed/named.conf").is_file()


def test_a_version_that_a_daemon_does_not_tell_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "NEWS_S", 0.1)
    host = Breaking()
    answer = host.answer
    failed = Output(status=127, stdout="", stderr="named: not found")
    host.answer = lambda spec, command: failed if command[-2:] == ("named", "-v") else answer(spec, command)
    with pytest.raises(EngineFailed, match="named: not found"):
        _run(host, tmp_path)


@pytest.mark.parametrize("ends", [False, True], ids=["runs", "ends"])
def test_a_version_is_left_out_only_of_a_node_that_has_ended_and_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    class MayEnd(Asked):
        def bed(self, params: Params) -> Bed:  # noqa: ARG002
            return parse_bed({"name": "one", "nodes": {"dns": {"service": "bind", "may_end": True}}}, "bed")

    def fail(spec: ContainerSpec, command: tuple[str, ...]) -> Output:
        if command[-2:] != ("named", "-v"):
            return answer(spec, command)
        if ends:
            host.end(spec.name, 1)
        return Output(status=127, stdout="", stderr="named: not found")

    monkeypatch.setattr(node, "NEWS_S", 0.1)
    host = Breaking()
    answer, host.answer = host.answer, fail
    with nullcontext() if ends else pytest.raises(EngineFailed, match="named: not found"):
        _run(host, tmp_path, MayEnd())
    assert _facts(tmp_path)["environment"].get("daemons") == ({} if ends else None)


def _calls() -> int:
    host = Breaking()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "html", type("NoReport", (), {"write": staticmethod(lambda _: None)}))
        patch.setattr(Bind, "verify", lambda *_: None)
        with tempfile.TemporaryDirectory() as scratch:
            _run(host, Path(scratch))
    return next(host.calls) - 1


@pytest.mark.parametrize("at", range(1, _calls() + 1))
def test_whichever_call_breaks_nothing_is_left_and_the_first_error_is_the_one_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(node, "NEWS_S", 0.1)  # no node has ended: there is no news to wait for
    host = Breaking(at)
    with pytest.raises(EngineFailed, match="the call that the test breaks") as caught:
        _run(host, tmp_path)
    left = host.find({})
    if left:  # what broke was the removal itself: the control network stands, so that `clean` finds the rest
        assert [found.name.rpartition("-")[2] for found in left] == ["control"]
        cleaning.clean(host, everything=True, say=print)
    assert host.find({}) == []
    assert _facts(tmp_path)["status"] == "failed"
    assert _facts(tmp_path)["error"]["found"] == caught.value.found


def test_an_interrupt_takes_the_bed_down_and_is_recorded(tmp_path: Path) -> None:
    host = Breaking()

    def interrupt(_: RecordedBed) -> None:
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        _run(host, tmp_path, Asked(interrupt))
    assert host.find({}) == []
    assert _facts(tmp_path)["status"] == "interrupted"


def test_a_removal_that_fails_does_not_hide_why_the_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Breaking()

    def refuse(_: str) -> None:
        raise EngineFailed("the network removed", "it is in use", "wait")

    def interrupt(_: RecordedBed) -> None:
        monkeypatch.setattr(host, "remove_network", refuse)
        raise Interrupted(15)

    with pytest.raises(Interrupted) as caught:
        _run(host, tmp_path, Asked(interrupt))
    assert "it is in use" in caught.value.__notes__[0]
    assert _facts(tmp_path)["status"] == "interrupted"


def test_a_node_that_dies_ends_the_run_with_the_end_of_its_log(tmp_path: Path) -> None:
    host = Breaking()

    def kill(running: RecordedBed) -> None:
        host.end(running.nodes["dns"].container.id, 139)
        assert running.recorder.died.wait(5)
        running.check()

    finished = _run(host, tmp_path, Asked(kill))
    assert isinstance(finished.broken, NodeDied)
    assert finished.broken.tail[-1] == "23-Nov running"
    assert finished.verdict.outcome is Outcome.INCONCLUSIVE
    assert finished.exit_code is ExitCode.INCONCLUSIVE
    facts = finished.rundir.load()
    assert facts["status"] == "failed"
    assert "status 139" in facts["error"]["found"]
    assert host.find({}) == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (EngineFailed("CPUs 0-3", "the engine refused", "name others"), EngineFailed),
        (Interrupted(2), Interrupted),
        (ZeroDivisionError("a bug"), ZeroDivisionError),
        (OSError(errno.ENOSPC, "No space left on device"), HostCannot),
        (NodeDied("dns", 139, []), None),
    ],
    ids=["a refusal", "an interrupt", "a bug", "a full disk", "a death"],
)
def test_the_phases_until_then_are_kept_however_a_run_ends(
    tmp_path: Path, error: BaseException, raised: type[BaseException] | None
) -> None:
    def drive(running: RecordedBed) -> None:
        with running.phase("first"):
            pass
        with running.phase("second"):
            raise error

    with pytest.raises(raised) if raised else nullcontext():
        _run(Breaking(), tmp_path, Asked(drive))
    assert [phase["name"] for phase in _facts(tmp_path)["phases"]] == ["first", "second"]
    assert _facts(tmp_path)["status"] in {"failed", "interrupted"}


class Judged(Asked):
    """A question whose judge can be replaced."""

    def __init__(self, judge: Callable[[Measurements], Verdict]) -> None:
        super().__init__()
        self._judge = judge

    def judge(self, measured: Measurements, params: Params) -> Verdict:  # noqa: ARG002
        """Judge."""
        return self._judge(measured)


def _broken_judge(measured: Measurements) -> Verdict:
    return Verdict(**measured.facts["bed"])


@pytest.mark.parametrize("judge", [_broken_judge, lambda _: None], ids=["one that raises", "one that says nothing"])
def test_a_judge_that_fails_is_inconclusive_with_its_reason_and_can_judge_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Callable[[Measurements], Verdict]
) -> None:
    host = Breaking()
    finished = _run(host, tmp_path, Judged(judge))
    assert host.find({}) == []
    assert finished.exit_code is ExitCode.INCONCLUSIVE
    assert finished.verdict.reason.startswith(("The judge failed: ValidationError", "The judge failed: AttributeError"))
    assert str(finished.broken) in sweep.summary_row(finished)["error"]
    facts, folder = _facts(tmp_path), finished.rundir.path
    assert (facts["status"], facts["verdict"]["outcome"]) == ("finished", "INCONCLUSIVE")
    assert facts["error"]["found"].startswith("the judge failed: ")
    assert "Traceback (most recent call last)" in (folder / "judge.traceback").read_text()
    assert "The judge failed: " in (folder / "report.html").read_text()
    terminal.show(summarize_run(finished.rundir), Console(file=io.StringIO()))

    asked = Judged(judge)
    monkeypatch.setattr(runner, "scenario", lambda _: asked)
    assert runner.judge_again(finished.rundir).exit_code is ExitCode.INCONCLUSIVE
    asked._judge = lambda _: Verdict(outcome=Outcome.CONFIRMED, claim="It answers.", reason="")
    assert runner.judge_again(finished.rundir).exit_code is ExitCode.OK
    facts = _facts(tmp_path)
    assert (facts["status"], facts["error"], facts["verdict"]["outcome"]) == ("finished", None, "CONFIRMED")
    assert not (folder / "judge.traceback").exists()


def test_a_judge_that_fails_after_a_death_does_not_hide_the_death(tmp_path: Path) -> None:
    def kill(running: RecordedBed) -> None:
        host.end(running.nodes["dns"].container.id, 139)
        assert running.recorder.died.wait(5)
        running.check()

    host, asked = Breaking(), Judged(_broken_judge)
    asked._drive = kill
    finished = _run(host, tmp_path, asked)
    assert isinstance(finished.broken, NodeDied)
    assert "status 139" in _facts(tmp_path)["error"]["found"]
    assert "The judge failed" in finished.verdict.reason


@pytest.mark.parametrize(
    ("error", "kind", "found"),
    [
        (KeyError("figures"), Problem, "the report failed: KeyError: 'figures'"),
        (OSError(errno.ENOSPC, "No space left"), HostCannot, "No space left"),
    ],
)
def test_a_report_that_fails_costs_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Problem], found: str
) -> None:
    def fail(_: RunDir) -> None:
        raise error

    monkeypatch.setattr(html, "write", fail)
    finished = _run(Breaking(), tmp_path)
    assert finished.exit_code is ExitCode.OK
    assert type(finished.unreported) is kind
    assert finished.unreported.found == found
    assert (_facts(tmp_path)["status"], _facts(tmp_path)["error"]) == ("finished", None)
    assert "in fail" in (finished.rundir.path / "report.traceback").read_text()
    with pytest.raises(HostCannot if kind is HostCannot else typer.Exit):
        end_with(finished.exit_code, finished.unreported)


def test_a_disk_that_fills_up_before_the_verdict_is_kept_hides_it_not(tmp_path: Path) -> None:
    def judge(_: Measurements) -> Verdict:
        disk.fill()
        return Verdict(outcome=Outcome.CONFIRMED, claim="It answers.", reason="It did.")

    with disk.full(1 << 30), pytest.raises(HostCannot, match=r"run\.json.*File too large") as caught:
        _run(Breaking(), tmp_path, Judged(judge))
    assert "the verdict, which could not be saved: CONFIRMED. It did." in caught.value.__notes__
    assert list(tmp_path.rglob("*.new")) == []


class Pair(Asked):
    """A question of two nodes."""

    def bed(self, params: Params) -> Bed:  # noqa: ARG002, D102
        nodes = {"dns": {"service": "bind"}, "sink": {"service": "blackhole"}}
        return parse_bed({"name": "two", "domains": 2, "nodes": nodes}, "bed")


class Stillborn(Breaking):
    """Its sink ends as soon as it has started, and nothing is ever ready."""

    def __init__(self) -> None:
        super().__init__()
        self.prints = lambda _: ["fatal: no such file"]
        for image, release in images.needed_by(Pair().bed(Params())):
            self.images.tags[images.tag(image, release)] = {images.LABEL: images.digest(image), "id": image}

    def start(self, container: str) -> None:
        """Start it, and end it when it is the sink's."""
        super().start(container)
        if self.specs[container].hostname == "sink":
            self.end(container, 78)


def test_a_node_that_died_at_its_start_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bringup, "READY_S", 5.0)
    began = time.monotonic()
    with pytest.raises(NodeDied, match="node sink running") as caught:
        _run(Stillborn(), tmp_path, Pair())
    assert time.monotonic() - began < 4, "at once, and not when another one was given up"
    assert caught.value.tail == ["fatal: no such file"]
    assert caught.value.exit_status == 78


def test_a_run_can_be_judged_again_from_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = _run(Breaking(), tmp_path)
    monkeypatch.setattr(runner, "scenario", lambda name: {"asked": Asked()}[name])
    again = runner.judge_again(RunDir.open(finished.rundir.path))
    assert again.verdict == finished.verdict


def test_a_bed_that_does_not_come_up_on_a_full_disk_says_why_it_did_not(tmp_path: Path) -> None:
    rundir, error = RunDir.create(tmp_path, "up"), EngineFailed("a bed", "no engine", "start it")
    before = rundir.load()
    with disk.full():
        rundir.save_end({"scenario": "up", "error": error.to_dict()}, error)
    assert error.__notes__ == [f"run.json in {rundir.path} could not be updated: File too large"]
    assert rundir.load() == before
