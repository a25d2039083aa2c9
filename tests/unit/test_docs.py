"""The pages: files that they name exist, and CHANGELOG.md says which version wrote which formats."""

import re
import tomllib
from pathlib import Path

import pytest

from orchestrator.measurements import rundir
from orchestrator.runs import capsule, sweep
from orchestrator.up import attach

ROOT = Path(__file__).parents[2]
FOLDERS = ("orchestrator", "tests", "images", "docs", "compose", "examples")
NAMES = rf"(?<![\w/<>.-])(?:(?:{'|'.join(FOLDERS)})/[\w./-]*\w|[\w./-]+\.py)(?![\w/<>*])"
PAGES = [
    "Makefile",
    *(str(path.relative_to(ROOT)) for pages in ("*.md", "docs/*.md", "compose/*.md") for path in ROOT.glob(pages)),
]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    tree = "".join(f"/{path.relative_to(ROOT)}\n" for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    names = set(re.findall(NAMES, (ROOT / page).read_text()))
    assert {name for name in names if f"/{name}\n" not in tree} == set()


def test_a_version_writes_one_set_of_formats() -> None:
    rows = re.findall(r"^\| ([0-9.]+) \|((?: \d+ \|)+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    formats = (rundir.FORMAT, sweep.FORMAT, capsule.FORMAT, attach.FORMAT)
    assert rows[-1] == (version, "".join(f" {number} |" for number in formats)), "add a row, with a version of its own"
    assert len(dict(rows)) == len(rows), "a version has one row: raise the version with a format"
