"""How long `testbed up` takes, against starting the same four containers by hand.

::

    .venv/bin/python tests/bench/up.py [--repeat 5] [--bed mail]

In turn, so that both see the same machine:

- ``up``: the command, from its start to "a message to any domain will be delivered", with 2,560 domains; of bed
  ``mail``, to "each service answers".
- ``by hand``: what a person would write in a shell script for the same four containers: two networks, and for each
  container ``docker create`` with the same image, capabilities, sysctls and ports, ``network connect``, ``cp`` of
  the same files, ``start``. It delivers no message, and waits for no daemon but those of bed ``mail``: for the same
  log lines as ``up``. The bar is held against this one.
- ``bare``: four times ``docker run -d IMAGE sleep``, with none of that: what the engine takes at the very least.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from orchestrator import services
from orchestrator.bed import builtin, wiring
from orchestrator.bed.certificates import Authority
from orchestrator.hosts.docker import connect
from orchestrator.hosts.docker.api import archive
from orchestrator.hosts.helper import HELPER
from orchestrator.hosts.networks import choose_subnet
from orchestrator.plan import NodePlan, Plan, make_plan, subnet_prefix
from orchestrator.up.bringup import certificates

TESTBED = str(Path(sys.executable).with_name("testbed"))
BARS = {"relay": 1.5, "mail": 1.3}
MOST_S = {"mail": 3.0}
"""Bar of the median of ``up``, in seconds."""
NAME = "tb-bench-up"
PARENT = ("tbbenchp", "tbbenchq")


def docker(*words: str, data: bytes | None = None) -> str:
    """Run a docker command."""
    done = subprocess.run(["docker", *words], input=data, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"docker {' '.join(words)[:200]}: {done.stderr.decode()}")
    return done.stdout.decode().strip()


def on_the_host(script: str) -> None:
    """Run a line in the host's network namespace."""
    rights = ("--cap-drop", "ALL", "--cap-add", "NET_ADMIN")
    docker("run", "--rm", "--network", "host", *rights, HELPER, "sh", "-euc", script)


def up(plan: Plan) -> float:
    """Time the command, and take the bed down again."""
    began = time.monotonic()
    done = subprocess.run(
        [TESTBED, "up", plan.bed.name, "--name", NAME, "--format", "json"], capture_output=True, text=True, check=False
    )
    taken = time.monotonic() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    subprocess.run([TESTBED, "down", json.loads(done.stdout)["id"]], capture_output=True, check=True)
    return taken


def by_hand(plan: Plan) -> float:
    """Time the same four containers, made one after the other."""
    lab, control = f"{NAME}-lab", f"{NAME}-control"
    link = ["--internal", "-o", "com.docker.network.bridge.inhibit_ipv4=true"]
    if plan.bed.private:
        on_the_host("ip link add {0} type veth peer {1}; ip link set {0} up; ip link set {1} up".format(*PARENT))
        link = ["-d", "macvlan", "-o", f"parent={PARENT[0]}"]
    authority = Authority(plan.bed.name)
    try:
        began = time.monotonic()
        docker("network", "create", control)
        docker("network", "create", *link, "--subnet", str(plan.subnet), lab)
        for node in plan.nodes:
            name = f"{NAME}-{node.name}"
            docker("create", "--name", name, "--network", control, *_options(node), node.tag)
            docker("network", "connect", "--ip", str(node.v4), lab, name)
            files = {**node.files, **certificates(authority, plan, node)}
            docker("cp", "-", f"{name}:/", data=archive(files))
            docker("start", name)
        if plan.bed.name == "mail":
            for node in plan.nodes:
                _await(f"{NAME}-{node.name}", services.service(node.service).ready)
        return time.monotonic() - began
    finally:
        subprocess.run(["docker", "rm", "-f", *_names(plan)], capture_output=True, check=False)
        subprocess.run(["docker", "network", "rm", lab, control], capture_output=True, check=False)
        if plan.bed.private:
            on_the_host(f"ip link delete {PARENT[0]}")


def _await(container: str, line: re.Pattern[str]) -> None:
    """Wait for a line of a container's log."""
    with subprocess.Popen(
        ["docker", "logs", "--follow", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as log:
        assert log.stdout
        if not any(line.search(text) for text in log.stdout):
            raise SystemExit(f"{container} ended before {line.pattern}")
        log.terminate()


def bare(plan: Plan) -> float:
    """Time four containers that do nothing."""
    try:
        began = time.monotonic()
        for name, node in zip(_names(plan), plan.nodes, strict=True):
            docker("run", "-d", "--name", name, node.tag, "sleep", "100")
        return time.monotonic() - began
    finally:
        subprocess.run(["docker", "rm", "-f", *_names(plan)], capture_output=True, check=False)


def _names(plan: Plan) -> list[str]:
    return [f"{NAME}-{node.name}" for node in plan.nodes]


def _options(node: NodePlan) -> list[str]:
    options = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--entrypoint", node.command[0]]
    for capability in (*node.capabilities, *wiring.SETUP_CAPABILITIES):
        options += ["--cap-add", capability]
    for name, value in node.sysctls.items():
        options += ["--sysctl", f"{name}={value}"]
    for port in node.publish:
        options += ["--publish", f"127.0.0.1::{port}"]
    return options


def main() -> None:
    """Run the bench; exit code 1 when the bar is not met."""
    parser = argparse.ArgumentParser(description="testbed up, against the same four containers by hand")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--bed", choices=BARS, default="relay")
    options = parser.parse_args()
    engine, bed = connect(), builtin.bed(options.bed)
    bar, most_s = BARS[options.bed], MOST_S.get(options.bed, float("inf"))
    ways: dict[str, Callable[[Plan], float]] = {"up": up, "by hand": by_hand, "bare": bare}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeat):
        plan = make_plan(bed, subnet=choose_subnet(engine, subnet_prefix(bed), bed.subnet), cpus=engine.info().cpus)
        for name, way in ways.items():
            seconds[name].append(way(plan))
    for name, taken in seconds.items():
        print(f"{name:8} median {median(taken):.2f} s, from {min(taken):.2f} to {max(taken):.2f}, {len(taken)} times")
    ratio, least = (median(seconds["up"]) / median(seconds[name]) for name in ("by hand", "bare"))
    print(f"up / by hand: {ratio:.2f} (at most {bar}); up / bare: {least:.2f}")
    sys.exit(ratio > bar or median(seconds["up"]) > most_s)


if __name__ == "__main__":
    main()
