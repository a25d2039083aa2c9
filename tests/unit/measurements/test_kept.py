"""A run directory in which any value is another one: a verdict or a clear error, and never a bug of testbed."""

import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from orchestrator import strict_json
from orchestrator.errors import ExitCode, Problem
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome
from orchestrator.report import html, terminal
from orchestrator.report.summary import in_brief, summarize_run
from orchestrator.runs import capsule, runner
from tests.unit import factory

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from([0, -1, 10**300, 10**400, 1e308, -1e308, 5e-324, "", "..", "/", "\0", "é" * 200, "CONFIRMED"]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
Place = tuple[str | int, ...]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Make a run that is confirmed."""
    rundir = factory.make_run(tmp_path_factory.mktemp("kept"), domains=4, carries=20, seconds=2)
    for end in ("load", "sink"):
        rundir.save_result(f"calibration-single-{end}", rundir.result(f"calibration-{end}") or {})
    factory.add_probes(rundir, {20: 20, 40: 20}, used=20)
    assert runner.judge_again(rundir).verdict.outcome is Outcome.CONFIRMED
    return rundir


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """Yield the path of every value in a value, itself included."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def replaced(value: Any, path: Place, other: Any) -> Any:
    """Return a copy of a value with another one at a path."""
    if not path:
        return other
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = other
    return changed


def look(rundir: RunDir, folder: Path) -> None:
    """Look at a run with every command that reads one.

    Raises:
        AssertionError: a command ends with a bug of testbed, or an error that does not name the run.
    """
    console = Console(file=io.StringIO())

    def listed() -> None:
        strict_json.dumps(in_brief(RunDir(rundir.path)), default=str)
        terminal.show_runs([RunDir(rundir.path)], console)

    def travels() -> None:
        capsule.write(capsule.make(RunDir(rundir.path)), folder / "a.capsule.json")

    def judged() -> None:
        finished = runner.judge_again(RunDir(rundir.path))
        assert finished.broken is None or finished.verdict.outcome is Outcome.INCONCLUSIVE

    def shown() -> None:
        summary = summarize_run(RunDir(rundir.path))
        strict_json.dumps(summary, default=str)
        console.print(terminal.render(summary))

    refused: list[Problem] = []
    for command in (listed, travels, judged, listed, travels, shown):
        try:
            command()
        except Problem as problem:
            refused.append(problem)
    assert all(problem.exit_code is not ExitCode.BUG and str(rundir.path) in str(problem) for problem in refused)


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no report: it takes longer than all the rest."""
    monkeypatch.setattr(html, "write", lambda _: None)


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("name", ["run.json", "results", "series"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_may_be_another_one(kept: RunDir, tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = kept.path / name
    if path.is_dir():
        path = data.draw(st.sampled_from(sorted(path.iterdir())))
    before = {file: file.read_bytes() for file in (path, kept.path / "run.json")}
    lines = [json.loads(line) for line in before[path].splitlines()] if name == "series" else None
    whole = json.loads(before[path]) if lines is None else lines
    place = data.draw(st.sampled_from([p for p in places(whole) if p or lines is None]))
    changed = replaced(whole, place, data.draw(ANYTHING))
    path.write_text("\n".join(map(json.dumps, changed)) if lines else json.dumps(changed))
    try:
        look(kept, tmp_path)
    finally:
        for file, content in before.items():
            file.write_bytes(content)
        (kept.path / "judge.traceback").unlink(missing_ok=True)
