"""What a plan will need, and what binds first."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import scenarios
from orchestrator.bed.model import parse_bed
from orchestrator.hosts.capacity import Check, read
from orchestrator.plan import Plan, make_plan
from orchestrator.runs.forecast import OWN_LIMIT, first_to_bind, forecast
from tests.unit.hosts.test_capacity import engine


def plan(**dns: object) -> Plan:
    """Work out a bed of one name server."""
    return make_plan(parse_bed({"name": "x", "nodes": {"dns": {"service": "bind", **dns}}}, "bed"), cpus=2)


READINGS = read(engine())
OVER = plan(release="bullseye", addresses=2560, settings={"listen": "lab", "workers": 2, "max_sockets": 4096})


def named(checks: list[Check], name: str) -> Check:
    """Return one check."""
    return next(check for check in checks if check.name == name)


def test_the_limit_of_a_daemon_binds_before_the_host() -> None:
    checks = forecast(READINGS, OVER)
    first = first_to_bind(checks)
    assert first
    assert (first.name, first.state) == (OWN_LIMIT, "warn")
    assert first.needed.endswith("(dns)")
    assert first.found == "4,096"


def test_what_a_scenario_provokes_is_wanted() -> None:
    found = named(forecast(READINGS, OVER, provoked={OWN_LIMIT}), OWN_LIMIT)
    assert (found.state, found.do) == ("wanted", "")


def test_the_own_rlimit_of_a_node_counts_too() -> None:
    limited = plan(limits={"nofile": 80})
    assert named(forecast(READINGS, limited), OWN_LIMIT).found == "80"
    assert OWN_LIMIT not in {check.name for check in forecast(READINGS, plan())}


@pytest.mark.parametrize(("rate", "state"), [(100.0, "ok"), (100_000.0, "warn")])
def test_ports_are_held_against_the_range_of_the_node(rate: float, state: str) -> None:
    found = named(forecast(READINGS, plan(), connections={"dns": rate}), "local ports to one address")
    assert (found.state, found.found) == (state, "64,512")
    assert found.share == pytest.approx(rate / 64_512)


@pytest.mark.parametrize("name", scenarios.known())
def test_what_a_scenario_names_is_there(name: str) -> None:
    scenario = scenarios.scenario(name)
    params = scenario.params()
    made = make_plan(scenario.bed(params), cpus=2)
    checks = forecast(READINGS, made, connections=scenario.connections(params))
    assert scenario.provokes <= {check.name for check in checks}


def test_nothing_binds_where_nothing_is_a_figure() -> None:
    assert first_to_bind([Check(name="x", needed="", found="", do="", state="ok")]) is None


LIMITS = st.one_of(st.none(), st.integers(64, 200))


@given(
    nofiles=st.lists(LIMITS, min_size=1, max_size=4),
    host=st.fixed_dictionaries({"nofile": st.integers(1, 5000), "neighbour_limit": st.integers(0, 20)}),
    neighbours=st.integers(0, 20),
    memory_mb=st.integers(0, 1000),
    rate=st.floats(0.1, 200_000),
)
def test_a_forecast_agrees_with_a_count_of_each_node(
    nofiles: list[int | None], host: dict[str, Any], neighbours: int, memory_mb: int, rate: float
) -> None:
    """Name servers with these limits of open files; ``neighbours``: entries of others in the table of the host."""
    nodes = {
        f"n{i}": {"service": "bind", "release": "bullseye", "limits": {"nofile": nofile}}
        for i, nofile in enumerate(nofiles)
    }
    made = make_plan(parse_bed({"name": "x", "nodes": nodes}, "bed"), cpus=2)
    readings = replace(
        READINGS, **host, neighbours=neighbours, neighbours_planned=0, memory_available_b=memory_mb << 20
    )
    checks = forecast(readings, made, connections={"n0": rate})
    files = {node.name: node.fds for node in made.nodes}
    assert _fits(checks, "open files of one process") == all(
        max(files[f"n{i}"], nofile or 0) <= host["nofile"] for i, nofile in enumerate(nofiles)
    )
    assert _fits(checks, OWN_LIMIT) == all(
        nofile is None or files[f"n{i}"] <= nofile for i, nofile in enumerate(nofiles)
    )
    pairs = sum(1 for a in nodes for b in nodes if a != b)
    assert _fits(checks, "entries in the kernel's neighbour table") == (
        pairs == 0 or neighbours + pairs <= host["neighbour_limit"]
    )
    assert _fits(checks, "memory, MiB") == (sum(node.memory_mb for node in made.nodes) <= memory_mb)
    assert _fits(checks, "local ports to one address") == (rate <= 64_512)
    first = first_to_bind(checks)
    assert first
    assert (first.state == "ok") == all(check.state == "ok" for check in checks if check.share is not None)


def _fits(checks: list[Check], name: str) -> bool:
    """Return whether no check of this name fails."""
    return all(check.state == "ok" for check in checks if check.name == name)
