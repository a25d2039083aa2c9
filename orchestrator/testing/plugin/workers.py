"""Beds of pytest-xdist's workers, recorded in a folder of their controller: a shared bed, and beds that stay up.

The first worker that needs the shared bed brings it up under a lock; the others attach to it. The controller owns
the shared bed, and takes it down when all workers have ended.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path

import pytest

from orchestrator.hosts import cleaning, docker
from orchestrator.testing.reaper import WORD


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Record of a worker's bed in the folder."""

    id: str = ""
    """Empty: its bring-up failed."""
    note: str = ""
    """How to reach the bed and to take it down; after a failed bring-up, the error."""
    shared: bool = False
    """Whether all workers share the bed; the controller then takes it down."""


class Folder:
    """Folder that a controller shares with its workers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Lock the record of a key against all other workers; the lock ends with this process."""
        with self._file(key, "lock").open("w") as file:
            flock(file, LOCK_EX)
            yield

    def read(self, key: str) -> Record | None:
        """Return the record of a key, ``None`` if there is none."""
        file = self._file(key, "json")
        return Record(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def write(self, key: str, record: Record) -> None:
        """Write the record of a key."""
        self._file(key, "json").write_text(json.dumps(asdict(record)), encoding="utf-8")

    def records(self) -> list[Record]:
        """Return the records of all beds that came up."""
        files = sorted(self._path.glob("*.json"))
        records = [Record(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
        return [record for record in records if record.id]

    @property
    def lifeline(self) -> Path:
        """FIFO that the controller holds open for writing as long as it lives."""
        return self._path / "lifeline"

    def note_failure(self, id_: str) -> None:
        """Note that a test that used this bed failed."""
        (self._path / f"{id_}.failed").touch()

    def failed(self, id_: str) -> bool:
        """Return whether a test that used this bed failed."""
        return (self._path / f"{id_}.failed").exists()

    def _file(self, key: str, kind: str) -> Path:
        return self._path / f"{sha256(key.encode()).hexdigest()[:16]}.{kind}"


def stays(config: pytest.Config, *, failed: bool) -> bool:
    """Return whether a bed stays up after its tests; ``failed``: one of them failed."""
    return config.getoption("testbed_keep") == "always" or (bool(config.getoption("testbed_keep")) and failed)


def notes(config: pytest.Config, path: Path) -> list[str]:
    """Return a line for each bed that the workers leave up."""
    folder = Folder(path)
    return [
        record.note
        for record in folder.records()
        if not record.shared or stays(config, failed=folder.failed(record.id))
    ]


def take_down(config: pytest.Config, path: Path, lifeline: int) -> None:
    """Take down the shared beds that do not stay up; call it after all workers have ended.

    ``lifeline``: the controller's end of the FIFO; ``reaper.WORD``, written to it, ends the watchdogs.
    """
    folder = Folder(path)
    for record in folder.records():
        if record.shared and not stays(config, failed=folder.failed(record.id)):
            cleaning.remove_id(docker.connect(), record.id)
    os.write(lifeline, WORD)
