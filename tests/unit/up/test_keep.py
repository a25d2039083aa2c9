"""A bed that stays up, on the engine in memory: found again, refused by name, held against the host, expired."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bed.model import Bed, parse_bed
from orchestrator.bed.wiring import PUBLISHED
from orchestrator.cli import beds
from orchestrator.errors import EngineFailed, ExitCode, HostCannot, InvalidInput
from orchestrator.hosts import Endpoint, NetworkSpec, capacity, docker, networks, ownership
from orchestrator.hosts.cleaning import clean
from orchestrator.hosts.fake import FakeHost
from orchestrator.hosts.helper import HELPER
from orchestrator.hosts.ownership import DeployedBed
from orchestrator.up import keep
from orchestrator.up.collect.recorder import Recorder
from orchestrator.up.keep import lifetime, up
from tests.unit.cli import test_errors as test_cli_errors
from tests.unit.cli.test_errors import Command
from tests.unit.hosts.test_ownership import silent
from tests.unit.runs.test_runner import READING, Breaking, Steps

testbed = test_cli_errors.testbed


def a_bed(domains: int = 2) -> Bed:
    return parse_bed(
        {"name": "one", "domains": domains, "nodes": {n: {"service": "bind"} for n in ("dns", "ns2")}}, "bed"
    )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Breaking:
    """Give an engine; the beds on it are made by this process, which runs on."""
    made = Breaking()
    monkeypatch.setattr(docker, "connect", lambda: made)
    return made


def raises(error: Exception) -> Callable[[], None]:
    """Return a function that raises this error."""

    def function() -> None:
        raise error

    return function


@pytest.fixture
def call(engine: Breaking, tmp_path: Path) -> Callable[..., DeployedBed]:
    return lambda bed=None, **further: up(engine, bed or a_bed(), runs=tmp_path / "runs", steps=Steps(), **further)


def test_a_second_call_finds_the_bed_and_makes_nothing(
    engine: Breaking, call: Callable[..., DeployedBed], tmp_path: Path
) -> None:
    first = call()
    there = engine.find({})
    assert (call(), engine.find({})) == (first, there)
    assert first.state == "running"
    assert not (tmp_path / "runs").exists()


def test_a_bed_is_found_again_and_taken_down_after_the_helpers_image_was_pruned(
    testbed: Command, engine: Breaking, call: Callable[..., DeployedBed]
) -> None:
    for _ in range(2):
        first = call()
        del engine.images.tags[HELPER]
        assert call() == first
        del engine.images.tags[HELPER]
        ended = testbed("down", first.id)
        assert (ended.code, engine.find({})) == (0, []), ended.err


@pytest.mark.parametrize("place", ["close", "_discard", "deployed_beds", "_show"])
def test_an_interrupt_that_comes_when_the_bed_is_up_names_the_bed(
    testbed: Command, engine: Breaking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    owner = {"close": Recorder, "_show": beds}.get(place, keep)
    real = getattr(owner, place)

    def interrupted(*words: object, **further: object) -> object:
        monkeypatch.setattr(owner, place, real)
        signal.raise_signal(signal.SIGINT)
        return real(*words, **further)

    monkeypatch.setattr(owner, place, interrupted)
    bed = tmp_path / "one.yaml"
    bed.write_text("name: one\ndomains: 2\nnodes: {dns: {service: bind}, ns2: {service: bind}}\n", encoding="utf-8")
    ended = testbed("up", bed)
    (deployed,) = ownership.deployed_beds(engine)
    assert f"bed {deployed.id} is up; `testbed down {deployed.id}`" in ended.err
    assert (ended.code, deployed.state) == (ExitCode.INTERRUPTED, "running")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("damage", "found"),
    [(lambda engine, node: engine.end(node, 1), "it is exited"), (FakeHost.remove, "it is removed")],
)
def test_a_bed_that_stands_damaged_is_named_with_its_cure(
    engine: Breaking, call: Callable[..., DeployedBed], damage: Callable[[FakeHost, str], None], found: str
) -> None:
    bed = call()
    damage(engine, f"tb-{bed.id}-dns")
    there = engine.find({})
    with pytest.raises(EngineFailed, match=f"node dns: {found}") as caught:
        call()
    assert f"`testbed down {bed.id}`" in caught.value.do
    assert engine.find({}) == there


def test_the_graph_of_a_name_is_that_of_the_bed_that_is_up(
    testbed: Command, call: Callable[..., DeployedBed], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nodes(*words: str) -> set[str]:
        return {node["name"] for node in json.loads(testbed("graph", *words, "--format", "json").out)["nodes"]}

    built_in = {"dns", "sink", "relay", "load"}
    assert nodes("relay") == nodes() == built_in
    bed = call(a_bed().model_copy(update={"name": "relay"}))
    assert nodes("relay") == nodes() == nodes(bed.id) == {"dns", "ns2"}
    assert nodes("relay", "--domains", "9") == built_in
    monkeypatch.setattr(docker, "connect", raises(EngineFailed("an engine", "none", "start it")))
    assert nodes("relay") == built_in


def test_another_bed_of_the_same_name_is_named_and_another_name_helps(call: Callable[..., DeployedBed]) -> None:
    bed = call()
    with pytest.raises(InvalidInput, match="of another definition") as caught:
        call(a_bed(3))
    assert f"`testbed down {bed.id}`" in caught.value.do
    assert call(a_bed(3).model_copy(update={"name": "two"})).state == "running"


def test_a_bed_is_published_where_its_command_said_and_not_found_again_for_another_address(
    testbed: Command,
    engine: Breaking,
    call: Callable[..., DeployedBed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(networks, "require_address", lambda *_: None)
    bed = call(publish_at="192.0.2.1")
    assert (bed.to_dict()["published_at"], call(publish_at="192.0.2.1")) == ("192.0.2.1", bed)
    assert json.loads(testbed("graph", bed.id, "--format", "json").out)["published_at"] == "192.0.2.1"
    specs = [engine.specs[container.id] for container in bed.containers]
    assert {spec.publish_at for spec in specs} == {"192.0.2.1"}
    assert all(PUBLISHED in spec.files for spec in specs)
    with pytest.raises(InvalidInput, match=r"ports on 192\.0\.2\.1") as caught:
        call()
    assert f"`testbed down {bed.id}`" in caught.value.do


def test_a_guest_network_has_the_beds_name_and_is_removed_with_the_bed(
    testbed: Command, engine: Breaking, call: Callable[..., DeployedBed], monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = call(a_bed().model_copy(update={"guests": True}))
    assert bed.to_dict()["guests"] == {"network": "testbed-one-guests", "aliases": ["dns", "ns2"]}
    spec = engine.specs[bed.containers[0].id]
    assert spec.networks[-1] == Endpoint(network="testbed-one-guests", alias="dns")
    monkeypatch.setattr(
        engine, "disconnect", lambda network: ["visitor"] if bed.guests and network == bed.guests.id else []
    )
    ended = testbed("down", bed.id)
    assert "warning: disconnected container visitor from testbed-one-guests" in ended.err
    assert (ended.code, engine.find({})) == (0, [])


def test_a_bed_that_another_command_brings_up_is_waited_for(
    call: Callable[..., DeployedBed], monkeypatch: pytest.MonkeyPatch
) -> None:
    call()
    monkeypatch.setattr(ownership, "owner_state", lambda _: ownership.Owner.ALIVE)
    with pytest.raises(EngineFailed, match="another command is bringing it up"):
        call()


def the_other(created: str) -> NetworkSpec:
    """Describe the first object of the same bed, made by a command that runs."""
    identity = ownership.Identity.new(a_bed(), ownership.Kind.UP)
    labels = identity.labels(created=created)
    return NetworkSpec(name=identity.name("control"), driver="bridge", labels=labels)


@pytest.mark.parametrize(
    ("created", "withdraws"), [("2001-01-01T00:00:00+00:00", True), ("2101-01-01T00:00:00+00:00", False)]
)
def test_of_two_commands_that_make_one_bed_at_the_same_time_the_younger_withdraws(
    engine: Breaking,
    call: Callable[..., DeployedBed],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    created: str,
    *,
    withdraws: bool,
) -> None:
    other, make = the_other(created), engine.create_network

    def both(spec: NetworkSpec) -> str:
        if not engine.find({}):
            make(other)
        return make(spec)

    monkeypatch.setattr(engine, "create_network", both)
    if withdraws:
        with pytest.raises(EngineFailed, match="another command is bringing it up"):
            call()
        assert [found.name for found in engine.find({})] == [other.name]
        assert not (tmp_path / "runs").exists()
    else:
        assert call().state == "running"


def test_a_command_that_withdraws_says_so_and_shows_the_bed_of_the_other(
    engine: Breaking, call: Callable[..., DeployedBed], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    admit, winners, steps = capacity.admit, list[DeployedBed](), Steps()

    def admitted(*words: Any, **further: Any) -> None:
        monkeypatch.setattr(capacity, "admit", admit)
        winners.append(call())
        admit(*words, **further)

    monkeypatch.setattr(capacity, "admit", admitted)
    assert [up(engine, a_bed(), runs=tmp_path / "others", steps=steps)] == winners
    assert steps.said[-1] == f"this is bed one {winners[0].id} of the other command"
    assert [step["name"] for step in steps.taken][-2:] == [
        "withdraw: another command began first to bring this bed up",
        "look at the beds that are up",
    ]


def test_a_bed_that_withdraws_has_not_taken_the_name_of_the_guest_network(
    engine: Breaking, call: Callable[..., DeployedBed], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, make, made = the_other("2001-01-01T00:00:00+00:00"), engine.create_network, list[str]()

    def both(spec: NetworkSpec) -> str:
        if spec.name.endswith("-lab"):
            make(other)
        made.append(spec.name)
        return make(spec)

    monkeypatch.setattr(engine, "create_network", both)
    with pytest.raises(InvalidInput, match="no other bed called one"):
        call(a_bed().model_copy(update={"guests": True}))
    assert [name.rpartition("-")[2] for name in made] == ["control", "lab"]


def test_a_bed_that_withdraws_from_one_that_is_given_up_says_to_try_again(
    engine: Breaking, call: Callable[..., DeployedBed], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, make, remove = the_other("2001-01-01T00:00:00+00:00"), engine.create_network, engine.remove_network

    def both(spec: NetworkSpec) -> str:
        if not engine.find({}):
            make(other)
        return make(spec)

    def give_up(network: str) -> None:
        remove(network)
        remove(other.name)

    monkeypatch.setattr(engine, "create_network", both)
    monkeypatch.setattr(engine, "remove_network", give_up)
    with pytest.raises(EngineFailed, match="try again"):
        call()
    assert engine.find({}) == []


def test_a_bed_that_is_removed_as_soon_as_it_is_up_is_named(
    call: Callable[..., DeployedBed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.up.keep.deployed_beds", lambda _: [])
    with pytest.raises(EngineFailed, match=r"bed one .* was removed"):
        call()


def test_up_refuses_a_disk_that_is_too_small(
    engine: Breaking, call: Callable[..., DeployedBed], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = engine.answer
    small = f"{READING}disk\t100 4096\n"
    monkeypatch.setattr(
        engine, "answer", lambda spec, words: answer(spec, words).__class__(status=0, stdout=small, stderr="")
    )
    with pytest.raises(HostCannot, match="disk for the engine's data") as caught:
        call()
    assert (caught.value.found, "free some space" in caught.value.do) == ("0", True)
    assert engine.find({}) == []


@pytest.mark.parametrize(("lacks", "named"), [("", EngineFailed), ("lacks\tnf_tables (reject)\n", HostCannot)])
def test_a_bring_up_that_fails_names_the_feature_that_the_kernel_lacks(
    engine: Breaking,
    call: Callable[..., DeployedBed],
    monkeypatch: pytest.MonkeyPatch,
    lacks: str,
    named: type[EngineFailed | HostCannot],
) -> None:
    answer = engine.answer
    monkeypatch.setattr(
        engine,
        "answer",
        lambda spec, words: replace(answer(spec, words), stdout=READING if spec.host_network else lacks),
    )

    def refuse(*_: object, **__: object) -> None:
        raise EngineFailed("node dns to run", "it ended: nft: Operation not supported", "read its log")

    monkeypatch.setattr(keep, "bring_up", refuse)
    with pytest.raises(named, match="missing: nf_tables" if lacks else "Operation not supported"):
        call()


# ------------------------------------------------------------------------------------------------------------ expiry


def test_a_bed_with_an_end_says_so_and_goes_when_it_has_come(
    testbed: Command, engine: Breaking, call: Callable[..., DeployedBed]
) -> None:
    bed = call(life=timedelta(hours=2))
    assert timedelta(hours=1.9) < datetime.fromisoformat(bed.expires) - datetime.now(UTC) <= timedelta(hours=2)
    assert f"until {bed.expires}" in testbed("ps").out
    assert [found["expires"] for found in json.loads(testbed("ps", "--format", "json").out)] == [bed.expires]
    assert clean(engine, everything=False, say=silent).removed == ()

    over = call(a_bed().model_copy(update={"name": "two"}), life=timedelta(seconds=-1))
    assert (over.state, over.expired) == ("abandoned", True)
    said: list[str] = []
    assert [found.id for found in clean(engine, everything=False, say=said.append).removed] == [over.id]
    assert said == [f"removing two {over.id}, expired at {over.expires}"]


def test_an_expired_bed_makes_way_for_a_new_one_of_its_name(call: Callable[..., DeployedBed]) -> None:
    over = call(life=timedelta(seconds=-1))
    assert call().id != over.id


@pytest.mark.parametrize(
    ("text", "expired"),
    [("", False), ("soon", False), ("2001-01-01T00:00:00", False), ("2001-01-01T00:00:00+00:00", True)],
)
def test_an_end_that_no_clock_can_read_is_none(call: Callable[..., DeployedBed], text: str, *, expired: bool) -> None:
    assert replace(call(), expires=text).expired is expired


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400)])
def test_a_life_time_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert lifetime(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "2", "h", "0s", "-1h", "1.5h", "2 h", "1w", "2h30m", "9999999d", "٢h"])
def test_what_is_no_life_time_is_a_usage_error(testbed: Command, text: str) -> None:
    ended = testbed("up", f"--for={text}")
    assert ended.names("the lifetime of a bed")
    assert (ended.code, "2h" in ended.err) == (ExitCode.USAGE, True)
