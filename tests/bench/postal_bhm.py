"""What a message costs the harness: our generator and sink against postal and bhm, over the same relay bed.

::

    .venv/bin/python tests/bench/postal_bhm.py [--seconds 40] [--per-minute 9000] [--repeat 3]

In turn, each on a bed of its own, made from the same plan: 2,560 domains, BIND, Postfix, bodies of 2 KB, 10 messages a
connection, the same offered rate, below what the relay carries. CPU time is that of the two containers (their cgroups,
so that what the kernel does for them counts on both sides), from before the load until the relay's queue is empty; the
messages are those that the relay's own log calls sent. Exit code 1 when ours cost more than theirs.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from shlex import quote
from statistics import median
from tempfile import TemporaryDirectory

from orchestrator import beds, bringup, images, services
from orchestrator.cli.progress import Steps
from orchestrator.collect.recorder import Recorder
from orchestrator.collect.stats import point
from orchestrator.engine import ContainerSpec
from orchestrator.engine.docker import DockerEngine, connect
from orchestrator.live import Live
from orchestrator.model import Bed, Node
from orchestrator.ownership import NODE, Identity, Kind
from orchestrator.rundir import RunDir
from orchestrator.services import Role

IMAGE = "testbed/postal-bench:bookworm"
SIZE_KB = 2
USERS = "/run/users"
_BHM = rf"""sed s/^/user@/ /testbed/domains > {USERS}; cd /run; echo '"event": "listening"'; exec bhm -t 20 {USERS}"""
SWALLOW = f"sh -euc {quote(_BHM)}"
DRAIN_S = 120


class Swapped:
    """The engine, with bhm as the command of the sink, and the tools beside the agents in sink and load."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def create(self, spec: ContainerSpec) -> str:
        """Make a container; what a bed calls sink and load gets the tools."""
        if spec.labels.get(NODE) in {"sink", "load"}:
            spec = replace(spec, image=IMAGE)
        if spec.labels.get(NODE) == "sink":
            enter = spec.files["/testbed/enter"].decode()
            command = re.sub(r" -- env PYTHONPATH.*", lambda _: f" -- {SWALLOW}", enter)
            spec = replace(spec, files={**spec.files, "/testbed/enter": command.encode()})
        return self._engine.create(spec)


def bed() -> Bed:
    """Return the bed that both harnesses use.

    Mail leaves over IPv4, because bhm listens on nothing else. bhm's listen backlog is 10: a connection more that looks
    established to Postfix is none to bhm, and its greeting would be waited for 300 s.
    """
    base = beds.bed("relay")
    relay = Node(
        service="postfix", settings={"main_cf": {"smtp_address_preference": "ipv4", "smtp_helo_timeout": "5s"}}
    )
    return base.model_copy(update={"nodes": {**base.nodes, "relay": relay}})


def ours(live: Live, seconds: int, per_minute: int) -> None:
    """Send with our generator to our sink."""
    order = {"seconds": float(seconds), "rate": per_minute / 60, "sizes": [SIZE_KB * 1024], "connections": 20}
    live.send("relay", {"target": str(live.plan.node(Role.RELAY).v4), **order})


def theirs(live: Live, seconds: int, per_minute: int) -> None:
    """Send with postal; bhm is there already."""
    size, server = str(SIZE_KB), str(live.plan.node(Role.RELAY).v4)
    postal = f"postal -m {size} -M {size} -t 20 -c 10 -r {per_minute} {server} {USERS}"
    script = f"sed s/^/user@/ /testbed/domains > {USERS}; timeout {seconds} {postal} || test $? = 124"
    done = live.exec(live.plan.node(Role.LOAD), "sh", "-euc", script, timeout=seconds + 60)
    if done.status:
        raise SystemExit(f"postal: {done.stderr}")


def measure(engine: DockerEngine, drive: Callable[[Live, int, int], None], seconds: int, per_minute: int) -> float:
    """Return the CPU time of the harness for one message, in milliseconds."""
    wanted = bed()
    chosen = engine if drive is ours else Swapped(engine)
    with Steps() as steps, TemporaryDirectory() as scratch, ExitStack() as stack:
        rundir = RunDir.create(Path(scratch), "bench")
        identity = Identity.new(wanted, Kind.RUN)
        recorder = stack.enter_context(Recorder(engine, rundir))
        stack.push(lambda _kind, error, _at: bringup._take_down(engine, identity, recorder, steps, error))
        plan, networks = bringup._networks(engine, wanted, identity, engine.info().cpus)
        containers = bringup._start(chosen, plan, identity, networks, recorder)  # type: ignore[arg-type]
        live = Live(engine=engine, plan=plan, containers=containers, recorder=recorder, rundir=rundir)
        before = cpu_s(live)
        drive(live, seconds, per_minute)
        relay = live.plan.node(Role.RELAY)
        queue = services.queue_of(relay.service)
        deadline = time.monotonic() + DRAIN_S
        while queue and queue.length(live.exec(relay, *queue.command).stdout):
            if time.monotonic() > deadline:
                raise SystemExit("the relay does not drain: ask for fewer messages")
            recorder.died.wait(1)
            recorder.check()
        used = cpu_s(live) - before
        messages = sent(live)
    print(f"{drive.__name__:7} {messages:6} messages, {1000 * used / messages:.3f} ms of CPU each", flush=True)
    return 1000 * used / messages


def cpu_s(live: Live) -> float:
    """Return the CPU seconds that sink and load have used so far."""
    stats = (next(iter(live.engine.stats(live.containers[name]))) for name in ("sink", "load"))
    return sum(float(found["cpu_s"] or 0) for found in (point("", raw) for raw in stats) if found)


def sent(live: Live) -> int:
    """Count what the relay's log calls sent."""
    relay = live.plan.node(Role.RELAY)
    lines = ((line.t, line.text) for line in live.engine.logs(live.containers[relay.name], follow=False))
    log = services.read_log(relay.service, lines)
    return log.statuses.get("sent", 0) if log else 0


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description="CPU time of the harness for one message, against postal and bhm")
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--per-minute", type=int, default=9000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    engine = connect()
    images.ensure(engine, images.of(bed()), print)
    dockerfile = Path(__file__).with_name("postal.Dockerfile").read_bytes()
    subprocess.run(["docker", "build", "--quiet", "--tag", IMAGE, "-"], input=dockerfile, check=True)
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
