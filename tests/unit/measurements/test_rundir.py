"""What may become part of a run directory."""

import errno
import json
import os
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.interrupts import Interrupted
from orchestrator.measurements.files import MAX_NAME, make_directory, replace, write_files
from orchestrator.measurements.rundir import FORMAT, RunDir

Use = Callable[[RunDir, str], object]
USES: dict[str, Use] = {
    "save_result": lambda run, name: run.save_result(name, {}),
    "result": lambda run, name: run.result(name),
    "write_log": lambda run, name: run.write_log(name),
    "log": lambda run, name: list(run.log(name)),
    "write_series": lambda run, name: run.write_series(name),
    "series": lambda run, name: run.series(name),
    "save_config": lambda run, name: run.save_config(name, {"/etc/x": b""}),
    "make_directory": lambda run, name: make_directory(run.path, name),
}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", "test")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\nb", "a\0b", "\x1b[31m", "é" * 101])
@pytest.mark.parametrize("use", USES)
def test_a_name_that_is_no_part_of_a_file_name_is_refused(run: RunDir, use: str, name: str) -> None:
    before = sorted(run.path.parent.rglob("*"))
    with pytest.raises(InvalidInput, match="a name of 1 to 200 printable characters"):
        USES[use](run, name)
    assert sorted(run.path.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["relay", "calibration-2", "sets 0,1", "größer", "x" * MAX_NAME])
def test_any_other_name_is_kept(run: RunDir, name: str) -> None:
    run.save_result(name, {"a": 1})
    assert run.result(name) == {"a": 1}


@pytest.mark.parametrize("path", ["/../x", "/etc/../../x", "../x", "/a\0b"])
def test_a_file_of_a_node_stays_below_its_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match=r"without '\.\.'"):
        write_files(tmp_path / "node", {"/etc/good": b"", path: b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_not_finite_is_neither_kept_nor_read(run: RunDir, value: float) -> None:
    for save in (run.save, lambda data: run.save_result("relay", data)):
        with pytest.raises(ValueError, match="not JSON compliant"):
            save({"figures": {"a": value}})
    assert run.load()["status"] == "created"
    (run.path / "run.json").write_text(json.dumps({"figures": value}))
    with pytest.raises(InvalidInput, match="is not a finite number"):
        run.load()


def test_a_run_says_its_format_and_one_of_the_first_format_is_refused(run: RunDir) -> None:
    """Before format 2 a load did not say its purpose."""
    assert run.load()["format"] == FORMAT
    (run.path / "run.json").write_text('{"scenario": "old", "version": "0.0.9"}')
    with pytest.raises(InvalidInput, match=r"format 1, written by testbed 0\.0\.9; it was made before format 2:"):
        run.load()


@pytest.mark.parametrize(
    ("number", "do"),
    [
        *((older, f"made before format {FORMAT}: use an earlier testbed") for older in (1, 0, -1)),
        (FORMAT + 1, f"made after format {FORMAT}: use a later testbed"),
        ("2", "damaged, or testbed did not write it"),
        (None, "damaged, or testbed did not write it"),
        (True, "damaged, or testbed did not write it"),
        (2.0, "damaged, or testbed did not write it"),
    ],
)
def test_a_run_of_another_format_is_refused(run: RunDir, number: object, do: str) -> None:
    """The same version may have written it, from an earlier commit: the hint names no version."""
    (run.path / "run.json").write_text(json.dumps({"format": number, "version": version("testbed")}))
    with pytest.raises(InvalidInput, match=f"of format {FORMAT}.*run.json: format .*; .*{do}"):
        run.load()


def test_a_scratch_file_that_cannot_be_removed_hides_no_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr(Path, "unlink", raises(OSError(errno.EROFS, "Read-only file system")))
    for first in (OSError(errno.ENOSPC, "No space left on device"), Interrupted(signal.SIGINT)):
        monkeypatch.setattr(os, "fsync", raises(first))
        with pytest.raises(type(first)) as caught:
            replace(tmp_path / "run.json", "{ }")
        assert caught.value is first
    assert (tmp_path / "run.json").read_text() == "{}"


def raises(error: BaseException) -> Callable[..., None]:
    """Return a function that raises this error."""

    def function(*_: object, **__: object) -> None:
        raise error

    return function
