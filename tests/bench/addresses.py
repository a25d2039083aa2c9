"""How long thousands of real addresses on one node take, and whether they answer.

::

    .venv/bin/python -m tests.bench.addresses [--addresses 2560 20000 65535]

For each number: a bed with a sink that has so many addresses of either family beside its own, brought up by the
command. ``added`` is the time of the addresses alone, in a network namespace of their own; ``up`` that of the whole
command, to the moment when the sink serves. Then another node connects to the first, the last and 40 random ones, by
IPv4 and by IPv6. 65,535 take the whole range 198.18.0.0/15: no other bed may be up.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from ipaddress import IPv4Network
from pathlib import Path

from orchestrator.bed.addressing import twin
from orchestrator.bed.model import read_bed
from orchestrator.hosts import Host
from orchestrator.hosts.docker import connect
from orchestrator.plan import make_plan
from orchestrator.services.agents import PYTHON
from tests.integration.test_addresses import GREETED, added_in

TESTBED = str(Path(sys.executable).with_name("testbed"))
BARS = {2560: 0.5, 20_000: 4.0, 65_535: 20.0}
"""Number of addresses -> seconds in which they must be added."""
RANDOM = 40
BED = """
name: addresses
domains: 1
nodes:
  sink: {{service: blackhole, addresses: {addresses}}}
  load: {{service: smtp-load}}
"""


def measure(engine: Host, number: int) -> bool:
    """Bring one bed up, connect to some of its addresses, print the line; return whether the bar is met."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "addresses.yaml"
        path.write_text(BED.format(addresses=number + 1))
        began = time.monotonic()
        done = subprocess.run([TESTBED, "up", path, "--format", "json"], capture_output=True, text=True, check=False)
        up_s = time.monotonic() - began
        if done.returncode:
            raise SystemExit(done.stderr)
        facts = json.loads(done.stdout)
        try:
            node = make_plan(read_bed(path), subnet=IPv4Network(facts["subnet"]), cpus=1).named("sink")
            further = node.addresses[1:]
            some = [further[0], further[-1], *random.sample(further, RANDOM)]
            both = [str(a) for v4 in some for a in (v4, twin(v4))]
            greeting = [TESTBED, "exec", "--bed", facts["id"], "load", "--", *PYTHON, "-c", GREETED, *both]
            greeted = json.loads(subprocess.run(greeting, capture_output=True, text=True, check=True).stdout)
        finally:
            subprocess.run([TESTBED, "down", facts["id"]], capture_output=True, check=True)
    added_s, cpu_s = added_in(engine, node)
    answered = sum(greeted.values())
    print(
        f"{number:6,} addresses of each family: added in {added_s:.2f} s (bar {BARS[number]:g}; CPU {cpu_s:.2f} s), "
        f"up in {up_s:.1f} s; first, last and {RANDOM} random ones: {answered} of {len(both)} answer",
        flush=True,
    )
    return added_s <= BARS[number] and answered == len(both)


def main() -> None:
    """Run the bench; exit code 1 when a bar is not met."""
    parser = argparse.ArgumentParser(description="thousands of real addresses on one node")
    parser.add_argument("--addresses", type=int, nargs="+", choices=BARS, default=list(BARS))
    options = parser.parse_args()
    engine = connect()
    met = [measure(engine, number) for number in options.addresses]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
