"""Walls that are looked at again and mended, on the engine in memory."""

import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Output, walls
from orchestrator.hosts.cleaning import remove_id
from orchestrator.hosts.fake import FakeHost
from orchestrator.hosts.ownership import Identity, Kind, standing
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
    return Identity(id=id_, bed="bed", kind=Kind.UP, nodes=2, private=True)


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
            if command[:2] == ("sh", "-euc"):
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
    return [(gap.bed.id, gap.found) for gap in walls.gaps(engine, standing(engine))]


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
    assert found(engine) == [("0000000a", "none that drops everything")]
    said: list[str] = []
    assert [bed.id for bed in walls.mend(engine, said.append)] == ["0000000a"]
    assert "bed bed 0000000a was open, and is closed again" in said[0]
    assert found(engine) == []


@pytest.mark.parametrize(("status", "says"), [(3, "none"), (4, "other rules in it"), (127, "unknown: status 127")])
def test_a_node_whose_rules_are_not_those_of_its_start_is_a_gap(
    engine: FakeHost, kernel: Kernel, status: int, says: str
) -> None:
    kernel.broken["tb-0000000b-n1"] = status
    assert found(engine) == [("0000000b", says)]
    assert [bed.id for bed in walls.mend(engine, lambda _: None)] == ["0000000b"]
    assert (found(engine), kernel.loads) == ([], 1)


def test_a_bed_that_is_half_made_and_a_node_that_has_ended_are_not_looked_at(engine: FakeHost, kernel: Kernel) -> None:
    build(engine, an_identity("0000000c"), started=1)
    kernel.broken["tb-0000000c-n0"] = kernel.broken["tb-0000000a-n0"] = 3
    engine.end("tb-0000000a-n0", 1)
    assert found(engine) == []


def test_a_bed_that_is_taken_down_meanwhile_is_no_gap(engine: FakeHost, kernel: Kernel) -> None:
    kernel.host = CLOSED.format("0000000b")
    before = standing(engine)
    remove_id(engine, "0000000a")
    assert walls.gaps(engine, before) == []


def test_a_wall_that_cannot_be_looked_at_or_mended_is_named_and_the_rest_goes_on(
    engine: FakeHost, kernel: Kernel
) -> None:
    kernel.broken["tb-0000000b-n0"] = 3

    def refuse(spec: ContainerSpec, command: tuple[str, ...]) -> Output:
        if spec.host_network:
            raise EngineFailed("a helper", "no such image", "`testbed setup`")
        return kernel(spec, command)

    engine.answer = refuse
    assert sorted(found(engine)) == [
        ("0000000a", "unknown: no such image"), ("0000000b", "none"), ("0000000b", "unknown: no such image"),
    ]  # fmt: skip
    said: list[str] = []
    assert walls.mend(engine, said.append) == []
    assert [line.partition(": ")[0] for line in said] == ["warning"] * 2
    assert all("stays open" in line and "no such image" in line for line in said)
