"""A partition of two nodes."""

import pytest

from orchestrator.bed import builtin
from orchestrator.hosts import ContainerSpec, Output
from orchestrator.hosts.fake import FakeHost
from orchestrator.plan import make_plan
from orchestrator.up.node import RunningNode
from orchestrator.up.partition import partition

PLAN = make_plan(builtin.bed("mail"), cpus=1)


def test_both_nodes_drop_all_addresses_of_the_other_until_the_end_of_the_block() -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def answer(spec: ContainerSpec, command: tuple[str, ...]) -> Output:
        asked.append((spec.name, command[4:]))
        return Output(status=0, stdout="", stderr="")

    host = FakeHost(answer)
    nodes = {}
    for name in ("relay", "inbox"):
        container = host.create(ContainerSpec(name=name, image="", command=(), labels={}))
        container.start()
        nodes[name] = RunningNode(plan=PLAN.named(name), container=container)
    inside = []

    def fail() -> None:
        with partition(PLAN, nodes["relay"], nodes["inbox"]):
            inside.extend(asked)
            raise RuntimeError("from the block")

    with pytest.raises(RuntimeError, match="from the block"):
        fail()
    (one, (table, four, six)), (other, (table2, relay4, relay6)) = inside
    assert (one, other) == ("relay", "inbox")
    assert four == f"{PLAN.named('inbox').v4}/32, {PLAN.mail}"
    assert relay4 == f"{PLAN.named('relay').v4}/32"
    assert six.count("/") == 2
    assert relay6.endswith("/128")
    assert asked[2:] == [("inbox", (table2,)), ("relay", (table,))]
