"""A bed that one command brought up, attached to by another."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.bed.model import parse_bed
from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.hosts import ContainerSpec
from orchestrator.hosts.ownership import Identity, Kind, deployed_beds
from orchestrator.measurements.rundir import RunDir
from orchestrator.up import bringup
from orchestrator.up.attach import BED_FILE, attach
from tests.unit.hosts.fake import FakeHost
from tests.unit.runs.test_runner import Steps

BED = parse_bed(
    {
        "name": "two",
        "domains": 3,
        "families": "v4",
        "nodes": {"dns": {"service": "bind", "release": "trixie"}, "sink": {"service": "blackhole"}},
    },
    "bed",
)


@pytest.fixture
def host() -> FakeHost:
    """Return a host whose daemons are ready at once."""
    return FakeHost(prints=lambda spec: [" running" if spec.name.endswith("dns") else '{"event": "listening"}'])


def test_the_handle_is_that_of_the_command_that_brought_it_up(host: FakeHost, tmp_path: Path) -> None:
    with ExitStack() as stack:
        rundir = RunDir.create(tmp_path, "up")
        identity = Identity.new(BED, Kind.UP)
        made = bringup.bring_up(host, BED, identity, rundir=rundir, steps=Steps(), stack=stack, cpus=4)
        found = attach(host, deployed_beds(host)[0])
        assert found.plan == made.plan
        assert list(found.nodes) == list(made.nodes)
        assert {n: node.container.id for n, node in found.nodes.items()} == {
            n: node.container.id for n, node in made.nodes.items()
        }
        assert found.nodes["dns"].exec("true").status == 0
        with pytest.raises(InvalidInput, match="recorded"):
            list(found.nodes["dns"].lines(("true",), 1))
        made.recorder.expect_end()


def test_a_node_that_was_removed_is_left_out(host: FakeHost, tmp_path: Path) -> None:
    with ExitStack() as stack:
        identity, rundir = Identity.new(BED, Kind.UP), RunDir.create(tmp_path, "up")
        made = bringup.bring_up(host, BED, identity, rundir=rundir, steps=Steps(), stack=stack, cpus=2)
        made.recorder.expect_end()
        made.nodes["dns"].container.remove()
        assert list(attach(host, deployed_beds(host)[0]).nodes) == ["sink"]


def test_an_engine_that_fails_is_no_other_version(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.create(ContainerSpec(name="x", image="", command=(), labels=Identity.new(BED, Kind.UP).labels(node="dns")))
    failure = EngineFailed("a file of container x", "the engine did not answer", "see whether it runs")

    def fails(*_: object) -> bytes:
        raise failure

    monkeypatch.setattr(FakeHost, "read_file", fails)
    with pytest.raises(EngineFailed) as failed:
        attach(host, deployed_beds(host)[0])
    assert failed.value is failure


@pytest.mark.parametrize("content", [b'{"format": 2}', b"{}", b"no JSON", None])
def test_a_bed_of_another_version_is_refused(host: FakeHost, content: bytes | None) -> None:
    identity = Identity.new(BED, Kind.UP)
    files = {} if content is None else {BED_FILE: content}
    host.create(ContainerSpec(name="x", image="", command=(), labels=identity.labels(node="dns"), files=files)).start()
    with pytest.raises(InvalidInput, match="this version of testbed") as refused:
        attach(host, deployed_beds(host)[0])
    assert "bring it up again" in refused.value.do
