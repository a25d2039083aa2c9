"""The tree of orchestrator/ in CONTRIBUTING.md: one line for each folder and module, from the first docstring lines.

::

    .venv/bin/python -m tests.layout            write the tree into CONTRIBUTING.md
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- layout: begin, made by `python -m tests.layout` -->", "<!-- layout: end -->"


def tree(package: Path) -> list[str]:
    """Return a line ``name  what`` for the package and all below it, indented by depth, folders first.

    Raises:
        ValueError: a module has no docstring, or a folder of Python files is no package.
    """
    rows: list[tuple[str, str]] = []

    def walk(folder: Path, depth: int) -> None:
        rows.append((f"{'  ' * depth}{folder.name}/", _first_line(folder / "__init__.py")))
        inside = sorted(folder.iterdir())
        for path in inside:
            if path.is_dir() and any(path.rglob("*.py")):
                walk(path, depth + 1)
        modules = (path for path in inside if path.suffix == ".py" and path.name != "__init__.py")
        rows.extend(("  " * (depth + 1) + path.name, _first_line(path)) for path in modules)

    walk(package, 0)
    width = max(len(name) for name, _ in rows) + 2
    return [f"{name:{width}}{text}" for name, text in rows]


def _first_line(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) if module.exists() else None
    if not text:
        raise ValueError(f"{module}: needed: a first docstring line, which says what the module is about; found: none")
    return text.splitlines()[0]


def block() -> str:
    """Return the tree as CONTRIBUTING.md holds it between the markers."""
    return "\n".join(["", "```", *tree(ROOT / "orchestrator"), "```", ""])


def parts(page: str) -> tuple[str, str, str]:
    """Return the text before, between and after the markers.

    Raises:
        ValueError: a marker is missing.
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"{PAGE.name}: needed: the lines {BEGIN!r} and {END!r}; found: not both")
    before, _, rest = page.partition(BEGIN)
    between, _, after = rest.partition(END)
    return before, between, after


def main() -> None:
    """Write the tree between the markers."""
    before, _, after = parts(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(f"{before}{BEGIN}{block()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
