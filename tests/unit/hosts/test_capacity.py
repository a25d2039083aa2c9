"""What is read of a host, and what is held against it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bed.cpu_topology import Topology
from orchestrator.errors import EngineFailed, HostCannot
from orchestrator.hosts import ContainerSpec, Output, capacity
from orchestrator.hosts.capacity import Readings
from orchestrator.plan import HostNeeds
from tests.unit.hosts.fake import FakeHost

NEIGHBOURS = (
    "entries  allocs   destroys hash_grows lookups  hits     res_failed rcv_probes_mcast rcv_probes_ucast "
    "periodic_gc_runs forced_gc_runs unresolved_discards table_fulls "
    "000003fa 00000031 00000016 00000000   0000011b 0000001d 00000000   00000000         00000000         "
    "00000163         00000000       00000000            00000000 "
    "000003fa 00000028 00000041 00000000   0000016a 00000041 00000000   00000000         00000000         "
    "00000000         00000000       00000000            00000000 "
)
"""/proc/net/stat/arp_cache, kernel 6.18, two CPUs; its lines joined."""

READING = f"""gc_thresh1\t128 \ngc_thresh2\t512 \ngc_thresh3\t1024
ip_local_port_range\t32768\t60999 \nnf_conntrack_max\t
neighbours\t{NEIGHBOURS}
meminfo\tMemTotal:       24684096 kB MemFree:        23469720 kB MemAvailable:   23948792 kB
nofile\t20000\ndisk\t5242880 4096\ncpu\t AMD EPYC\nallowed\t0-1\ntopology\t0 0 0;1 1 0;
"""


def engine(reading: str = READING, tried: str = "", status: int = 0) -> FakeHost:
    def answer(spec: ContainerSpec, _command: tuple[str, ...]) -> Output:
        return Output(status=status, stdout=reading if spec.host_network else tried, stderr="no shell")

    return FakeHost(answer)


def needs(*, fds: int = 0, neighbours: int = 0, memory: int = 0, cpus: float = 0, ipv6: bool = False) -> HostNeeds:
    return HostNeeds(
        macvlan=True,
        containers=4,
        addresses=8,
        neighbour_entries=neighbours,
        fds=fds,
        memory_mb=memory,
        cpus=cpus,
        ipv6=ipv6,
    )


def states(readings: Readings, wanted: HostNeeds) -> list[str]:
    return [check.state for check in capacity.check(readings, wanted)]


def test_a_host_is_read() -> None:
    assert capacity.read(engine()) == Readings(
        engine=engine().info(),
        cpu="AMD EPYC",
        topology=Topology(cores=((0,), (1,)), sockets=((0, 1),), known=True),
        memory_available_b=23948792 * 1024,
        nofile=20000,
        ipv6=True,
        lacks=(),
        neighbour_limit=1024,
        neighbours=0x3FA,
        neighbours_planned=0,
        sysctls={
            "gc_thresh1": "128",
            "gc_thresh2": "512",
            "gc_thresh3": "1024",
            "ip_local_port_range": "32768 60999",
        },
        disk_free_b=20 << 30,
    )


def test_an_engine_that_hides_much_of_its_host_is_read_as_far_as_it_goes() -> None:
    readings = capacity.read(engine("nofile\tunlimited\ngc_thresh3\t\nallowed\t\ntopology\t0  ;1  ;\n"))
    assert (readings.topology.known, readings.neighbour_limit, readings.neighbours) == (False, None, 0)
    assert readings.nofile > 1 << 20
    assert states(readings, needs(neighbours=1_000_000, fds=1_000_000)) == ["ok", "ok", "warn", "ok", "ok"]


def test_a_helper_that_cannot_run_is_told() -> None:
    with pytest.raises(EngineFailed, match="no shell"):
        capacity.read(engine(status=127))


def test_helpers_ask_for_no_more_than_they_need() -> None:
    asked: list[ContainerSpec] = []

    def answer(spec: ContainerSpec, _command: tuple[str, ...]) -> Output:
        asked.append(spec)
        return Output(status=0, stdout=READING if spec.host_network else "", stderr="")

    capacity.read(FakeHost(answer))
    assert sorted((spec.host_network, spec.capabilities) for spec in asked) == [(False, ("NET_ADMIN",)), (True, ())]
    assert all("testbed.owner" in spec.labels for spec in asked), "so that a clean-up finds them"


@given(st.integers(0, 1 << 24), st.integers(0, 1 << 24))
def test_what_is_there_is_enough_up_to_the_last_one(needed: int, found: int) -> None:
    readings = replace(
        capacity.read(engine()), nofile=found, neighbours=7, neighbour_limit=found + 7, memory_available_b=found << 20
    )
    enough = needed <= found
    assert states(readings, needs(fds=needed, neighbours=needed, memory=needed)) == [
        "ok",
        *(["ok"] * 3 if enough else ["fail", "fail", "warn"]),
        "ok",
    ]


def test_a_host_without_ipv6_carries_a_bed_that_asks_for_none() -> None:
    without = capacity.read(engine(f"{READING}ipv6\tno\n"))
    assert (without.ipv6, {"fail"} & set(states(without, needs()))) == (False, set())
    (failed,) = (check for check in capacity.check(without, needs(ipv6=True)) if check.state == "fail")
    assert (failed.name, failed.found) == ("IPv6 in the kernel", "no: /proc/sys/net/ipv6 is not there")
    assert "families: v4" in failed.do


def test_what_is_not_enough_says_needed_found_and_what_to_do() -> None:
    checks = capacity.check(capacity.read(engine()), needs(fds=122_880))
    assert [(c.needed, c.found) for c in checks if c.state == "fail"] == [("122,880", "20,000")]
    assert all(bool(c.do) == (c.state != "ok") for c in checks)
    with pytest.raises(HostCannot, match="122,880; found 20,000; raise"):
        capacity.require(checks)


def test_a_node_may_have_all_cpus_and_not_more() -> None:
    readings = capacity.read(engine())
    cpus = readings.engine.cpus
    capacity.require(capacity.check(readings, needs(cpus=cpus)))
    with pytest.raises(HostCannot, match=rf"CPUs of one node: {cpus + 0.5}; found {cpus}; lower"):
        capacity.require(capacity.check(readings, needs(cpus=cpus + 0.5)))


def test_a_kernel_that_lacks_something_is_refused_by_its_name() -> None:
    checks = capacity.check(capacity.read(engine(tried="lacks\tmacvlan\n")), needs())
    with pytest.raises(HostCannot, match="missing: macvlan"):
        capacity.require(checks)


def test_a_neighbour_table_that_is_over_full_is_enough_for_a_bed_of_one_node() -> None:
    over = replace(capacity.read(engine()), neighbours=1025, neighbour_limit=1024)
    assert states(over, needs()) == ["ok"] * 5
    assert states(over, needs(neighbours=1)) == ["ok", "ok", "fail", "ok", "ok"]


def test_what_standing_beds_may_need_is_taken_whatever_they_have_now() -> None:
    standing = engine()
    for number, planned in enumerate((300, 600, "many", "")):
        labels = {"testbed.neighbours": str(planned)}
        standing.create(ContainerSpec(name=f"node-{number}", image="x", command=(), labels=labels))
    readings = replace(capacity.read(standing), neighbours=11)
    assert readings.neighbours_planned == 900
    assert states(readings, needs(neighbours=124)) == ["ok"] * 5
    assert states(readings, needs(neighbours=125)) == ["ok", "ok", "fail", "ok", "ok"]
    assert states(replace(readings, neighbours=1000), needs(neighbours=25)) == ["ok", "ok", "fail", "ok", "ok"]


@pytest.mark.parametrize(
    ("free_mb", "state"), [(4096, "ok"), (4095, "warn"), (256, "warn"), (255, "fail"), (0, "fail")]
)
def test_the_logs_of_a_bed_fit_on_the_disk_of_the_engine(free_mb: int, state: str) -> None:
    readings = replace(capacity.read(engine()), disk_free_b=free_mb << 20)
    check = capacity.check(readings, needs())[-1]
    assert (check.name, check.state, check.share) == ("disk for the engine's data, MiB", state, None)
    assert (check.needed, check.found) == ("4,096 at most", f"{free_mb:,}")
    assert capacity.check(replace(readings, disk_free_b=None), needs())[-1].state == "ok"


def test_a_run_begins_where_it_fits_and_says_what_may_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    rest: Any = {"provoked": frozenset(), "smaller": None, "say": said.append}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20) if path == tmp_path else usage)
    capacity.admit(capacity.read(engine()), needs(), tmp_path / "not" / "there", **rest)
    assert [line.partition(";")[0] for line in said] == [
        f"warning: disk for runs in {tmp_path}/not/there, MiB: needed 256 at most, found 1"
    ]
    with pytest.raises(HostCannot, match="disk for the engine's data, MiB: 4,096 at most; found 9; free some space"):
        capacity.admit(replace(capacity.read(engine()), disk_free_b=9 << 20), needs(), tmp_path, **rest)


def test_a_warning_is_no_refusal() -> None:
    capacity.require(capacity.check(capacity.read(engine()), needs(memory=1 << 30)))


def test_run_json_gets_kernel_cpus_and_versions() -> None:
    facts = capacity.environment(capacity.read(engine()))
    assert {"engine", "cpu", "sysctls", "versions"} <= set(facts)
    assert facts["engine"]["cpus"] == 2
    assert facts["topology"] == {"cores": ["0", "1"], "sockets": ["0-1"], "known": True}
    assert all(facts["versions"].values())
