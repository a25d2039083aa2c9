"""The pages: paths that they name exist, and CHANGELOG.md says which version wrote which formats."""

import re
import tomllib
from pathlib import Path

from orchestrator.measurements import rundir
from orchestrator.runs import capsule, sweep
from orchestrator.up import attach

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile", ROOT / "orchestrator/__init__.py"]
WRITTEN_BY_RUNS = {"judge.traceback", "report.html"}


def test_a_version_writes_one_set_of_formats() -> None:
    rows = re.findall(r"^\| ([0-9.]+) \|((?: \d+ \|)+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    formats = (rundir.FORMAT, sweep.FORMAT, capsule.FORMAT, attach.FORMAT)
    assert rows[-1] == (version, "".join(f" {number} |" for number in formats)), "add a row, with a version of its own"
    assert len(dict(rows)) == len(rows), "a version has one row: raise the version with a format"
