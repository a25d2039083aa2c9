"""A run directory with broken files: what is whole counts, what is not is named, and there is always a verdict."""

import gzip
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.agents.contract import LoadOrder, SinkSettings
from orchestrator.errors import ExitCode, InvalidInput
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome
from orchestrator.report import html, terminal
from orchestrator.report.summary import in_brief, summarize_run
from orchestrator.runs import capsule, runner
from tests.unit import factory


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Make a run that is confirmed."""
    rundir = factory.make_run(tmp_path_factory.mktemp("kept"), domains=16, carries=60, seconds=5)
    for end in ("load", "sink"):
        rundir.save_result(f"calibration-single-{end}", rundir.result(f"calibration-{end}") or {})
    factory.add_probes(rundir, {20: 20, 40: 20}, used=20)
    finished = runner.judge_again(rundir)
    assert finished.verdict.outcome is Outcome.CONFIRMED
    assert finished.verdict.marks == ()
    assert rundir.left_out == {}
    return rundir


@pytest.fixture
def rundir(kept: RunDir, tmp_path: Path) -> RunDir:
    """Copy the run, so that a test may damage it."""
    return RunDir(Path(shutil.copytree(kept.path, tmp_path / "run")))


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no report: it takes longer than all the rest."""
    monkeypatch.setattr(html, "write", lambda _: None)


def replace_line(rundir: RunDir, series: str, number: int, line: bytes) -> int:
    """Damage one line of a series; return how many lines there are."""
    path = rundir.path / "series" / f"{series}.jsonl"
    lines = path.read_bytes().splitlines()
    lines[number] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    return len(lines)


BROKEN = {
    "half a line": b'{"t": 1763860012.5, "run": "5eed',
    "zeros of a crash": b"\0" * 512,
    "two lines in one": b'{"t": 1.0, "ru{"t": 2.0, "run": "x"}',
    "no object": b"12",
    "null": b"null",
    "no time": b'{"run": "00000000", "delivered": 4}',
    "a time that is none": b'{"t": NaN, "run": "00000000", "delivered": 4}',
    "no UTF-8": b'{"t": 1.0, "run": "\xff\xfe"}',
    "deep nesting": b"[" * 100_000,
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_costs_itself_and_nothing_that_follows(rundir: RunDir, kept: RunDir, line: bytes) -> None:
    whole = kept.series("sink")
    ours = [n for n, tick in enumerate(whole) if tick["run"] == Measurements.read(kept).loads["relay"].run]
    lines = replace_line(rundir, "sink", ours[3], line)
    assert rundir.series("sink") == [tick for n, tick in enumerate(whole) if n != ours[3]]
    assert rundir.left_out == {"series/sink.jsonl": f"1 of {lines} lines"}
    rates = [Measurements.read(run).delivered_under_load_per_s("relay") for run in (kept, rundir)]
    assert rates[0] == rates[1]
    replace_line(rundir, "sink", ours[3], json.dumps(whole[ours[3]]).encode())
    assert rundir.series("sink") == whole
    assert rundir.left_out == {}, "it is whole again"


def test_what_was_left_out_stands_beside_the_verdict(rundir: RunDir) -> None:
    lines = replace_line(rundir, "stats", 9, b'{"t": 1763')
    finished = runner.judge_again(rundir)
    mark = f"left out, because it cannot be read: 1 of {lines} lines of series/stats.jsonl"
    assert finished.verdict.outcome is Outcome.CONFIRMED
    assert finished.verdict.marks == (mark,)
    assert rundir.load()["verdict"]["marks"] == [mark]
    assert mark in (rundir.path / "report.html").read_text()
    console = Console(file=io.StringIO(), width=200)
    terminal.show(summarize_run(RunDir(rundir.path)), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count(mark) == 1, "once, and not again as a fault"


def test_the_last_line_of_a_killed_run_is_named_though_nobody_judged_it(rundir: RunDir) -> None:
    rundir.save(rundir.load() | {"verdict": None, "status": "running"})
    path = rundir.path / "series" / "load.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    summary = summarize_run(rundir)
    assert [fault.partition(": ")[2] for fault in summary["faults"]] == [
        f"1 of {len(path.read_bytes().splitlines())} lines of series/load.jsonl"
    ]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(b ^ 0x5A for b in content[len(content) // 2 :])
    path.write_bytes(content)


def no_gzip(path: Path) -> None:
    path.write_text("1763860001.0 postfix/master[1]: daemon started\n")


def half_a_line(path: Path) -> None:
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:1000] + b"\nno time\n" + content[1000:]))


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(
    ("damage", "what"),
    [(cut, "the end"), (scramble, "the end"), (no_gzip, "the end"), (half_a_line, "2 lines")],
)
def test_a_damaged_log_is_read_as_far_as_it_goes_and_named(
    rundir: RunDir, damage: Callable[[Path], None], what: str
) -> None:
    whole = list(rundir.log("relay"))
    (rundir.path / "results" / "hops.json").unlink()
    damage(rundir.path / "logs" / "relay.log.gz")
    assert list(rundir.log("relay")) != whole
    for _ in range(2):  # read, and then as results/hops.json keeps it
        again = RunDir(rundir.path)
        finished = runner.judge_again(again)
        assert again.left_out.keys() == {"logs/relay.log.gz"}
        assert again.left_out["logs/relay.log.gz"].endswith(what)
        assert finished.verdict.marks[0].endswith(f"{what} of logs/relay.log.gz")


def truncated(text: str) -> str:
    return text[: len(text) // 2]


def a_list(text: str) -> str:
    return f"[{text}]"


def one_key_less(text: str) -> str:
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "started"})


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(
    ("damage", "why"), [(truncated, "Unterminated"), (a_list, "no JSON object"), (one_key_less, "started: ")]
)
def test_a_report_that_cannot_be_read_is_named_and_there_is_a_verdict(
    rundir: RunDir, damage: Callable[[str], str], why: str
) -> None:
    path = rundir.path / "results" / "relay-load.json"
    path.write_text(damage(path.read_text()))
    finished = runner.judge_again(rundir)
    assert finished.exit_code is ExitCode.INCONCLUSIVE
    assert finished.broken is None, "the judge did not fail"
    (mark,) = (mark for mark in finished.verdict.marks if mark.startswith("left out"))
    assert re.fullmatch(rf"left out, .*: all of it \(.*{why}.*\) of results/relay-load\.json", mark)
    assert finished.unreported is None


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("name", ["relay-load", "relay-sink", "calibration-load", "hops"])
def test_a_report_of_a_newer_version_with_one_key_more_is_read(rundir: RunDir, kept: RunDir, name: str) -> None:
    rundir.save_result(name, {**(rundir.result(name) or {}), "invented_later": 1})
    finished = runner.judge_again(rundir)
    assert json.loads(json.dumps(finished.verdict.model_dump())) == kept.load()["verdict"]


def test_an_order_with_a_key_that_is_not_known_is_refused() -> None:
    with pytest.raises(TypeError, match="secondz"):
        LoadOrder.from_dict({"run": "00000000", "target": "127.0.0.1", "domains": [], "secondz": 3})
    with pytest.raises(TypeError, match="delay"):
        SinkSettings.from_dict({"delay": 3})


def test_a_damaged_histogram_fails_the_judge_or_a_figure_and_neither_verdict_nor_report(rundir: RunDir) -> None:
    for name in ("relay-load", "relay-sink", "calibration-sink"):
        report = rundir.result(name) or {}
        text = {key: "AAAA" for key in ("response", "service", "transit", "age", "accepted_set") if key in report}
        rundir.save_result(name, report | text)
    (rundir.path / "report.html").unlink()
    finished = runner.judge_again(rundir)
    assert finished.exit_code is ExitCode.INCONCLUSIVE
    assert finished.verdict.reason.startswith("The judge failed: ")
    assert finished.unreported is None
    assert "The judge failed: " in (rundir.path / "report.html").read_text()
    assert "Traceback" in (rundir.path / "judge.traceback").read_text()
    summary = summarize_run(rundir)
    assert {fault.partition(":")[0] for fault in summary["faults"]} >= {"latency of relay", "account of relay"}
    terminal.show(summarize_run(rundir), Console(file=io.StringIO()))


@pytest.mark.usefixtures("_no_report")
def test_a_figure_that_is_not_finite_is_inconclusive_with_its_reason(rundir: RunDir) -> None:
    rundir.save_result("relay-sink", {**(rundir.result("relay-sink") or {}), "cpu_s": 1e308})
    finished = runner.judge_again(rundir)
    assert finished.exit_code is ExitCode.INCONCLUSIVE
    assert finished.verdict.reason == "The judge failed: ValueError: Out of range float values are not JSON compliant"
    assert rundir.load()["verdict"]["reason"] == finished.verdict.reason
    assert "Traceback" in (rundir.path / "judge.traceback").read_text()


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("error", [-1, "x", [], {}, {"needed": 1}])
def test_an_error_in_run_json_that_cannot_be_read_is_an_error_all_the_same(rundir: RunDir, error: object) -> None:
    rundir.save(rundir.load() | {"error": error})
    finished = runner.judge_again(rundir)
    assert finished.exit_code is ExitCode.INCONCLUSIVE
    assert finished.verdict.reason.startswith("The run broke off before its end.")
    summary = summarize_run(rundir)
    assert summary["error"] is None
    assert "left out, because it cannot be read: error of run.json" in finished.verdict.marks
    terminal.show(summarize_run(rundir), Console(file=io.StringIO()))


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("relay-sink", {"delivered": []}),
        ("relay-sink", {"last": "x"}),
        ("relay-sink", {"memory_b": True}),
        ("relay-load", {"accepted": "x"}),
        ("relay-load", {"started": None}),
        ("relay-load", {"goodbye_failed": "x"}),
        ("relay-load", {"failed": {"451": []}}),
        ("relay-load", {"response": 7}),
    ],
)
def test_a_report_with_a_value_of_another_type_is_named_and_shown_without_it(
    rundir: RunDir, name: str, values: dict[str, object]
) -> None:
    rundir.save_result(name, {**(rundir.result(name) or {}), **values})
    finished = runner.judge_again(rundir)
    assert finished.exit_code is ExitCode.INCONCLUSIVE
    assert finished.broken is None, "the judge did not fail"
    (mark,) = (mark for mark in finished.verdict.marks if mark.startswith("left out"))
    assert re.fullmatch(rf"left out, .*: all of it \({next(iter(values))}(\.451)?: .*\) of results/{name}\.json", mark)
    terminal.show(summarize_run(RunDir(rundir.path)), Console(file=io.StringIO()))


def test_a_whole_number_stands_for_a_float(rundir: RunDir) -> None:
    rundir.save_result("relay-load", {**(rundir.result("relay-load") or {}), "cpu_s": 3})
    assert Measurements.read(rundir).loads["relay"].cpu_s == 3
    assert rundir.left_out == {}


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(
    "phase",
    [{"name": "x"}, {"name": "x", "start": "y"}, {"name": 1, "start": 1.0}, {"name": "x", "start": 1, "end": []}, 7],
)
def test_a_phase_that_cannot_be_read_is_named_and_the_others_count(rundir: RunDir, phase: object) -> None:
    facts = rundir.load()
    rundir.save(facts | {"phases": [phase, *facts["phases"]]})
    finished = runner.judge_again(rundir)
    assert finished.verdict.outcome is Outcome.CONFIRMED
    assert finished.verdict.marks == ("left out, because it cannot be read: phases.0 of run.json",)
    assert [p.name for p in Measurements.read(rundir).phases] == [p["name"] for p in facts["phases"]]
    rundir.save(facts | {"phases": 3})
    assert Measurements.read(rundir).phases == ()
    assert rundir.left_out == {"run.json": "phases"}


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(
    ("name", "values", "key"),
    [
        ("relay-queue", {"left": "0"}, "left"),
        ("relay-queue", {"left": True}, "left"),
        ("relay-queue", {"seconds": []}, "seconds"),
        ("probe-20-cpus", {"used": 3}, "used"),
        ("probe-20-cpus", {"used": {"busy_s": "x", "steal_s": 0}}, r"used\.busy_s"),
        ("probe-20-cpus", {"start": "x"}, "start"),
        ("probe-20-cpus", {"cpus": 1.5}, "cpus"),
        ("connections", {"connections": "20"}, "connections"),
        ("connections", {"given": 1}, "given"),
    ],
)
def test_a_result_with_a_value_of_another_type_is_named_with_its_key(
    rundir: RunDir, name: str, values: dict[str, object], key: str
) -> None:
    rundir.save_result(name, {**(rundir.result(name) or {}), **values})
    finished = runner.judge_again(rundir)
    assert finished.broken is None, "the judge did not fail"
    (mark,) = (mark for mark in finished.verdict.marks if mark.startswith("left out"))
    assert re.fullmatch(rf"left out, because it cannot be read: all of it \({key}: .*\) of results/{name}\.json", mark)


@pytest.mark.parametrize("key", ["verdict", "bed", "phases", "params", "plan", "environment", "status", "command"])
@pytest.mark.parametrize("value", [-1, True, "x", [0], {"nodes": 3, "engine": 3, "outcome": []}], ids=json.dumps)
def test_a_key_of_run_json_with_another_type_is_named(rundir: RunDir, key: str, value: object) -> None:
    if (key, type(value)) in {("params", dict), ("status", str)}:
        return
    facts = rundir.load()
    rundir.save(facts | {key: value})
    for look in (Measurements.read, in_brief, summarize_run, capsule.make):
        again = RunDir(rundir.path)
        try:
            look(again)
        except InvalidInput as refused:
            told = refused.found
        else:
            told = str(again.left_out)
        assert "run.json" in told
        assert key in told


def test_a_line_of_a_series_with_a_value_of_another_type_is_left_out(rundir: RunDir) -> None:
    points: dict[str, dict[str, object]] = {
        "load": {"phase": "relay", "connections": "x"},
        "sink": {"run": [], "delivered": 1},
        "stats": {"node": "relay", "cpu_s": "x"},
        "readings": {"name": "x", "label": "y", "value": {}},
    }
    for series, point in points.items():
        lines = replace_line(rundir, series, 0, json.dumps({"t": factory.BEGAN, **point}).encode())
        assert len(Measurements.read(rundir).series[series]) == lines - 1
        assert rundir.left_out[f"series/{series}.jsonl"] == f"1 of {lines} lines"


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user without rights, if the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_closed_file_or_folder_is_named(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(rundir.path.parent)
    rundir.path.parent.chmod(0o755)
    (rundir.path / "results" / "hops.json").unlink()
    files = ("results/relay-load.json", "series/sink.jsonl", "logs/relay.log.gz")
    for closed in (files, ("results", "series", "config")):
        for name in closed:
            (rundir.path / name).chmod(0)
        again = RunDir(Path(rundir.path.name))
        with nobody():
            summarize_run(again)
            assert again.left_out.keys() >= set(closed) - {"config"}
            with pytest.raises(InvalidInput, match=r"run\.json.*: Permission denied"):
                runner.judge_again(again)
    (rundir.path / "config").chmod(0o700)


def test_a_time_in_a_log_that_is_not_finite_costs_its_line(rundir: RunDir) -> None:
    with gzip.open(rundir.path / "logs" / "relay.log.gz", "at") as log:
        log.write("nan postfix/master[1]: daemon started\ninf x\n1e999 y\n")
    (rundir.path / "results" / "hops.json").unlink()
    summarize_run(rundir)
    assert rundir.left_out == {"logs/relay.log.gz": "3 lines"}


@pytest.mark.parametrize("value", [[], "x", -1, {}])
def test_a_parameter_with_another_type_is_named(rundir: RunDir, value: object) -> None:
    facts = rundir.load()
    rundir.save(facts | {"params": facts["params"] | {"rate": value}})
    with pytest.raises(InvalidInput, match=r"run\.json; found rate: "):
        runner.judge_again(rundir)
    assert rundir.load()["verdict"] == facts["verdict"]
    rundir.save(facts | {"params": facts["params"] | {"taken_away_since": value}})
    assert runner.judge_again(rundir).verdict.outcome is Outcome.CONFIRMED
