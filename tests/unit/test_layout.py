"""CONTRIBUTING.md names every folder and module of orchestrator/, each with its first docstring line."""

from pathlib import Path

import pytest

from tests import layout


def test_the_tree_in_contributing_is_that_of_the_code() -> None:
    _, between, _ = layout.parts(layout.PAGE.read_text(encoding="utf-8"))
    written, made = between.splitlines(), layout.block().splitlines()
    missing, extra = [line for line in made if line not in written], [line for line in written if line not in made]
    assert written == made, f"missing: {missing}; not in the code: {extra}; run `.venv/bin/python -m tests.layout`"


def test_a_tree_has_folders_first_and_the_first_docstring_lines(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    (package / "till" / "data").mkdir(parents=True)
    (package / "__init__.py").write_text('"""A shop.\n\nMore."""\n')
    (package / "bread.py").write_text('"""Bread."""\n')
    (package / "till" / "__init__.py").write_text('"""Its till."""\n')
    (package / "till" / "data" / "x.css").write_text("")
    assert layout.tree(package) == ["shop/       A shop.", "  till/     Its till.", "  bread.py  Bread."]


def test_a_module_without_a_docstring_is_named(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text('"""A shop."""\n')
    (tmp_path / "bread.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"bread\.py: needed: a first docstring line"):
        layout.tree(tmp_path)
