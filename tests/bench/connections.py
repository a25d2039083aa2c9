"""Does a run find the number of connections that a slow relay needs?

::

    .venv/bin/python -m tests.bench.connections [--wait 0.5] [--runs runs]

A policy service in the relay waits 500 ms for each recipient. The default run finds a number; then each number from
20 to 640 is measured for itself, with a second load over the same processes, in a bed of its own. Holds if the number
that was found carries at least 80 % of the best one, and 20 connections carry under half of it.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from orchestrator.cli.progress import Steps
from orchestrator.hosts import docker
from orchestrator.hosts.ownership import Identity, Kind
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.scenarios.relay_throughput import SCENARIO
from orchestrator.scenarios.relay_throughput.params import Params
from orchestrator.up.bringup import bring_up
from tests.integration import slow_relay

NUMBERS = (20, 40, 80, 160, 320, 640)
DOMAINS = 256


def sweep(runs: Path, wait_s: float, seconds: float) -> dict[int, float]:
    """Return messages a second, the drain included, by number of connections."""
    engine, params = docker.connect(), Params(domains=DOMAINS, relay=slow_relay.NAME)
    rundir = RunDir.create(runs, "sweep-of-connections")
    steps = Steps()
    with slow_relay.known(wait_s), ExitStack() as stack:
        bed, cpus = SCENARIO.bed(params), engine.info().cpus
        identity = Identity.new(bed, Kind.RUN)
        running = bring_up(engine, bed, identity, rundir=rundir, steps=steps, stack=stack, cpus=cpus)
        for number in NUMBERS:
            for part, lasts in (("warm-up", 1.0 + number / 160), ("load", seconds)):
                running.send(f"{part}-{number}", params.order(lasts, number)).drain(60)
    rundir.save({"scenario": "relay-throughput"})
    measured = Measurements.read(rundir, logs=False)
    return {number: measured.delivered_per_s(f"load-{number}") or 0.0 for number in NUMBERS}


def main() -> None:
    """Measure both, and print the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--wait", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    finished = slow_relay.run(options.runs, wait_s=options.wait, domains=DOMAINS, seconds=10.0)
    found = int((finished.rundir.result("connections") or {})["connections"])
    print(f"{finished.verdict.outcome}: {finished.verdict.headline}")
    for row in finished.verdict.tables[0].rows:
        print("  probe:", *(cell if isinstance(cell, str) else f"{cell:,.0f}" for cell in row if cell is not None))
    rates = sweep(options.runs, options.wait, options.seconds)
    for number, rate in rates.items():
        print(f"  sweep: {number:4,} connections, {rate:6,.0f} messages a second")
    best = max(rates.values())
    share, few = rates[found] / best, rates[NUMBERS[0]] / rates[found]
    holds = "holds" if share >= 0.8 and few < 0.5 else "FAILS"
    print(f"{holds}: {found} connections found, {share:.0%} of the best; {NUMBERS[0]} carry {few:.0%} of that")


if __name__ == "__main__":
    main()
