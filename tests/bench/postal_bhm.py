"""What a message costs the harness: our generator and sink against postal and bhm, over the same relay bed.

::

    .venv/bin/python tests/bench/postal_bhm.py [--seconds 20] [--per-minute 24000] [--repeat 3]

In turn, each on a bed of its own, made from the same plan: 2,560 domains, BIND, Postfix, bodies of 2 KB, 10 messages a
connection, the same offered rate: by default about what the relay takes, and what postal sends at most. CPU time is
that of the two containers (their cgroups, so that what the kernel does for them counts on both sides), from before the
load until the relay's queue is empty; the messages are those that the relay's own log calls sent. Exit code 1 when ours
cost more than theirs.

Far below that rate nearly all of the cost is waking up, which costs an interpreter more: at 9,000 a minute ours are the
dearer ones. At 24,000 bhm is the slower sink by far (a listen backlog of 10): a run of theirs takes two minutes.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from orchestrator import services
from orchestrator.agents.contract import LoadOrder
from orchestrator.bed import builtin
from orchestrator.bed.model import Bed, NodeSpec
from orchestrator.cli.progress import Steps
from orchestrator.hosts import images
from orchestrator.hosts.docker import DockerHost, connect
from orchestrator.hosts.ownership import Identity, Kind
from orchestrator.measurements.rundir import RunDir
from orchestrator.up import bringup
from orchestrator.up.bed import RecordedBed
from orchestrator.up.collect.recorder import Recorder
from orchestrator.up.collect.stats import point

SIZE_KB = 2
DRAIN_S = 600.0


def bed(*, others: bool) -> Bed:
    """Return the bed: with our generator and sink, or with postal and bhm.

    Mail leaves over IPv4 in both, because bhm listens on nothing else.
    """
    base = builtin.bed("relay")
    nodes = {
        **base.nodes,
        "relay": NodeSpec(service="postfix", settings=dict(services.service("bhm").relays["postfix"])),
    }
    if others:
        nodes |= {"sink": NodeSpec(service="bhm"), "load": NodeSpec(service="postal")}
    return base.model_copy(update={"nodes": nodes})


def order(seconds: int, per_minute: int) -> LoadOrder:
    """Return the load, the same for both."""
    return LoadOrder(seconds=float(seconds), rate=per_minute / 60, sizes=[SIZE_KB * 1024], connections=20)


def ours(running: RecordedBed, seconds: int, per_minute: int) -> None:
    """Send with our generator to our sink."""
    running.send("relay", order(seconds, per_minute))


def theirs(running: RecordedBed, seconds: int, per_minute: int) -> None:
    """Send with postal; bhm is there already."""
    report = running.send("relay", order(seconds, per_minute)).report
    if not report.cut_off:
        raise SystemExit(f"postal ended with {report.exit_status}: {report.printed}")


def measure(engine: DockerHost, drive: Callable[[RecordedBed, int, int], None], seconds: int, per_minute: int) -> float:
    """Return the CPU time of the harness for one message, in milliseconds."""
    wanted = bed(others=drive is theirs)
    steps = Steps()
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        rundir = RunDir.create(Path(scratch), "bench")
        identity = Identity.new(wanted, Kind.RUN)
        recorder = stack.enter_context(Recorder(rundir))
        stack.push(lambda _kind, error, _at: bringup._take_down(engine, identity, recorder, steps, error))
        plan, networks = bringup._networks(engine, wanted, identity, engine.info().cpus)
        nodes = bringup._start(engine, plan, identity, networks, recorder, engine.info().cpus)
        running = RecordedBed(host=engine, plan=plan, nodes=nodes, recorder=recorder, rundir=rundir)
        before = cpu_s(running)
        drive(running, seconds, per_minute)
        # drain() asks our sink again and again, which would count as its CPU time
        if not running.until(lambda: running.relay.queue_length() == 0, DRAIN_S):
            raise SystemExit("the relay does not drain: ask for fewer messages")
        used = cpu_s(running) - before
        messages = sent(running)
    print(f"{drive.__name__:7} {messages:6} messages, {1000 * used / messages:.3f} ms of CPU each", flush=True)
    return 1000 * used / messages


def cpu_s(running: RecordedBed) -> float:
    """Return the CPU seconds that sink and load have used so far."""
    stats = (next(iter(running.nodes[name].container.stats())) for name in ("sink", "load"))
    return sum(float(found["cpu_s"] or 0) for found in (point("", raw) for raw in stats) if found)


def sent(running: RecordedBed) -> int:
    """Count what the relay's log calls sent."""
    relay = running.relay.node
    log = services.service(relay.plan.service).read_log((line.t, line.text) for line in relay.log())
    return log.statuses.get("sent", 0) if log else 0


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description="CPU time of the harness for one message, against postal and bhm")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--per-minute", type=int, default=24_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    engine = connect()
    for others in (False, True):
        images.ensure(engine, images.needed_by(bed(others=others)), print)
    costs: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(options.repeat):
        for drive in (ours, theirs):
            costs[drive.__name__].append(measure(engine, drive, options.seconds, options.per_minute))
    for name, found in costs.items():
        print(f"{name:7} median {median(found):.3f} ms, from {min(found):.3f} to {max(found):.3f}")
    ratio = median(costs["ours"]) / median(costs["theirs"])
    print(f"ours / theirs: {ratio:.2f} (at most 1)")
    sys.exit(ratio > 1)


if __name__ == "__main__":
    main()
