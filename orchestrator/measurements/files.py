"""Files and folders that a command writes: checked names, a folder of its own, atomic replacement."""

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.errors import InvalidInput, host_cannot

MAX_NAME = 200
"""Maximum octets of a name; leaves room for a suffix in a file name of at most 255 (NAME_MAX)."""


def check_name(name: str) -> str:
    """Return the name of a load, node or series; raises InvalidInput if it cannot be part of a file's name."""
    if name and name[0] != "." and "/" not in name and name.isprintable() and len(name.encode()) <= MAX_NAME:
        return name
    raise InvalidInput(
        f"a name of 1 to {MAX_NAME} printable characters without a slash, not beginning with a dot",
        repr(name)[:100],
        "choose another name",
    )


def make_directory(parent: Path, name: str, parts: tuple[str, ...] = ()) -> Path:
    """Make a directory ``<time>-<name>`` with the folders ``parts`` in it; raises InvalidInput if that fails."""
    stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{check_name(name)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for n in range(1, 1000):
            path = parent / (stem if n == 1 else f"{stem}-{n}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            for part in parts:
                (path / part).mkdir()
            return path
    except OSError as error:
        raise host_cannot(error, str(parent)) or InvalidInput(
            f"a directory for the run below {parent}",
            error.strerror or str(error),
            "free some space, or name another place with --runs",
        ) from error
    raise InvalidInput(f"a free name below {parent}", f"a thousand runs called {stem}", "delete some of them")


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files (absolute path -> content) below a folder; raises InvalidInput if that fails."""
    for name in files:
        if ".." in Path(name).parts or "\0" in name:
            raise InvalidInput("paths of files without '..'", repr(name)[:100], "name the file by its whole path")
    try:
        for name, content in files.items():
            path = folder / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if content.startswith(b"#!"):
                path.chmod(0o755)
    except OSError as error:
        raise host_cannot(error, str(folder)) or InvalidInput(
            f"files below {folder}", error.strerror or str(error), "name another place"
        ) from error


def replace(path: Path, text: str) -> None:
    """Replace a file atomically; raises OSError if that fails, and then keeps the old file."""
    scratch = path.with_name(path.name + ".new")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)
        raise
