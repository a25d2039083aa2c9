"""A user's own files for a node: checked paths, text from a folder or from beside a bed file.

Text only: a compiled lookup table (``recipients.db``) belongs to one version of one library, so its source travels and
the node compiles it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from orchestrator.errors import InvalidInput

MOST_FILES = 1_000
MAX_FILES_B = 2 * 2**20
"""Maximum total size of one node's files; run.json and capsules contain them."""
COMPILED = (".db", ".cdb", ".lmdb", ".dir", ".pag")
"""Ends of what postmap(1) makes beside a source."""
_PATH = re.compile(r"(?:/[A-Za-z0-9_@+,=:~.-]{1,200}){1,20}")
_OF_THE_BED = ("/testbed", "/proc", "/sys", "/dev")
_OF_THE_ENGINE = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")
"""The bed or the engine writes these when the node starts."""


@dataclass(frozen=True, slots=True)
class FromDisk:
    """Marks a parameter whose command-line option names a file or folder: its content is the parameter's value."""

    read: Callable[[Path], object]
    """Raises InvalidInput if it cannot be read."""
    metavar: str


def node_path(path: str) -> str:
    """Check an absolute path in a node.

    Raises:
        ValueError: it is not plain, or the bed or the engine writes there.
    """
    parts = PurePosixPath(path).parts
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(f"{path[:200]!r} is not an absolute path of plain characters without '..'")
    if path in _OF_THE_ENGINE or "/" + parts[1] in _OF_THE_BED:
        raise ValueError(f"{path} is written by the bed or the engine itself")
    return path


def within_bounds(files: dict[str, str]) -> dict[str, str]:
    """Check the files of one node together: path -> text.

    Raises:
        ValueError: there are too many, they are too long, or one stands where another needs a folder.
    """
    if len(files) > MOST_FILES:
        raise ValueError(f"{len(files):,} files; at most {MOST_FILES:,} are possible")
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_FILES_B:
        raise ValueError(f"{size:,} bytes of files; at most {MAX_FILES_B:,} are possible")
    for path in files:
        if folder := next((str(p) for p in PurePosixPath(path).parents if str(p) in files), None):
            raise ValueError(f"{folder} cannot be a file and the folder of {path}")
    return files


def read_tree(folder: Path, at: str = "/") -> dict[str, str]:
    """Read a folder's tree as it will lie at a path of a node: path in the node -> text.

    A compiled table is left out where its source lies beside it. A symbolic link to a file within the folder is
    followed; one to a folder is refused.

    Raises:
        InvalidInput: a folder or file cannot be read, a file is no text or lies outside, or a folder is a link.
    """
    if not _is_folder(folder):
        raise InvalidInput("a folder of files for a node", f"{folder}: there is none", "name a folder")
    return _read(folder, at, folder.resolve())


def read_beside(bed: Path, files: Mapping[str, object]) -> dict[str, str]:
    """Read what a bed file says of a node's files: path in the node -> text.

    A value is the name of a file or folder beside the bed file, or ``{text: ...}``. ``read_tree`` says how a folder is
    read.

    Raises:
        InvalidInput: a value is neither, or what it names cannot be read or does not lie beside the bed file.
    """
    beside = bed.parent.resolve()
    found: dict[str, str] = {}
    for path, value in ((str(key), value) for key, value in files.items()):
        if isinstance(value, dict) and value.keys() == {"text"} and isinstance(value["text"], str):
            found[path] = value["text"]
        elif isinstance(value, str) and value and not Path(value).is_absolute() and "\0" not in value:
            source = bed.parent / value
            found |= _read(source, path, beside) if _is_folder(source) else {path: _text(source, beside)}
        else:
            raise InvalidInput(
                f"files: {path}: the name of a file or folder beside {bed}, or {{text: ...}}",
                repr(value)[:200],
                "name it relative to the bed file",
            )
    return found


def read_lines(file: Path) -> list[str]:
    """Read a list, one entry a line; ``#`` begins a comment line. A byte order mark at its start is left out.

    Raises:
        InvalidInput: the file cannot be read.
    """
    text = _text(file, file.resolve().parent).removeprefix("\ufeff")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _read(folder: Path, at: str, within: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    files = list(_files(folder))
    names = set(files)
    for file in files:
        if file.suffix in COMPILED and file.with_suffix("") in names:
            continue
        if len(found) == MOST_FILES:
            raise InvalidInput(f"at most {MOST_FILES:,} files", f"{folder}: more", "leave some out")
        found[f"{at.rstrip('/')}/{file.relative_to(folder).as_posix()}"] = _text(file, within)
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a tree in order.

    Raises:
        InvalidInput: a folder in it cannot be read, or is a symbolic link.
    """
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        folders.sort()
        for link in (Path(parent) / name for name in folders if _is_link(Path(parent) / name)):
            raise InvalidInput(
                "folders that are no symbolic links", f"{link}: it is one", "copy the folder there, or leave it out"
            )
        yield from (Path(parent) / name for name in sorted(files))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        _unreadable(error)


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError as error:
        _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    found = f"{error.filename}: {error.strerror}"
    raise InvalidInput("files and folders that can be read", found, "correct its name or its mode") from error


def _text(file: Path, within: Path) -> str:
    """Read one file whose true place is within a folder.

    Raises:
        InvalidInput: it lies elsewhere, or is no file of text.
    """
    needed, do = f"a file of text below {within}", "copy it there, or leave it out"
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(within):
            raise InvalidInput(needed, f"{file}: it is {real}", do)
        if not real.is_file():
            raise InvalidInput(needed, f"{file}: it is no regular file", do)
        with real.open("rb") as opened:
            content = opened.read(MAX_FILES_B + 1)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(needed, f"{file}: {getattr(error, 'strerror', None) or error}", do) from error
    if len(content) > MAX_FILES_B:
        raise InvalidInput(f"files of at most {MAX_FILES_B:,} bytes", f"{file}: it is larger", "shorten it")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            needed, f"{file}: it is no UTF-8", "of a lookup table give the source: the node compiles it"
        ) from error
