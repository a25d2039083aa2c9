"""A user's own files for a node: checks their paths, and reads their text from a folder or from beside a bed file.

Text only: the format of a compiled lookup table (``recipients.db``) depends on the library's version, so the node
compiles the table from its source.
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
"""Suffixes of the tables that postmap(1) compiles."""
_PATH = re.compile(r"(?:/[A-Za-z0-9_@+,=:~.-]{1,200}){1,20}")
_OF_THE_BED = ("/testbed", "/proc", "/sys", "/dev")
_OF_THE_ENGINE = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")
"""Files that the bed or the engine writes when the node starts."""


@dataclass(frozen=True, slots=True)
class FromDisk:
    """Marks a parameter whose command-line option names a file or folder; the content becomes the parameter's value."""

    read: Callable[[Path], object]
    """Reads the value from a path; raises InvalidInput if that is impossible."""
    metavar: str


def node_path(path: str) -> str:
    """Check an absolute path in a node; raises ValueError if it is not plain, or if bed or engine writes the file."""
    parts = PurePosixPath(path).parts
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(f"{path[:200]!r} is not an absolute path of plain characters without '..'")
    if path in _OF_THE_ENGINE or "/" + parts[1] in _OF_THE_BED:
        raise ValueError(f"{path} is written by the bed or the engine itself")
    return path


def within_bounds(files: dict[str, str]) -> dict[str, str]:
    """Check the files of a node (path -> text); raises ValueError for too many, too large or nested ones."""
    if len(files) > MOST_FILES:
        raise ValueError(f"{len(files):,} files; at most {MOST_FILES:,} are allowed")
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_FILES_B:
        raise ValueError(f"{size:,} bytes of files; at most {MAX_FILES_B:,} are allowed")
    for path in files:
        if folder := next((str(p) for p in PurePosixPath(path).parents if str(p) in files), None):
            raise ValueError(f"{folder} cannot be a file and the folder of {path}")
    return files


def read_tree(folder: Path, at: str = "/") -> dict[str, str]:
    """Read a folder's tree: path in the node -> text; raises InvalidInput.

    A compiled table is left out if its source lies beside it. A symbolic link to a file within the folder is followed.
    A link to a folder or to a file outside, and a file that is not text, are refused.
    """
    if not _is(Path.is_dir, folder):
        raise InvalidInput("a folder of files for a node", f"{folder} is not a folder", "name a folder")
    return _read(folder, at, folder.resolve())


def read_beside(bed: Path, files: Mapping[str, object], key: str = "files", *, folders: bool = True) -> dict[str, str]:
    """Read the files below a key of a bed file: path in the node, or name of the zone -> text; raises InvalidInput.

    A value is ``{text: ...}``, or the name of a file beside the bed file. With ``folders``, a value may also name a
    folder there. Files and folders are read as ``read_tree`` reads its files.
    """
    kinds = "a file or folder" if folders else "a file"
    beside = bed.parent.resolve()
    texts: dict[str, str] = {}
    for path, value in ((str(key), value) for key, value in files.items()):
        if isinstance(value, dict) and value.keys() == {"text"} and isinstance(value["text"], str):
            texts[path] = value["text"]
        elif isinstance(value, str) and value and not Path(value).is_absolute() and "\0" not in value:
            source = bed.parent / value
            texts |= (
                _read(source, path, beside) if folders and _is(Path.is_dir, source) else {path: _text(source, beside)}
            )
        else:
            raise InvalidInput(
                f"{key}: {path}: the name of {kinds} beside {bed}, or {{text: ...}}",
                repr(value)[:200],
                "name it relative to the bed file",
            )
    return texts


def read_lines(file: Path) -> list[str]:
    """Read a list, one entry a line, without ``#`` lines and byte order mark; raises InvalidInput if unreadable."""
    text = _text(file, file.resolve().parent).removeprefix("\ufeff")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _read(folder: Path, at: str, within: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    files = list(_files(folder))
    names = set(files)
    for file in files:
        if file.suffix in COMPILED and file.with_suffix("") in names:
            continue
        if len(texts) == MOST_FILES:
            raise InvalidInput(f"at most {MOST_FILES:,} files", f"{folder}: more", "leave some out")
        texts[f"{at.rstrip('/')}/{file.relative_to(folder).as_posix()}"] = _text(file, within)
    return texts


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a tree in order; raises InvalidInput for an unreadable folder or a link to a folder."""
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        folders.sort()
        for link in (Path(parent) / name for name in folders if _is(Path.is_symlink, Path(parent) / name)):
            raise InvalidInput(
                "folders instead of symbolic links", f"{link}: it is a link", "copy the folder there, or leave it out"
            )
        yield from (Path(parent) / name for name in sorted(files))


def _is(test: Callable[[Path], bool], path: Path) -> bool:
    try:
        return test(path)
    except OSError as error:
        _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    found = f"{error.filename}: {error.strerror}"
    raise InvalidInput("files and folders that can be read", found, "correct its name or its mode") from error


def _text(file: Path, within: Path) -> str:
    """Read a text file; raises InvalidInput if its real path is outside ``within``, or its content is not text."""
    needed, do = f"a file of text below {within}", "copy it there, or leave it out"
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(within):
            raise InvalidInput(needed, f"{file}: it is {real}", do)
        if not real.is_file():
            raise InvalidInput(needed, f"{file}: it is not a regular file", do)
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
            needed, f"{file}: it is not UTF-8", "give the source of a lookup table: the node compiles it"
        ) from error
