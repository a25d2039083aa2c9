"""The command `testbed` as a person or a script calls it: to its end, or watched and stopped on its way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from orchestrator.hosts import Found, Host
from orchestrator.hosts.ownership import ID, NODE, OWNER
from orchestrator.measurements.rundir import RunDir

T = TypeVar("T")

TESTBED = Path(sys.executable).with_name("testbed")
POLL_S = 0.01
"""How often a fact is looked for that nobody announces: a file, a device, an object of the engine."""


def call(*words: str | Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [TESTBED, *words],
        check=False,
        text=True,
        capture_output=True,
        timeout=timeout,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def answer(*words: str | Path, timeout: float = 120) -> Any:
    """Run a command that succeeds, and return the JSON that it prints for a script."""
    done = call(*words, "--format", "json", timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Watched:
    """A run that goes on: a fact of it can be waited for, so that it is stopped at a known moment."""

    def __init__(
        self, engine: Host, runs: Path, *words: str | Path, scenario: str = "relay-throughput", group: bool = False
    ) -> None:
        self._engine = engine
        self._runs = runs
        self.ids: set[str] = set()
        """The ids of all its beds that were seen: objects labelled with its process."""
        self.said = ""
        """What it has printed on standard error."""
        self.process = subprocess.Popen(
            [TESTBED, "run", scenario, "--runs", runs, *words],
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0 if group else None,
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said += line

    @property
    def rundir(self) -> RunDir | None:
        """Its run directory, once there is one."""
        return next((RunDir(path.parent) for path in self._runs.glob("*/run.json")), None)

    @property
    def found(self) -> list[Found]:
        """What the engine has of it now."""
        mine = [f for f in self._engine.find({OWNER: None}) if f.labels[OWNER].split("/")[3] == str(self.process.pid)]
        self.ids |= {f.labels[ID] for f in mine}
        return mine

    @property
    def nodes(self) -> dict[str, Found]:
        """Its nodes that the engine has now."""
        return {f.labels[NODE]: f for f in self.found if NODE in f.labels}

    def until(self, fact: Callable[["Watched"], T], seconds: float = 60) -> T:
        """Wait until a fact holds, and return it; a run that ends before has failed the test."""
        deadline = time.monotonic() + seconds
        while not (seen := fact(self)):
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.said}"
            assert time.monotonic() < deadline, f"not seen in {seconds} s: {fact}\n{self.said}"
            time.sleep(POLL_S)
        return seen

    def end(self, seconds: float = 120) -> int:
        """Wait for its end, and return the exit code; ``said`` is then whole."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(seconds)
        return code

    def output(self) -> str:
        """Return what it printed on standard output, once it has ended."""
        assert self.process.stdout
        return self.process.stdout.read()


def step(name: str) -> Callable[[Watched], bool]:
    """Name a fact: this step has ended well."""
    return lambda run: f"ok {name}" in run.said


def phase(name: str) -> Callable[[Watched], bool]:
    """Name a fact: the load of this name has begun, as the series in the run directory shows."""
    return lambda run: bool(run.rundir and any(tick["phase"] == name for tick in run.rundir.series("load")))
