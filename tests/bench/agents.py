"""How fast and how dear the generator and the sink are: ``python tests/bench/agents.py``.

Straight over loopback, each in a process of its own, accounting and histograms on, 2 KiB bodies:

- ``pair``        as fast as it goes, 10 messages over each connection
- ``one each``    the shape of a relay run: a connection, EHLO and QUIT for every message
- ``spread``      the shape of a calibration: 256 addresses, mail of one domain over each connection
- ``libraries``   aiosmtplib into aiosmtpd, in this same run: the ratio shows why the load path is our own
- ``histogram``   what one duration costs, counted our way and by the library
- ``memory``      a million messages: what the sink's process grew by (``--million``; takes a minute)

CPU is of each process, user and system. A figure is the median of several repetitions, with the lowest and highest.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiosmtplib
import uvloop
from aiosmtpd.controller import UnthreadedController

from orchestrator.agents import control
from orchestrator.agents.content import Content
from orchestrator.agents.contract import LoadOrder, LoadReport, SinkReport
from orchestrator.agents.histogram import Histogram
from orchestrator.agents.ledger import Books
from orchestrator.agents.wire import Composer

POSTAL = 24_576 / 60
"""Messages a second: the most that postal can send, whatever the receiver (tokens in its source)."""
DOMAINS = [f"d{i}.test" for i in range(256)]
PREFIX = "127.0.16.0/24"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One repetition."""

    rate: float
    """Messages a second."""
    generator_us: float
    """CPU for each message."""
    sink_us: float


@contextmanager
def our_sink(folder: Path, *more: str) -> Iterator[tuple[int, str]]:
    """Run our sink; yields its port and its control socket."""
    path = str(folder / "control.sock")
    names = folder / "domains"
    names.write_text("\n".join(DOMAINS))
    words = ["-m", "orchestrator.agents.sink", "--port", "0", "--control", path, "--domains", str(names), *more]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["port"], path
        finally:
            process.terminate()


def our_pair(**order: Any) -> Generator[Reading, None, None]:
    """Send the same load again and again; every message has to arrive."""
    hosts = ["127.0.0.1"] if "target" not in order else [f"127.0.16.{i}" for i in range(256)]
    listen = [word for host in hosts for word in ("--listen", host)]
    if len(hosts) > 1:
        listen += ["--prefix", PREFIX]
    with tempfile.TemporaryDirectory() as folder, our_sink(Path(folder), *listen) as (port, path):
        for n in range(1 << 32):
            run = f"{n:08x}"
            control.ask(path, ["begin", run])
            full = LoadOrder.from_dict({"run": run, "target": "127.0.0.1", "port": port, "domains": DOMAINS, **order})
            said = load(full)
            report = SinkReport.from_dict(control.ask(path, ["report", run]))
            lost = said.offered - report.delivered
            if lost or report.duplicated or report.corrupted or report.misrouted or report.foreign:
                raise SystemExit(f"not every message arrived as it should: {report}")
            yield Reading(
                rate=said.accepted / (said.ended - said.started),
                generator_us=said.cpu_s / said.accepted * 1e6,
                sink_us=report.cpu_s / said.accepted * 1e6,
            )


def load(order: LoadOrder) -> Any:
    """Carry a load out in a process of its own."""
    words = [sys.executable, "-m", "orchestrator.agents.load", "-"]
    done = subprocess.run(words, input=json.dumps(order.to_dict()), capture_output=True, text=True, check=True)
    return LoadReport.from_dict(json.loads(done.stdout.splitlines()[-1])["report"])


class Discard:
    """What aiosmtpd hands each message to."""

    def __init__(self) -> None:
        self.books = Books()
        self.books.begin("00000000")

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        """Account for a message as our sink does."""
        content = Content()
        content.feed(envelope.content + b".\r\n")
        self.books.enter(content, (), None)
        return "250 2.0.0 Ok"


def library_sink() -> None:
    """Run aiosmtpd until standard input ends; prints its port, and the CPU it took."""
    loop = uvloop.new_event_loop()
    made = UnthreadedController(Discard(), hostname="127.0.0.1", port=0, loop=loop)
    made.begin()  # type: ignore[no-untyped-call]
    cpu = time.process_time()
    print(cast("asyncio.Server", made.server).sockets[0].getsockname()[1], flush=True)
    loop.add_reader(sys.stdin.fileno(), loop.stop)
    loop.run_forever()
    print(time.process_time() - cpu, flush=True)


def library_pair(messages: int) -> Generator[Reading, None, None]:
    """Send a load with aiosmtplib into aiosmtpd: 20 connections at a time, 10 messages over each."""
    composer = Composer("00000000", "load@d0.test", DOMAINS, [2048])

    async def connection(port: int, numbers: list[int]) -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False) as client:
            for seq in numbers:
                now = time.monotonic_ns()
                letter = composer.letter(seq, seq % 256, now, now)
                await client.sendmail("load@d0.test", f"user@{DOMAINS[seq % 256]}", letter)

    async def worker(port: int, work: Iterator[list[int]]) -> None:
        for numbers in work:
            await connection(port, numbers)

    async def all_of_it(port: int) -> None:
        work = iter([list(range(first, first + 10)) for first in range(0, messages, 10)])
        await asyncio.gather(*(worker(port, work) for _ in range(20)))

    while True:
        words = [sys.executable, __file__, "--library-sink"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            port = int(process.stdout.readline())
            cpu, began = time.process_time(), time.monotonic()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(all_of_it(port))
            ended = time.monotonic()
            generator = time.process_time() - cpu
            process.stdin.close()
            sink = float(process.stdout.readline())
        yield Reading(
            rate=messages / (ended - began), generator_us=generator / messages * 1e6, sink_us=sink / messages * 1e6
        )


def show(name: str, readings: list[Reading]) -> float:
    """Print one line of the table and return the median rate."""
    columns = []
    for attribute in ("rate", "generator_us", "sink_us"):
        values = [getattr(reading, attribute) for reading in readings]
        columns.append(f"{statistics.median(values):8,.0f} ({min(values):,.0f} to {max(values):,.0f})".ljust(30))
    print(f"{name:<12}" + "".join(columns))
    return statistics.median(reading.rate for reading in readings)


def histogram_cost() -> None:
    """Print what it costs to count one duration."""
    ours, library = Histogram(), Histogram().library()
    values = [int(1_000 * 1.0137**n) for n in range(1000)]

    def count_ours() -> None:
        for ns in values:
            ours.record_ns(ns)

    def count_library() -> None:
        for ns in values:
            library.record_value(ns // 1000)

    ours_us = min(timeit.repeat(count_ours, number=20, repeat=5)) * 50
    library_us = min(timeit.repeat(count_library, number=20, repeat=5)) * 50  # 20 times 1,000 values
    encoding_ms = min(timeit.repeat(ours.encode, number=1, repeat=5)) * 1e3
    print(f"histogram   {ours_us:.2f} us for each duration; the library {library_us:.2f}; text {encoding_ms:.1f} ms")


def million() -> None:
    """Print what a million messages cost the sink's process in memory."""
    with tempfile.TemporaryDirectory() as folder, our_sink(Path(folder), "--listen", "127.0.0.1") as (port, path):
        control.ask(path, ["begin", "00000000"])
        base = SinkReport.from_dict(control.ask(path, ["report", "00000000"])).memory_b
        control.ask(path, ["begin", "00000001"])
        order = LoadOrder(
            run="00000001", target="127.0.0.1", port=port, domains=DOMAINS, messages=1_000_000, sizes=[200]
        )
        said = load(order)
        report = SinkReport.from_dict(control.ask(path, ["report", "00000001"]))
    grown = (report.memory_b - base) / 1e6
    text = len(json.dumps(report.to_dict()))
    print(
        f"memory      {report.delivered:,} messages delivered, {report.duplicated} duplicated; the sink's process grew "
        f"by {grown:.2f} MB, from {base / 1e6:.1f} MB (needed: under 50); its report is {text:,} characters; "
        f" {said.accepted / (said.ended - said.started):,.0f}/s"
    )


def main() -> None:
    """Measure, in turns, so that a machine that grows busy slows all alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--messages", type=int, default=20_000, help="of one repetition")
    parser.add_argument("--million", action="store_true", help="the memory of a million messages, too")
    parser.add_argument("--library-sink", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.library_sink:
        library_sink()
        return
    subjects = {
        "pair": our_pair(messages=options.messages),
        "one each": our_pair(messages=options.messages // 2, per_connection=1),
        "spread": our_pair(messages=options.messages, target=PREFIX),
        "libraries": library_pair(options.messages // 10),
    }
    readings: dict[str, list[Reading]] = {name: [] for name in subjects}
    for _ in range(options.repeat):
        for name, subject in subjects.items():
            readings[name].append(next(subject))
    print(
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}; {options.repeat} times"
    )
    print(f"{'':<12}{'messages/s':<30}{'generator, CPU us/message':<30}{'sink, CPU us/message':<30}")
    rates = {name: show(name, found) for name, found in readings.items()}
    print(
        f"pair: {rates['pair'] / POSTAL:.0f} times the ceiling of postal (needed: 10), "
        f"{rates['pair'] / rates['libraries']:.1f} times the libraries"
    )
    dear = [r.generator_us + r.sink_us for r in readings["one each"]]
    print(f"one each: {statistics.median(dear) / 1000:.3f} ms CPU for each message, both sides (postal and bhm: 0.55)")
    histogram_cost()
    if options.million:
        million()
    for subject in subjects.values():
        subject.close()


if __name__ == "__main__":
    main()
