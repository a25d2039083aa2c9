"""Whatever stops a run on the real engine, it says so, and nothing of its bed is left."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from orchestrator.hosts import Host
from orchestrator.hosts.docker import DockerHost
from tests.integration.command import Watched, call, phase, step
from tests.integration.traces import DEVICES, traces

pytestmark = pytest.mark.docker

Start = Callable[..., Watched]
SMALL = ("--domains", "16", "--calibration", "1", "--rate", "300")


@pytest.fixture
def start(real_engine: Host, tmp_path: Path) -> Iterator[Start]:
    """Start runs; those that a failed test leaves behind are ended."""
    started: list[Watched] = []

    def run(*words: str) -> Watched:
        started.append(Watched(real_engine, tmp_path / str(len(started)), *SMALL, *words))
        return started[-1]

    yield run
    for going in started:
        if going.process.poll() is None:
            going.process.terminate()
            going.end()


# -------------------------------------------------------------------------------------------------------- it says so


def test_a_node_that_dies_ends_the_run_at_once(real_engine: Host, start: Start) -> None:
    run = start("--seconds", "120")
    run.until(phase("relay"))
    killed = time.monotonic()
    cast("DockerHost", real_engine)._clients.here.kill(run.nodes["relay"].id)
    assert run.end() == 3, run.said
    assert time.monotonic() - killed < 20
    shown = run.output()
    assert shown.lstrip().startswith("INCONCLUSIVE")
    assert "node relay running" in shown
    assert "status 137" in shown
    assert " relay postfix/" in shown  # the end of its log
    assert "Traceback" not in run.said
    assert run.rundir
    facts = run.rundir.load()
    assert facts["status"] == "failed"
    assert " relay postfix/" in facts["error"]["found"]
    assert run.rundir.series("stats")
    assert traces(real_engine, run.ids) == []


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGINT, phase("calibration"), id="SIGINT under load"),
        pytest.param(signal.SIGTERM, step("make its networks"), id="SIGTERM while the nodes start"),
    ],
)
def test_a_signal_ends_the_run_and_takes_the_bed_down(
    real_engine: Host, start: Start, number: signal.Signals, moment: Callable[[Watched], bool]
) -> None:
    run = start("--seconds", "120")
    run.until(moment)
    assert run.found
    run.process.send_signal(number)
    assert run.end(60) == 130, run.said
    assert f"interrupted ({number.name})" in run.said
    assert "Traceback" not in run.said
    assert run.rundir
    assert run.rundir.load()["status"] == "interrupted"
    assert traces(real_engine, run.ids) == []


# ---------------------------------------------------------------------------------------------- it can say nothing more


def has_network(part: str) -> Callable[[Watched], bool]:
    return lambda run: any(f.kind == "network" and f.name.endswith(part) for f in run.found)


def has_helper(run: Watched) -> bool:
    """See the one-shot container that makes the veth pair (the look at the host has one, too)."""
    return any("-helper-" in f.name and f.labels["testbed.bed"] != "helper" for f in run.found)


def has_pair(run: Watched) -> bool:
    return bool(run.found) and any((DEVICES / f"tb{bed}p").exists() for bed in run.ids)


def has_container(run: Watched) -> bool:
    return bool(run.nodes)


def has_running_node(run: Watched) -> bool:
    return any(node.state == "running" for node in run.nodes.values())


def drains(run: Watched) -> bool:
    return bool(run.rundir and run.rundir.result("relay-load"))


def lost_its_nodes(run: Watched) -> bool:
    """See the take-down: the run directory has the end of the drain, and no node is there any more."""
    return bool(run.rundir and run.rundir.result("relay-queue")) and not run.nodes


MOMENTS = {
    "its control network is there": has_network("-control"),
    "the helper that makes the veth pair is there": has_helper,
    "the veth pair is there": has_pair,
    "the first node is made": has_container,
    "a node runs, and others start": has_running_node,
    "the probe is on its way": step("start 4 nodes"),
    "load goes straight to the sink": phase("calibration"),
    "load goes through the relay": phase("relay"),
    "the relay drains": drains,
    "its nodes have been taken down": lost_its_nodes,
}
SHORT = {"the helper that makes the veth pair is there", "a node runs, and others start", "load goes through the relay"}
"""One moment of each kind; the others are for `make test-all`."""


def kill(run: Watched) -> None:
    """End the orchestrator without a word, at this moment."""
    run.process.kill()
    assert run.end() == -signal.SIGKILL
    assert run.found, "nothing was left: the moment has passed"


@pytest.mark.alone
@pytest.mark.parametrize(
    "moment",
    [pytest.param(m, id=name, marks=() if name in SHORT else pytest.mark.long) for name, m in MOMENTS.items()],
)
def test_nothing_is_left_of_a_killed_run_after_a_clean(
    real_engine: Host, start: Start, moment: Callable[[Watched], bool]
) -> None:
    run = start("--seconds", "2")
    run.until(moment)
    kill(run)
    done = call("clean", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert {bed["id"] for bed in json.loads(done.stdout)["kept"]}.isdisjoint(run.ids)
    assert traces(real_engine, run.ids) == []


@pytest.mark.alone
def test_the_next_run_names_and_removes_what_a_killed_one_left(real_engine: Host, start: Start) -> None:
    killed = start("--seconds", "2")
    killed.until(step("start 4 nodes"))
    left = {node.labels["testbed.id"] for node in killed.nodes.values()}.pop()
    kill(killed)
    following = start()
    following.until(step("look at the host"))
    assert f"removing relay {left}, left by a command that has ended" in following.said
    assert traces(real_engine, killed.ids) == []
    following.process.terminate()
    assert following.end() == 130, following.said
