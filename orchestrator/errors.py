"""Errors of this program, each with its exit code: needed, found, what to do.

::

    Problem                needed, found, do; exit code 70 (our own bug)
    +-- InvalidInput       2   a bed, parameter or file the user gave cannot be used
    +-- HostCannot         4   this host lacks what the plan needs
    +-- EngineFailed       5   the container engine is missing, refused a request or broke
        +-- TimedOut       5   something did not happen within its time limit; the engine works
        +-- NodeDied       5   a container that should be running ended (exit code 3 while a scenario drives the bed)

Exit codes without an error: 0 the expected verdict, 1 another verdict, 3 the verdict INCONCLUSIVE, 130 an interrupt,
141 the reader of the output is gone (as after SIGPIPE).
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """The exit codes of every command."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    INCONCLUSIVE = 3
    HOST = 4
    ENGINE = 5
    BUG = 70
    INTERRUPTED = 130
    NO_READER = 141


class Problem(Exception):
    """An error that a person can act on: what was needed, what was found, what to do."""

    exit_code = ExitCode.BUG

    def __init__(self, needed: str, found: str, do: str) -> None:
        super().__init__(f"needed {needed}; found {found}; {do}")
        self.needed = needed
        self.found = found
        self.do = do

    def to_dict(self) -> dict[str, str]:
        """Return plain data for run.json."""
        return {"needed": self.needed, "found": self.found, "do": self.do}


class InvalidInput(Problem, ValueError):
    """A bed, a parameter or a file that the user gave cannot be used."""

    exit_code = ExitCode.USAGE


class HostCannot(Problem):
    """The host lacks what the plan needs."""

    exit_code = ExitCode.HOST


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def host_cannot(error: OSError, wanted: str) -> Problem | None:
    """Convert an OSError that means a lack of disk space, file descriptors or memory; ``None`` for any other OSError.

    ``wanted`` replaces the file's name in the message if ``error`` has none.
    """
    if error.errno not in _NO_ROOM:
        return None
    where = str(error.filename or wanted)
    refused = HostCannot(f"room for {where}", error.strerror or str(error), "free some, or name another place")
    for note in getattr(error, "__notes__", ()):
        refused.add_note(note)
    return refused


@contextmanager
def usable(path: Path, what: str = "a path") -> Iterator[None]:
    """Convert an OSError of the block to an error about a path given by the user.

    Raises:
        HostCannot: the disk is full, or the process has too many open files.
        InvalidInput: the path is too long, does not exist, or is forbidden to this user.
    """
    try:
        yield
    except OSError as error:
        raise host_cannot(error, str(path)) or InvalidInput(
            f"{what} that this user can use",
            f"{error.filename or path}: {error.strerror or error}",
            "correct the path or its permissions, or name another path",
        ) from error


class EngineFailed(Problem):
    """The container engine is missing, refused a request or broke."""

    exit_code = ExitCode.ENGINE


class TimedOut(EngineFailed):
    """Something did not happen within its time limit; the engine works."""


class NodeDied(EngineFailed):
    """A container of the bed that should be running ended; ``tail`` holds its last log lines.

    ``exit_status`` is ``None`` if the container was removed before the engine reported it.
    """

    def __init__(self, node: str, exit_status: int | None, tail: list[str]) -> None:
        last = "\n".join(tail) or "(its log is empty)"
        ended = "its container was removed" if exit_status is None else f"it ended with status {exit_status}"
        super().__init__(
            needed=f"node {node} running",
            found=f"{ended}; the end of its log:\n{last}",
            do="read logs/ in the run directory",
        )
        self.node = node
        self.exit_status = exit_status
        self.tail = tail
