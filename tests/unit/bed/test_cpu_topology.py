"""Cores, sockets and sets of CPUs, from what the kernels of real machines say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bed.cpu_topology import ALL, CORE, ONE_EACH, SOCKET, THREAD, Topology, cpu_sets, parse, write

TWO_SOCKETS = ";".join(f"{n} {n % 24},{n % 24 + 24} {n % 2}" for n in range(48)) + ";"
"""Two sockets of 12 cores with hyper-threading, numbered from socket to socket in turn, siblings 24 apart."""
LAPTOP = "0 0-1 0;1 0-1 0;2 2-3 0;3 2-3 0;4 4-5 0;5 4-5 0;6 6 0;7 7 0;8 8 0;9 9 0;"
"""Three cores with two threads and four without, siblings side by side."""
SMT_OFF = "0 0 0;1 1 0;2 2 0;3 3 0;4  ;5  ;6  ;7  ;"
"""Four cores whose second threads were taken offline: the kernel says nothing of those."""
THIS_VM = "0 0 0;1 1 0;"
SILENT = "0  ;1  ;"
"""A virtual machine without topology."""
NO_PACKAGE = "0 0 -1;1 1 -1;2 2 -1;3 3 -1;"
"""A board whose firmware does not number its package."""


def sets(topology: Topology) -> dict[str, tuple[str, str]]:
    """Return name of the set -> its CPUs, those of the harness."""
    return {s.name: (write(s.cpus), write(s.harness)) for s in cpu_sets(topology)[0]}


@given(st.sets(st.integers(0, 300)))
def test_a_list_of_cpus_is_read_as_it_was_written(cpus: set[int]) -> None:
    assert parse(write(cpus)) == tuple(sorted(cpus))


def test_two_sockets_with_hyper_threading() -> None:
    found = Topology.read(TWO_SOCKETS, "0-47")
    assert (len(found.cores), len(found.sockets), found.siblings, found.known) == (24, 2, True, True)
    assert found.cores[:2] == ((0, 24), (2, 26)), "socket by socket"
    assert [len(socket) for socket in found.sockets] == [24, 24]
    # The harness has the last four cores of the second socket: 17, 19, 21, 23 and their siblings.
    assert sets(found) == {
        ALL: ("0-16,18,20,22,24-40,42,44,46", "17,19,21,23,41,43,45,47"),
        ONE_EACH: ("0-16,18,20,22", "17,19,21,23,41,43,45,47"),
        SOCKET: (write([*range(0, 24, 2), *range(24, 48, 2)]), "17,19,21,23,41,43,45,47"),
        CORE: ("0,24", "17,19,21,23,41,43,45,47"),
        THREAD: ("0", "17,19,21,23,41,43,45,47"),
    }


def test_cores_with_and_without_a_second_thread() -> None:
    found = Topology.read(LAPTOP, "0-9")
    assert found.cores == ((0, 1), (2, 3), (4, 5), (6,), (7,), (8,), (9,))
    assert sets(found) == {
        ALL: ("0-8", "9"),
        ONE_EACH: ("0,2,4,6-8", "9"),
        CORE: ("0-1", "9"),
        THREAD: ("0", "9"),
    }
    assert cpu_sets(found)[1] == {SOCKET: ALL}


def test_threads_that_are_offline_are_not_there() -> None:
    found = Topology.read(SMT_OFF, "0-3")
    assert (found.cores, found.siblings, found.known) == (((0,), (1,), (2,), (3,)), False, True)
    assert sets(found) == {ALL: ("0-2", "3"), CORE: ("0", "3")}


def test_two_cores_without_hyper_threading_share_what_they_must() -> None:
    found = Topology.read(THIS_VM, "0-1")
    assert sets(found) == {ALL: ("0-1", "0-1"), CORE: ("0", "1")}
    assert [s.shared for s in cpu_sets(found)[0]] == [True, False]
    assert cpu_sets(found)[1] == {ONE_EACH: ALL, SOCKET: ALL, THREAD: CORE}


def test_a_kernel_that_does_not_tell_is_said_so() -> None:
    found = Topology.read(SILENT, "0-1")
    assert (found.cores, found.sockets, found.known) == (((0,), (1,)), ((0, 1),), False)
    assert sets(found) == sets(Topology.read(THIS_VM, "0-1"))


def test_a_package_without_a_number_is_one_socket() -> None:
    assert Topology.read(NO_PACKAGE, "0-3").sockets == ((0, 1, 2, 3),)


def test_an_engine_that_may_use_a_part_of_the_machine_uses_that_part() -> None:
    found = Topology.read(TWO_SOCKETS, "4,5,28")
    assert (found.cores, found.sockets) == (((4, 28), (5,)), ((4, 28), (5,)))
    assert sets(found) == {
        ALL: ("4-5,28", "4-5,28"),
        ONE_EACH: ("4-5", "4-5,28"),
        SOCKET: ("4,28", "5"),
        THREAD: ("4", "5"),
    }


def test_one_cpu_has_one_set() -> None:
    assert sets(Topology.read("0 0 0;", "0")) == {ALL: ("0", "0")}


@pytest.mark.parametrize("said", [TWO_SOCKETS, LAPTOP, SMT_OFF, THIS_VM, SILENT, NO_PACKAGE])
@given(data=st.data())
def test_sets_are_distinct_usable_and_never_empty(said: str, data: st.DataObject) -> None:
    every = [int(part.split()[0]) for part in said.split(";") if part]
    usable = data.draw(st.sets(st.sampled_from(every), min_size=1))
    topology = Topology.read(said, write(usable))
    assert Topology.from_dict(topology.to_dict()) == topology
    assert set(topology.threads) == usable
    found, same = cpu_sets(topology)
    assert len({s.cpus for s in found}) == len(found)
    assert {s.name for s in found} | set(same) == {ALL, ONE_EACH, SOCKET, CORE, THREAD}
    for s in found:
        assert s.cpus
        assert s.harness
        assert {*s.cpus, *s.harness} <= usable
        if not s.shared:
            core_of = {n: core for core in topology.cores for n in core}
            assert {core_of[n] for n in s.cpus}.isdisjoint(core_of[n] for n in s.harness)
