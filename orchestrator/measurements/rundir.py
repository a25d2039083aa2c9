"""The run directory: all data needed to judge a run again without Docker.

::

    runs/<time>-<scenario>/
      run.json         params, plan, environment, steps, verdict; written before, during and after the run
      config/<node>/   every rendered file
      logs/<node>.log.gz    output of the node: Unix time, a space, the line
      series/<name>.jsonl   time series: one JSON object a line, ``t`` is Unix time
      results/<name>.json   reports of the agents
      report.html      one self-contained file
      <part>.traceback      only if the judge or the report failed

A damaged file (process killed, disk broken) is read as far as possible; ``RunDir.left_out`` names the unread part.
"""

import gzip
import re
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from orchestrator import strict_json
from orchestrator.errors import InvalidInput, usable
from orchestrator.interrupts import shielded
from orchestrator.measurements.files import check_name, make_directory, replace, write_files
from orchestrator.measurements.kept import Kept, check_format, read_object, why

R = TypeVar("R")
_UNIX_TIME = re.compile(r"\d{1,12}(\.\d+)?")

FORMAT = 2
"""Format of run.json and the files beside it."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """One run directory."""

    path: Path
    left_out: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """File -> its unreadable part, for each file read so far."""

    @classmethod
    def create(cls, parent: Path, scenario: str) -> "RunDir":
        """Make a new run directory below ``parent``; raises InvalidInput if that fails."""
        run = cls(make_directory(parent, scenario, parts=("config", "logs", "series", "results")))
        run.save({"scenario": scenario, "status": "created"})
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """Open a run directory; raises InvalidInput if the path is not a run directory."""
        with usable(path, "a run directory"):
            if not (path / "run.json").is_file():
                raise InvalidInput("a run directory (it holds a run.json)", str(path), "see `testbed runs`")
        return cls(path)

    @classmethod
    def named(cls, run: Path, parent: Path) -> "RunDir":
        """Open a run directory by its path, or by its name below ``parent``; raises InvalidInput if neither exists."""
        with usable(run, "a run directory"):
            return cls.open(run if run.exists() else parent / run)

    @staticmethod
    def below(parent: Path) -> list[Path]:
        """Return the run directories below ``parent``, readable or not; raises InvalidInput if that fails."""
        with usable(parent, "a directory of runs"):
            return [path for path in sorted(parent.iterdir()) if _may_be_run(path)] if parent.exists() else []

    def save(self, facts: Mapping[str, Any]) -> None:
        """Replace run.json atomically."""
        facts = {"format": FORMAT, **facts}
        replace(self.path / "run.json", strict_json.dumps(facts, indent=1, sort_keys=False, default=str) + "\n")

    def save_end(self, facts: Mapping[str, Any], error: BaseException) -> None:
        """Save a run that failed with ``error``. Signals are held back; if the disk is full, ``error`` gets a note."""
        with shielded():
            try:
                self.save(facts)
            except OSError as full:
                error.add_note(f"run.json in {self.path} could not be updated: {full.strerror}")

    def load(self) -> dict[str, Any]:
        """Read run.json; raises InvalidInput if that fails, or if its format is not FORMAT."""
        path = self.path / "run.json"
        try:
            facts = read_object(path)
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInput("a readable run directory", f"{path}: {why(error)}", "see `testbed runs`") from error
        check_format(facts, FORMAT, path)
        return facts

    def save_config(self, node: str, files: Mapping[str, bytes]) -> None:
        """Save the rendered files of a node."""
        write_files(self.path / "config" / check_name(node), files)

    def save_result(self, name: str, data: Mapping[str, Any]) -> None:
        """Save the report of an agent."""
        replace(self.path / "results" / f"{check_name(name)}.json", strict_json.dumps(data) + "\n")

    def result(self, name: str) -> dict[str, Any] | None:
        """Read the report of an agent; ``None`` if it is missing or unreadable."""
        return self.checked_result(name, dict)

    def checked_result(self, name: str, read: Callable[[dict[str, Any]], R]) -> R | None:
        """Parse a report; ``None`` if it is missing, or ``read`` raises TypeError, ValueError or KeyError."""
        path = self.path / "results" / f"{check_name(name)}.json"
        try:
            report = read(read_object(path))
        except FileNotFoundError:
            return None
        except (OSError, TypeError, ValueError, KeyError, RecursionError) as error:
            self.leave_out(path, f"all of it ({why(error)})")
            return None
        self.leave_out(path, None)
        return report

    def leave_out(self, path: Path, what: str | None) -> None:
        """Record the unreadable part of a file; ``None`` clears the record."""
        self.left_out.pop(name := str(path.relative_to(self.path)), None)
        if what:
            self.left_out[name] = what

    @property
    def left_out_marks(self) -> tuple[str, ...]:
        """One sentence for each unreadable part of a file."""
        return tuple(f"left out, because it cannot be read: {what} of {name}" for name, what in self.left_out.items())

    def save_traceback(self, part: str, error: BaseException | None) -> None:
        """Save an error's traceback as <part>.traceback if there is room; ``None`` removes the file."""
        path = self.path / f"{part}.traceback"
        with suppress(OSError):
            if error is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")

    def write_log(self, node: str) -> IO[str]:
        """Open the log of a node for writing, compressed (a relay prints 600 bytes for each message)."""
        return gzip.open(
            self.path / "logs" / f"{check_name(node)}.log.gz", "wt", compresslevel=5, encoding="utf-8", newline="\n"
        )

    def log(self, node: str) -> Iterator[tuple[float, str]]:
        """Yield Unix time and text of each line of a node's log, up to the point where a crash truncated it."""
        path = self.path / "logs" / f"{check_name(node)}.log.gz"
        broken, cut = 0, ""
        try:
            with gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="\n") as lines:
                cut = "the end"
                for line in lines:
                    stamp, _, text = line.rstrip("\n").partition(" ")
                    if _UNIX_TIME.fullmatch(stamp):
                        yield float(stamp), text
                    else:
                        broken += 1
            cut = ""
        except FileNotFoundError:
            return
        except (OSError, EOFError, zlib.error):
            cut = cut or "all of it"
        self.leave_out(path, " and ".join(filter(None, [f"{broken} lines" if broken else "", cut])))

    def logs(self) -> list[str]:
        """Return the names of the nodes whose log was recorded."""
        return self.names("logs", ".log.gz")

    def names(self, part: str, end: str) -> list[str]:
        """Return the sorted names of a folder's files with the suffix ``end``, without this suffix."""
        folder = self.path / part
        try:
            files = sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            self.leave_out(folder, f"all of it ({error.strerror})")
            return []
        return [name.removesuffix(end) for name in files if name.endswith(end)]

    def write_series(self, name: str) -> IO[str]:
        """Open a time series for appending, line-buffered."""
        return (self.path / "series" / f"{check_name(name)}.jsonl").open("a", encoding="utf-8", buffering=1)

    def series(self, name: str, check: Callable[[dict[str, Any]], object] | None = None) -> list[dict[str, Any]]:
        """Read a time series; empty if it is missing. Lines without a time, or refused by ``check``, are left out."""
        path = self.path / "series" / f"{check_name(name)}.jsonl"
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            self.leave_out(path, f"all of it ({error.strerror})")
            return []
        points = [point for line in lines if (point := _point(line, check))]
        broken = len(lines) - len(points)
        self.leave_out(path, f"{broken} of {len(lines)} lines" if broken else None)
        return points


def _may_be_run(path: Path) -> bool:
    try:
        return (path / "run.json").is_file()
    except OSError:  # an unreadable folder: ``open`` reports it
        return True


class _Point(Kept):
    t: float


def _point(line: bytes, check: Callable[[dict[str, Any]], object] | None) -> dict[str, Any] | None:
    """Read one line of a series; ``None`` if it is invalid."""
    try:
        point: dict[str, Any] = strict_json.loads(line)
        _Point.model_validate(point)
        if check:
            check(point)
    except (ValueError, TypeError, RecursionError):
        return None
    return point
