"""Commands about the nodes of a bed, whatever state these are in."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bed import builtin
from orchestrator.bed.model import parse_bed
from orchestrator.cli import shell
from orchestrator.cli.progress import Steps, Within
from orchestrator.errors import EngineFailed, ExitCode
from orchestrator.hosts import ContainerSpec, NetworkSpec, Output, Overdue, capacity, docker, images, ownership
from orchestrator.hosts.fake import FakeHost
from orchestrator.hosts.ownership import Identity, Kind, deployed_beds
from orchestrator.plan import make_plan
from orchestrator.up import keep
from orchestrator.up.attach import BED_FILE, saved_bed
from tests.unit.cli import test_errors as test_cli_errors
from tests.unit.cli.test_errors import Command
from tests.unit.hosts.test_ownership import build
from tests.unit.runs import test_runner
from tests.unit.up.test_collect import V2

testbed = test_cli_errors.testbed
HOSTILE = "\x1b]0;owned\x07"


class HalfUp(FakeHost):
    """The relay of its bed runs, the sink has ended, the DNS was never started."""

    def __init__(self) -> None:
        super().__init__(
            answer=lambda *_: Output(status=3, stdout=HOSTILE, stderr=HOSTILE), prints=lambda _: [HOSTILE, "two"]
        )
        nodes = {name: {"service": service} for name, service in SERVICES.items()}
        bed = parse_bed({"name": "x", "nodes": nodes}, "bed")
        identity = Identity.new(bed, Kind.UP)
        files = {BED_FILE: saved_bed(make_plan(bed, cpus=2), 2)}
        self.ids = {
            name: self.create(
                ContainerSpec(
                    name=identity.name(name),
                    image="x",
                    command=(),
                    labels=identity.labels(node=name, service=service),
                    files=files,
                )
            ).id
            for name, service in SERVICES.items()
        }
        self.create_network(NetworkSpec(name=identity.name("control"), driver="bridge", labels=identity.labels()))
        self.start(self.ids["relay"])
        self.start(self.ids["sink"])
        self.end(self.ids["sink"], 3)
        self.goes = ""
        """Node that is removed while its statistics are asked for."""

    def stats(self, container: str) -> Iterator[dict[str, Any]]:
        """As a real engine: of a container that does not run, empty readings without an end."""
        if container == self.ids.get(self.goes):
            self.remove(container)
            raise EngineFailed("statistics", "no such container", "see whether it runs")
        running = self.found(container).state == "running"
        for second in range(1000):
            yield {**V2, "read": f"2026-11-23T01:31:{second % 60:02}Z" if running else "0001-01-01T00:00:00Z"}


SERVICES = {"dns": "bind", "relay": "postfix", "sink": "blackhole"}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> HalfUp:
    made = HalfUp()
    monkeypatch.setattr(docker, "connect", lambda: made)
    return made


def test_stats_shows_a_node_that_does_not_run_by_its_state(testbed: Command, host: HalfUp) -> None:
    told = json.loads(testbed("stats", "--format", "json").out)
    assert {name: use["state"] for name, use in told.items()} == {
        "dns": "created",
        "relay": "running",
        "sink": "exited",
    }
    assert {name: use["memory_b"] is None for name, use in told.items()} == {"dns": True, "relay": False, "sink": True}
    rows = {row.split()[0]: row.split()[1:] for row in testbed("stats").out.splitlines()}
    assert rows["sink"] == ["exited", *"-----"]
    assert rows["relay"][0] == "running"
    host.goes = "relay"
    assert "relay     removed" in testbed("stats").out


def test_statistics_that_an_engine_refuses_of_a_running_node_are_an_error(
    testbed: Command, host: HalfUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_container: str) -> Iterator[dict[str, Any]]:
        raise EngineFailed("statistics", "refused", "see its log")

    monkeypatch.setattr(host, "stats", refuse)
    assert testbed("stats").code == ExitCode.ENGINE


@pytest.mark.parametrize(("node", "state"), [("sink", "exited"), ("dns", "created")])
def test_a_command_in_a_node_that_does_not_run_is_refused_with_its_state(
    testbed: Command, host: HalfUp, node: str, state: str
) -> None:
    assert host.ids[node]
    ended = testbed("exec", node, "--", "true")
    assert ended.names(f"node {node} running")
    assert (f"it is {state}" in ended.err, ended.code) == (True, ExitCode.ENGINE)


@pytest.mark.parametrize("words", [("ps",), ("logs", "sink"), ("logs", "dns")], ids=" ".join)
@pytest.mark.usefixtures("host")
def test_a_node_that_does_not_run_is_listed_and_its_log_is_there(testbed: Command, words: tuple[str, ...]) -> None:
    ended = testbed(*words)
    assert ended.code == 0
    assert all(word in ended.out for word in (("created", "exited", "running") if words == ("ps",) else ("two",)))


def test_ps_and_doctor_name_the_walls_that_nobody_could_look_at_and_doctor_the_disks(
    testbed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = test_runner.Breaking()
    monkeypatch.setattr(docker, "connect", lambda: host)
    for id_ in ("0000000a", "0000000b"):
        build(host, Identity(id=id_, bed="bed", kind=Kind.UP, nodes=("n0", "n1"), private=False))
    host.end("tb-0000000a-n0", 1)
    host.node("tb-0000000b-n1").remove()

    shown = testbed("ps").out
    assert "  not looked at: node n0: it is exited; do: `testbed down 0000000a`, then `testbed up` again\n" in shown
    assert "  n1                  removed" in shown
    told = {bed["id"]: bed["not_looked_at"] for bed in json.loads(testbed("ps", "--format", "json").out)}
    assert [wall["found"] for wall in told["0000000b"]] == ["it is removed"]

    checks = json.loads(testbed("doctor", "--domains", 2, "--format", "json").out)
    assert {check["name"] for check in checks} >= {"disk for the engine's data, MiB", "disk for runs in runs, MiB"}
    (walls,) = (check for check in checks if check["name"] == "walls of the beds that are up")
    assert (walls["state"], walls["needed"]) == ("warn", "all of them closed")
    assert walls["found"] == (
        "closed: bed 0000000a (node n1), bed 0000000b (node n0); "
        "not looked at: bed 0000000a (node n0: it is exited), bed 0000000b (node n1: it is removed)"
    )
    assert "`testbed down 0000000a`, then `testbed up` again" in walls["do"]


@pytest.mark.parametrize("words", [("exec", "n1", "--", "true"), ("logs", "n1")], ids=" ".join)
def test_a_node_whose_container_is_gone_is_named_so(
    testbed: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    host = FakeHost()
    monkeypatch.setattr(docker, "connect", lambda: host)
    build(host, Identity(id="0000000a", bed="bed", kind=Kind.UP, nodes=("n0", "n1"), private=False))
    host.end("tb-0000000a-n0", 1)
    host.node("tb-0000000a-n1").remove()
    ended = testbed(*words)
    assert ended.names("node n1 of bed bed")
    assert ("its container was removed" in ended.err, ended.code) == (True, ExitCode.ENGINE)


@pytest.mark.parametrize(
    ("words", "node"),
    [
        (("dns", "rules"), "gate"),
        (("dns", "queries"), "gate"),
        (("dns", "fail", "example.com", "MX"), "gate"),
        (("dns", "clear"), "gate"),
        (("dns", "set", "example.com", "TXT", "x"), "dns"),
        (("inbox",), "inbox"),
        (("wait-mail",), "inbox"),
    ],
    ids=" ".join,
)
def test_a_command_about_mail_or_dns_names_its_node_that_has_ended_or_is_gone(
    testbed: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], node: str
) -> None:
    host = FakeHost()
    monkeypatch.setattr(docker, "connect", lambda: host)
    bed = builtin.bed("mail")
    identity, files = Identity.new(bed, Kind.UP), {BED_FILE: saved_bed(make_plan(bed, cpus=2), 2)}
    for name in bed.nodes:
        labels = identity.labels(node=name)
        spec = ContainerSpec(name=identity.name(name), image="x", command=(), labels=labels, files=files)
        host.create(spec).start()
    host.create_network(NetworkSpec(name=identity.name("control"), driver="bridge", labels=identity.labels()))
    host.end(identity.name(node), 0)
    ended = testbed(*words)
    assert ended.names(f"node {node} running"), ended.err
    assert ("it is exited" in ended.err, ended.code) == (True, ExitCode.ENGINE)
    assert f"see `testbed logs --bed {identity.id} {node}`" in ended.err
    host.remove(identity.name(node))
    ended = testbed(*words)
    assert ended.names(f"node {node} of bed mail"), ended.err
    assert ("its container was removed" in ended.err, ended.code) == (True, ExitCode.ENGINE)


def test_stats_shows_a_node_whose_container_is_gone(testbed: Command, host: HalfUp) -> None:
    host.remove(host.ids["sink"])
    assert "sink      removed" in testbed("stats").out


def test_stats_of_a_bed_of_another_version_is_refused_as_exec_and_logs_are(
    testbed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost()
    monkeypatch.setattr(docker, "connect", lambda: host)
    build(host, Identity(id="0000000a", bed="bed", kind=Kind.UP, nodes=("n0", "n1"), private=False))
    for words in (("stats",), ("logs", "n0"), ("exec", "n0", "true")):
        assert testbed(*words).names("a bed of this version of testbed"), words


def test_a_node_that_is_not_made_yet_is_waited_for(testbed: Command, host: HalfUp) -> None:
    host.remove(host.ids["sink"])
    assert testbed("logs", "sink").names("another command is bringing it up")


def test_a_bed_that_is_being_brought_up_is_waited_for(testbed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = (("stats",), ("logs", "n0"), ("exec", "n0", "true"), ("logs", "n1"), ("graph", "bed"))
    for nodes in (0, 1, 2):
        host = FakeHost()
        monkeypatch.setattr(docker, "connect", lambda made=host: made)
        identity = Identity(id="0000000a", bed="bed", kind=Kind.UP, nodes=("n0", "n1"), private=False)
        build(host, identity, nodes=nodes, started=0)
        for words in commands:
            ended = testbed(*words)
            assert ended.names("bed bed 0000000a up"), words
            assert "another command is bringing it up" in ended.err
    monkeypatch.setattr(ownership, "owner_state", lambda _: ownership.Owner.DEAD)
    for words in commands:
        assert testbed(*words).names("`testbed clean` removes it"), words


def test_down_without_a_name_leaves_the_bed_of_a_run(testbed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    host = FakeHost()
    monkeypatch.setattr(docker, "connect", lambda: host)
    build(host, Identity(id="0000000a", bed="bed", kind=Kind.RUN, nodes=("n0", "n1"), private=False))
    there = host.find({})
    ended = testbed("down")
    assert ended.names("bed 0000000a (of a run)")
    assert (ended.code, host.find({})) == (ExitCode.USAGE, there)
    build(host, Identity(id="0000000b", bed="bed", kind=Kind.UP, nodes=("n0", "n1"), private=False))
    assert testbed("down").code == 0
    assert host.find({}) == there
    assert testbed("down", "0000000a").code == 0
    assert host.find({}) == []


def test_a_bed_that_does_not_exist_is_answered_with_those_that_do(
    testbed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost()
    monkeypatch.setattr(docker, "connect", lambda: host)
    for words in (("stats", "nosuch"), ("stats",)):
        assert testbed(*words).names("bring one up: `testbed up`"), words
    for id_ in ("0000000a", "0000000b"):
        build(host, Identity(id=id_, bed="bed", kind=Kind.UP, nodes=("n0", "n1"), private=False))
    assert testbed("stats", "nosuch").names("found:  bed 0000000a, bed 0000000b")


@pytest.mark.parametrize("words", [("stats",), ("down",), ("graph",), ("logs", "relay", "--bed")], ids=" ".join)
def test_every_command_about_a_bed_takes_its_name_or_its_id(
    testbed: Command, host: HalfUp, words: tuple[str, ...]
) -> None:
    host.answer = lambda *_: Output(status=0, stdout="", stderr="")
    assert testbed(*words, deployed_beds(host)[0].id).code == 0
    if words != ("down",):
        assert testbed(*words, "x").code == 0


def test_every_hint_works_as_it_is_printed_while_another_bed_is_up(
    testbed: Command, host: HalfUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(host, Identity(id="0000000a", bed="x", kind=Kind.UP, nodes=("n0", "n1"), private=False))
    deployed = next(bed for bed in deployed_beds(host) if bed.id != "0000000a")
    monkeypatch.setattr(keep, "up", lambda *_, **__: deployed)
    host.answer = lambda *_: Output(status=0, stdout="", stderr="")
    for words in (("logs", "relay"), ("exec", "relay", "id"), ("logs", "relay", "--bed", "x")):
        assert testbed(*words).names("give `--bed ID`, ID from `testbed ps`"), words
    for others in (("stats",), ("down",), ("stats", "x")):
        assert testbed(*others).names(f"give `testbed {others[0]} ID`, ID from `testbed ps`"), others
    ended = testbed("exec", "sink", "--bed", deployed.id, "true")
    hints = [ended.err.split("`")[1], *testbed("up").out.rpartition("next: ")[2].strip().split(", ")]
    assert [hint.split()[1] for hint in hints] == ["logs", "stats", "exec", "down"]
    for hint in hints:
        assert testbed(*hint.split()[1:]).code == 0, hint


def test_a_command_that_takes_too_long_is_shown_until_then_with_its_option(
    testbed: Command, host: HalfUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object, timeout: float, **__: object) -> Output:
        raise Overdue(("sleep", "9"), timeout, stdout="out\n", stderr="err\n")

    monkeypatch.setattr(host, "exec", late)
    ended = testbed("exec", "--timeout", "1", "relay", "--", "sleep", "9")
    assert ended.names("--timeout (now 1 s)")
    assert (ended.out, ended.err.startswith("err\n"), ended.code) == ("out\n", True, ExitCode.ENGINE)
    ended = testbed("exec", "--timeout", "1", "--format", "json", "relay", "--", "sleep", "9")
    assert json.loads(ended.out) == {"status": None, "stdout": "out\n", "stderr": "err\n"}


@pytest.mark.usefixtures("host")
def test_a_node_says_nothing_to_a_terminal_but_text(testbed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert testbed("logs", "relay").out == f"{HOSTILE}\ntwo\n"
    raw = testbed("exec", "relay", "--", "true")
    assert (raw.out, raw.err, raw.code) == (HOSTILE, HOSTILE, 3)
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    shown = "\\x1b]0;owned\\x07"
    assert testbed("logs", "relay").out == f"{shown}\ntwo\n"
    ended = testbed("exec", "relay", "--", "true")
    assert (ended.out, ended.err, ended.code) == (shown, shown, 3)


@pytest.mark.parametrize("folder", ["there", "new/one"])
@pytest.mark.usefixtures("host")
def test_up_removes_only_the_folders_that_it_made(
    testbed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        assert list((tmp_path / folder).glob("*-up/run.json"))
        raise EngineFailed("a network", "none", "make room")

    monkeypatch.setattr(images, "ensure", lambda *_: [])
    monkeypatch.setattr(capacity, "read", lambda *_, **__: None)
    monkeypatch.setattr(capacity, "admit", lambda *_, **__: None)
    monkeypatch.setattr(capacity, "check", lambda *_: [])
    monkeypatch.setattr(keep, "bring_up", refuse)
    (tmp_path / "there").mkdir()
    assert testbed("up", "--domains", 2, "--runs", tmp_path / folder).names("make room")
    assert (tmp_path / "there").is_dir()
    assert not (tmp_path / "new").exists()


def test_progress_and_messages_are_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    with Steps() as steps, steps.step(HOSTILE):
        steps.say(HOSTILE)
        steps.show(HOSTILE)
        Within(steps).say(HOSTILE)
    shell.say(HOSTILE)
    shell.tell(HOSTILE)
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert (said.err.count("\\x1b]0;owned\\x07"), said.out) == (4, "\\x1b]0;owned\\x07\n")
