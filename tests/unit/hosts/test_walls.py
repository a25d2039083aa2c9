"""Walls that are looked at again and mended, on the engine in memory."""

import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Output, walls
from orchestrator.hosts.cleaning import remove_id
from orchestrator.hosts.ownership import Identity, Kind, deployed_beds
from orchestrator.hosts.walls import State
from tests.unit.hosts.fake import FakeHost
from tests.unit.hosts.test_ownership import build

CLOSED = """table netdev other {{
}}
table netdev tb{0} {{
\tchain ends {{
\t\ttype filter hook ingress device "tb{0}q" priority filter; policy drop;
\t}}
}}
"""


def an_identity(id_: str) -> Identity:
    return Identity(id=id_, bed="bed", kind=Kind.UP, nodes=("n0", "n1"), private=True)


class Kernel:
    """Answers as nft(8) in a host and two nodes would."""

    def __init__(self) -> None:
        self.host = CLOSED.format("0000000a") + CLOSED.format("0000000b")
        self.broken: dict[str, int] = {}
        """Name of the container -> status of its look."""
        self.loads = 0

    def __call__(self, spec: ContainerSpec, command: tuple[str, ...]) -> Output:
        """Answer one command."""
        if spec.host_network:
            if "ruleset" not in command[2]:
                self.host += CLOSED.format(command[-1])
            return Output(status=0, stdout=self.host, stderr="")
        if command[-1] == walls._LOAD:
            self.loads += 1
            self.broken.pop(spec.name, None)
        return Output(status=self.broken.get(spec.name, 0), stdout="", stderr="")


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def engine(kernel: Kernel) -> FakeHost:
    made = FakeHost(kernel)
    for id_ in ("0000000a", "0000000b"):
        build(made, an_identity(id_))
    return made


def found(engine: FakeHost) -> list[tuple[str, str]]:
    looked = walls.look(engine, deployed_beds(engine))
    return [(wall.bed.id, wall.found) for wall in looked if wall.state is State.OPEN]


def unseen(engine: FakeHost) -> list[tuple[str, str]]:
    looked = walls.look(engine, deployed_beds(engine))
    return [(places, why) for _, places, why, _ in walls.grouped(looked, walls.State.UNSEEN)]


def test_walls_that_stand_are_no_gap_and_no_bed_takes_no_helper(engine: FakeHost) -> None:
    assert found(engine) == []
    for id_ in ("0000000a", "0000000b"):
        remove_id(engine, id_)
    engine.answer = lambda *_: pytest.fail("nothing is to be looked at")
    assert found(engine) == []


@pytest.mark.parametrize(
    "rules",
    [
        "",
        CLOSED.format("0000000a").replace("policy drop", "policy accept"),
        CLOSED.format("0000000a").replace("policy drop;", "policy drop;\n\t\taccept"),
        CLOSED.format("0000000a").replace("tb0000000aq", "eth0"),
    ],
)
def test_a_host_table_that_does_not_drop_everything_is_a_gap(engine: FakeHost, kernel: Kernel, rules: str) -> None:
    kernel.host = rules + CLOSED.format("0000000b")
    assert found(engine) == [("0000000a", "no rule that drops every frame")]
    said: list[str] = []
    assert walls.mend(engine, said.append) == []
    assert "bed bed 0000000a was open, and is closed again" in said[0]
    assert found(engine) == []


@pytest.mark.parametrize(("status", "says"), [(3, "none"), (4, "different rules in it")])
def test_a_node_whose_rules_are_not_those_of_its_start_is_a_gap(
    engine: FakeHost, kernel: Kernel, status: int, says: str
) -> None:
    kernel.broken["tb-0000000b-n1"] = status
    assert found(engine) == [("0000000b", says)]
    assert walls.mend(engine, lambda _: None) == []
    assert (found(engine), kernel.loads) == ([], 1)


@pytest.mark.parametrize(("status", "why"), [(5, "the node is still starting"), (127, "status 127")])
def test_a_node_that_cannot_say_was_not_looked_at_and_is_left_alone(
    engine: FakeHost, kernel: Kernel, status: int, why: str
) -> None:
    kernel.broken["tb-0000000b-n1"] = status
    assert (found(engine), unseen(engine)) == ([], [("node n1", why)])
    assert [(wall.place, wall.found) for wall in walls.mend(engine, lambda _: None)] == [("node n1", why)]
    assert kernel.loads == 0


def test_a_bed_that_is_half_made_and_a_node_that_has_ended_are_not_looked_at_and_named(
    engine: FakeHost, kernel: Kernel
) -> None:
    build(engine, an_identity("0000000c"), started=1)
    kernel.broken["tb-0000000c-n0"] = kernel.broken["tb-0000000a-n0"] = 3
    engine.end("tb-0000000a-n0", 1)
    assert found(engine) == []
    assert unseen(engine) == [
        ("node n0", "it is exited"),
        ("host, node n0, node n1", "its bed is being made or removed"),
    ]


def test_a_bed_that_lost_a_container_is_looked_at_as_far_as_it_is_there(engine: FakeHost, kernel: Kernel) -> None:
    engine.node("tb-0000000a-n0").remove()
    kernel.broken["tb-0000000a-n1"] = 3
    kernel.host = ""
    assert sorted(found(engine)) == [
        ("0000000a", "no rule that drops every frame"), ("0000000a", "none"),
        ("0000000b", "no rule that drops every frame"),
    ]  # fmt: skip
    assert unseen(engine) == [("node n0", "it is removed")]
    assert [wall.place for wall in walls.mend(engine, lambda _: None)] == ["node n0"]
    assert found(engine) == []


def test_a_bed_that_is_taken_down_meanwhile_is_no_gap(engine: FakeHost, kernel: Kernel) -> None:
    kernel.host = CLOSED.format("0000000b")
    before = deployed_beds(engine)
    remove_id(engine, "0000000a")
    assert {wall.bed.id for wall in walls.look(engine, before)} == {"0000000b"}


def test_a_wall_that_opens_while_its_bed_changes_is_not_known(engine: FakeHost, kernel: Kernel) -> None:
    kernel.host = CLOSED.format("0000000b")
    before = deployed_beds(engine)
    engine.node("tb-0000000a-n0").remove()
    looked = {wall.place: wall for wall in walls.look(engine, before) if wall.bed.id == "0000000a"}
    assert (looked["host"].state, looked["host"].found) == (State.UNSEEN, "its bed changed during the check")
    assert (looked["node n0"].state, looked["node n1"].state) == (State.UNSEEN, State.CLOSED)


def test_a_wall_that_cannot_be_looked_at_or_mended_is_named_and_the_rest_goes_on(
    engine: FakeHost, kernel: Kernel
) -> None:
    kernel.broken["tb-0000000a-n0"] = kernel.broken["tb-0000000b-n0"] = 3

    def refuse(spec: ContainerSpec, command: tuple[str, ...]) -> Output:
        if spec.host_network:
            raise EngineFailed("a helper", "no such image", "`testbed setup`")
        if spec.name == "tb-0000000a-n0" and command[-1] == walls._LOAD:
            return Output(status=1, stdout="", stderr="not permitted")
        return kernel(spec, command)

    engine.answer = refuse
    assert found(engine) == [("0000000a", "none"), ("0000000b", "none")]
    assert unseen(engine) == [("host", "no such image")] * 2
    said: list[str] = []
    assert [(wall.bed.id, wall.place) for wall in walls.mend(engine, said.append)] == [
        ("0000000a", "host"), ("0000000b", "host"), ("0000000a", "node n0"),
    ]  # fmt: skip
    assert [line.partition(": ")[0] for line in said] == ["warning"] * 2
    assert "0000000a stays open" in said[0]
    assert "not permitted" in said[0]
    assert "0000000b was open, and is closed again" in said[1]
