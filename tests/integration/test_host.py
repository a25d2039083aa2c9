"""The host as it is: what the helpers read is what the kernel says, and they leave nothing."""

from pathlib import Path

import pytest

from orchestrator.bed.cpu_topology import parse
from orchestrator.hosts import capacity, docker

pytestmark = pytest.mark.docker


def devices() -> set[str]:
    return {path.name for path in Path("/sys/class/net").glob("tb[012]")}


def test_a_reading_agrees_with_the_kernel() -> None:
    engine = docker.connect()
    if engine.info().kernel != Path("/proc/sys/kernel/osrelease").read_text().strip():
        pytest.skip("the engine runs on another machine")
    before = devices()
    readings = capacity.read(engine)
    limit = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
    assert readings.neighbour_limit == (int(limit.read_text()) if limit.exists() else None)
    assert readings.lacks == ()
    assert 0 < readings.memory_available_b <= readings.engine.memory_b
    assert readings.nofile >= 1024
    assert devices() == before
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    assert readings.topology.known == siblings.exists()
    if siblings.exists() and 0 in readings.topology.threads:
        assert set(readings.topology.cores[0]) <= set(parse(siblings.read_text()))


def test_what_a_kernel_lacks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = capacity._TRY.replace("type macvlan", "type nosuchdevice").replace("hook ingress", "hook nosuchhook")
    monkeypatch.setattr(capacity, "_TRY", tries)
    assert capacity.read(docker.connect()).lacks == ("macvlan", "nf_tables (ingress)")
