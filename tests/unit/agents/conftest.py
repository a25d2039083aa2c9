"""A real sink in a process of its own, and loads against it."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from orchestrator.agents import control
from orchestrator.agents.contract import LoadOrder, LoadReport, SinkReport
from orchestrator.agents.histogram import decode
from orchestrator.agents.load import Load
from orchestrator.measurements.accounting import bitmap

DOMAINS = [f"d{i}.test" for i in range(8)]
PREFIX = "127.0.16.0/29"
"""Address i of it is domain i's, as on a bed's 198.18.x.0/20: all of 127.0.0.0/8 is this machine."""
_RUNS = (f"{n:08x}" for n in itertools.count(0xA0000000))


@dataclass
class Sink:
    """A sink that serves."""

    process: subprocess.Popen[str]
    port: int
    control: str
    heard: list[dict[str, Any]] = field(default_factory=list)
    """The lines that it has printed, as far as they were read."""

    def ask(self, *words: str) -> dict[str, Any]:
        """Send one request over its control socket."""
        answer: dict[str, Any] = control.ask(self.control, list(words))
        return answer

    def begin(self) -> str:
        """Begin a new run and return its id."""
        run = next(_RUNS)
        self.ask("begin", run)
        return run

    def report(self, run: str) -> SinkReport:
        """Ask what arrived."""
        return SinkReport.from_dict(self.ask("report", run))

    def next_line(self) -> dict[str, Any]:
        """Wait for the next line that it prints."""
        assert self.process.stdout is not None
        self.heard.append(json.loads(self.process.stdout.readline()))
        return self.heard[-1]


@contextmanager
def running_sink(folder: Path, *arguments: str, files: int | None = None) -> Iterator[Sink]:
    """Run a sink on loopback addresses, from the line that says it listens to its end, which has to come at once."""
    names = folder / "domains"
    names.write_text("\n".join(DOMAINS))
    path = str(folder / "control.sock")
    limit = [] if files is None else ["prlimit", f"--nofile={files}"]
    process = subprocess.Popen(
        [*limit, sys.executable, "-m", "orchestrator.agents.sink", "--port", "0", "--control", path, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        sink = Sink(process, 0, path)
        said = sink.next_line()
        assert said["event"] == "listening"
        sink.port = said["port"]
        yield sink
        process.terminate()
        assert process.wait(timeout=2) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    """Serve all tests with one sink: each has its own run in it."""
    hosts = ["127.0.0.1", "::1", *(f"127.0.16.{i}" for i in range(8))]
    folder = tmp_path_factory.mktemp("sink")
    listen = [word for host in hosts for word in ("--listen", host)]
    with running_sink(folder, *listen, "--domains", str(folder / "domains"), "--prefix", PREFIX) as started:
        yield started


@pytest.fixture(scope="session")
def slow_sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    """Serve with a sink that answers the end of the data after 100 ms."""
    settings = ("--settings", '{"data_delay_ms": 100}')
    with running_sink(tmp_path_factory.mktemp("slow"), "--listen", "127.0.0.1", *settings) as started:
        yield started


def start_load(order: LoadOrder) -> "subprocess.Popen[str]":
    """Start a generator in a process of its own; its order comes through standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.agents.load", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order.to_dict()))
    process.stdin.close()
    return process


def report_of(process: "subprocess.Popen[str]") -> Any:
    """Wait for the end of a generator and return its report."""
    assert process.stdout is not None
    lines = [json.loads(line) for line in process.stdout]
    process.stdout.close()
    assert process.wait(timeout=10) == 0
    return LoadReport.from_dict(lines[-1]["report"])


class Clock:
    """CLOCK_MONOTONIC as a load reads it: runs on, or stands, and leaps when the test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch, self._real = patch, time.monotonic_ns
        self._ahead = 0
        self._stands_at: int | None = None

    def __call__(self) -> int:
        """Return the time in ns."""
        return self._ahead + (self._real() if self._stands_at is None else self._stands_at)

    def stand(self) -> None:
        """Let no time pass from now on, but in leaps."""
        self._stands_at = self._real()

    def leap(self, seconds: float) -> None:
        """Let time pass at once."""
        self._ahead += int(seconds * 1e9)

    def leap_after(self, method: str, seconds: Callable[[Load], float]) -> None:
        """Let time pass after each call of a load's method."""
        original = getattr(Load, method)

        def call(load: Load, *args: Any) -> Any:
            result = original(load, *args)
            self.leap(seconds(load))
            return result

        self._patch.setattr(Load, method, call)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock of the loads in this process to the test."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr(time, "monotonic_ns", clock)
    return clock


def send(**order: Any) -> Any:
    """Carry a load out in this process; what is left out is small and quick."""
    full = LoadOrder.from_dict({"run": "a5a5a5a5", "target": "127.0.0.1", "domains": DOMAINS, "sizes": [600], **order})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Load(full).run())


def numbers(text: str) -> list[int]:
    """Return the sequence numbers of a set that travelled."""
    bits = bitmap(text)
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


def at(text: str, percentile: float) -> float:
    """Return a percentile of an encoded histogram in milliseconds."""
    return float(decode(text).get_value_at_percentile(percentile)) / 1000
