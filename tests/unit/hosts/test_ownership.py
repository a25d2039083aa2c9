"""Whose a bed is, and what is left of it: labels, the life of a process, half-made beds. In memory."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Endpoint, Host, NetworkSpec, Output, images, ownership
from orchestrator.hosts.cleaning import clean, make_way, remove_id
from orchestrator.hosts.helper import HELPER
from orchestrator.hosts.ownership import (
    CREATED,
    ID,
    KIND,
    NODES,
    OWNER,
    Identity,
    Kind,
    Owner,
    deployed_beds,
    owner_state,
)
from tests.unit.hosts.broken import broken
from tests.unit.hosts.fake import FakeHost


def silent(_text: str) -> None:
    """Nobody listens."""


def an_identity(kind: Kind = Kind.RUN) -> Identity:
    return Identity(id=os.urandom(4).hex(), bed="bed", kind=kind, nodes=("n0", "n1"), private=True)


def build(engine: Host, identity: Identity, *, nodes: int = 2, started: int = 2, owner: str | None = None) -> None:
    """Make a bed, or a part of one; ``owner`` is another's than this process."""
    labels = identity.labels(**({"owner": owner} if owner else {}))
    for part in ("control", "lab"):
        engine.create_network(NetworkSpec(name=identity.name(part), driver="bridge", labels=labels))
    for n in range(nodes):
        spec = ContainerSpec(
            name=identity.name(f"n{n}"),
            image="image",
            command=("true",),
            labels={**labels, "testbed.node": f"n{n}"},
            networks=(Endpoint(network=identity.name("control")), Endpoint(network=identity.name("lab"))),
        )
        made = engine.create(spec).id
        if n < started:
            engine.node(made).start()


@pytest.fixture(scope="module")
def dead() -> str:
    """Give the label of a process that has ended."""
    program = (
        "from orchestrator.hosts.ownership import Identity; print(Identity(bed='helper').labels()['testbed.owner'])"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


# ---------------------------------------------------------------------------------------------------------- the owner


def test_this_process_lives_and_one_that_has_ended_does_not(dead: str) -> None:
    assert owner_state(an_identity().labels()[OWNER]) is Owner.ALIVE
    assert owner_state(dead) is Owner.DEAD


def test_a_zombie_is_dead() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    *where, _, _ = an_identity().labels()[OWNER].split("/")
    assert ownership._started(child) is None
    assert owner_state("/".join((*where, str(child), "1"))) is Owner.DEAD
    os.waitpid(child, 0)


def test_a_process_id_that_another_process_has_now_is_dead() -> None:
    *where, pid, started = an_identity().labels()[OWNER].split("/")
    assert owner_state("/".join((*where, pid, str(int(started) + 1)))) is Owner.DEAD


def test_before_a_reboot_is_dead_and_elsewhere_is_unknown() -> None:
    machine, boot, namespace, pid, started = an_identity().labels()[OWNER].split("/")
    assert owner_state(f"{machine}/another-boot/{namespace}/{pid}/{started}") is Owner.DEAD
    assert owner_state(f"another-machine/{boot}/{namespace}/{pid}/{started}") is Owner.UNKNOWN
    assert owner_state(f"{machine}/{boot}/1/{pid}/{started}") is Owner.UNKNOWN


@given(st.text() | st.lists(st.text("0123456789abc/", max_size=8), min_size=5, max_size=5).map("/".join))
def test_a_label_that_is_none_of_ours_is_nobody_we_know(label: str) -> None:
    assert owner_state(label) is Owner.UNKNOWN


# ---------------------------------------------------------------------------------------------------------- the beds


def test_names_fit_where_they_go() -> None:
    identity = an_identity()
    assert all(len(end) <= 15 for end in identity.veth), "IFNAMSIZ"
    assert {len(Identity(bed="helper").id) for _ in range(50)} == {8}


@pytest.mark.parametrize(
    ("kind", "started", "owner_lives", "state"),
    [
        (Kind.RUN, 2, True, "running"),
        (Kind.RUN, 2, False, "abandoned"),
        (Kind.RUN, 1, True, "incomplete"),
        (Kind.UP, 2, False, "running"),
        (Kind.UP, 1, False, "abandoned"),
        (Kind.UP, 1, True, "incomplete"),
    ],
)
def test_what_becomes_of_a_bed(kind: Kind, started: int, *, owner_lives: bool, state: str, dead: str) -> None:
    engine = FakeHost()
    identity = an_identity(kind)
    build(engine, identity, started=started, owner=None if owner_lives else dead)
    assert [(s.id, s.state) for s in deployed_beds(engine)] == [(identity.id, state)]
    cleaned = clean(engine, everything=False, say=silent)
    assert [s.id for s in cleaned.removed] == ([identity.id] if state == "abandoned" else [])
    assert bool(engine.find({ID: identity.id})) is (state != "abandoned")


def test_a_bed_that_is_up_stays_when_one_of_its_nodes_has_died(dead: str) -> None:
    engine = FakeHost()
    identity = an_identity(Kind.UP)
    build(engine, identity, owner=dead)
    engine.end(identity.name("n1"), 1)
    assert [s.state for s in deployed_beds(engine)] == ["incomplete"]
    assert clean(engine, everything=False, say=silent).removed == []


@pytest.mark.parametrize("lost", ["n0", "n1"])
def test_a_bed_that_is_up_stays_when_one_of_its_containers_is_gone(dead: str, lost: str) -> None:
    engine = FakeHost()
    identity = an_identity(Kind.UP)
    build(engine, identity, owner=dead)
    engine.node(identity.name(lost)).remove()
    make_way(engine, silent)
    assert clean(engine, everything=False, say=silent).removed == []
    (bed,) = deployed_beds(engine)
    assert (bed.state, bed.lost) == ("incomplete", (lost,))
    assert [(node["name"], node["state"]) for node in bed.to_dict()["nodes"] if node["name"] == lost] == [
        (lost, "removed")
    ]
    assert len(clean(engine, everything=True, say=silent).removed) == 1


@pytest.mark.parametrize("nodes", [0, 1])
def test_a_bed_whose_command_was_killed_before_every_node_was_made_lost_none(dead: str, nodes: int) -> None:
    engine = FakeHost()
    build(engine, an_identity(Kind.UP), nodes=nodes, started=0, owner=dead)
    assert [(bed.state, bed.lost) for bed in deployed_beds(engine)] == [("abandoned", ())]


def test_beds_come_oldest_first_and_what_carries_half_our_labels_is_no_stumbling_block() -> None:
    engine = FakeHost()
    for id_, created in (("bbbbbbbb", "2026-02"), ("aaaaaaaa", "2026-03"), ("cccccccc", "2026-01")):
        engine.create_network(NetworkSpec(name=id_, driver="bridge", labels={ID: id_, CREATED: created}))
    assert [(s.id, s.owner_state) for s in deployed_beds(engine)] == [
        ("cccccccc", Owner.UNKNOWN),
        ("bbbbbbbb", Owner.UNKNOWN),
        ("aaaaaaaa", Owner.UNKNOWN),
    ]


def test_every_object_says_the_same_of_its_bed() -> None:
    engine = FakeHost()
    identity = an_identity(Kind.UP)
    build(engine, identity)
    for found in engine.find({ID: identity.id}):
        assert (found.labels[KIND], found.labels[NODES]) == ("up", "n0,n1")


# ------------------------------------------------------------------------------------------------------ the clean-up


def test_all_means_beds_that_are_up_and_runs_that_go_on(dead: str) -> None:
    engine = FakeHost()
    for kind, owner in ((Kind.RUN, None), (Kind.UP, dead), (Kind.RUN, dead)):
        build(engine, an_identity(kind), owner=owner)
    assert len(clean(engine, everything=True, say=silent).removed) == 3
    assert engine.find({}) == []


def test_one_bed_goes_and_its_neighbour_stays() -> None:
    engine = FakeHost()
    ours, theirs = an_identity(), an_identity()
    build(engine, ours)
    build(engine, theirs)
    for _ in range(2):
        remove_id(engine, ours.id)
    assert [s.id for s in deployed_beds(engine)] == [theirs.id]


def test_what_cannot_be_removed_is_told_and_found_again(dead: str) -> None:
    """The parent stays: everything else goes, but for the control network, the sign that it is there."""
    broken = True

    def answer(_spec: ContainerSpec, _command: tuple[str, ...]) -> Output:
        return Output(status=2 if broken else 0, stdout="", stderr="Device or resource busy")

    engine = FakeHost(answer)
    first, second = an_identity(), an_identity()
    build(engine, first, owner=dead)
    build(engine, second, owner=dead)
    said: list[str] = []
    make_way(engine, said.append)
    with pytest.raises(EngineFailed, match="busy"):
        clean(engine, everything=False, say=said.append)
    named = [line.split()[3] for line in said if line.startswith("warning: bed ") and "busy" in line]
    assert sorted(named) == sorted([first.id, second.id] * 2)
    assert {found.name for found in engine.find({})} == {first.name("control"), second.name("control")}
    broken = False
    assert len(clean(engine, everything=False, say=silent).removed) == 2
    assert engine.find({}) == []


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("call", range(1, 7))
def test_a_bed_that_breaks_at_any_call_is_removed_by_its_id(call: int, *, late: bool) -> None:
    """``late``: the engine does what it is asked, and its answer is lost."""
    engine = FakeHost()
    identity = an_identity()
    with pytest.raises(EngineFailed, match="first"):
        build(broken(engine, call, EngineFailed("first", "none", "try again"), late=late), identity)
    remove_id(engine, identity.id)
    assert engine.find({}) == []


def test_a_bed_is_removed_after_the_helpers_image_was_pruned() -> None:
    engine, said = FakeHost(), list[str]()
    identity = an_identity()
    build(engine, identity)
    engine.images.tags = {"testbed/debian:bookworm": {"id": "base"}}
    remove_id(engine, identity.id, said.append)
    assert engine.find({}) == []
    assert HELPER in engine.images.tags


def test_a_bed_whose_helper_cannot_be_built_says_why_and_is_removed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeHost()
    identity = an_identity()
    build(engine, identity)
    engine.images.tags = {}
    monkeypatch.setattr(images, "_bootstrap", refuse)
    with pytest.raises(EngineFailed, match="no mirror answers"):
        remove_id(engine, identity.id)
    assert [found.name for found in engine.find({})] == [identity.name("control")]
    engine.images.tags = {"testbed/debian:bookworm": {"id": "base"}}
    remove_id(engine, identity.id)
    assert engine.find({}) == []


def refuse(*_: object) -> None:
    raise EngineFailed("Debian bookworm", "no mirror answers", "name a mirror")


def test_a_bug_in_a_removal_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, identity = FakeHost(), Identity(id="0000000a", bed="bed", kind=Kind.UP, nodes=("n0", "n1"), private=False)
    build(engine, identity)

    def fail(_container: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine, "remove", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        remove_id(engine, identity.id)
