"""Bad input, from the command line to its end: needed, found, do on one screen, and the documented exit code."""

import errno
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator import cli
from orchestrator.bed import zones
from orchestrator.cli import chosen, shell
from orchestrator.errors import EngineFailed, ExitCode, InvalidInput
from orchestrator.hosts import ContainerSpec, Output, docker
from orchestrator.hosts.capacity import room_for_runs
from orchestrator.hosts.fake import FakeHost
from orchestrator.hosts.ownership import Identity, Kind
from orchestrator.interrupts import Interrupted
from tests.unit.hosts.test_ownership import build
from tests.unit.runs.test_runner import READING

NODES = "nodes: {dns: {service: bind}}\n"
FILES_OF = "name: x\nnodes: {{r: {{service: postfix, files: {{/etc/postfix/main.cf: '{}'}}}}}}\n"
OWN_FILE = "name: x\nnodes: {{r: {{service: postfix, files: {{'{}': {{text: x}}}}}}}}\n"
POSTFIX = "name: x\nnodes: {{r: {{service: postfix, settings: {{main_cf: {{{}}}}}}}}}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def names(self, word: str) -> bool:
        """Say whether this is the message of a problem that names ``word``, and fits a screen."""
        lines = self.err.splitlines()
        heads = [
            next((line for line in lines if line.startswith(f"{head}:")), "") for head in ("needed", "found", "do")
        ]
        return all(heads) and word in self.err and len(lines) <= 24 and "Traceback" not in self.err


Command = Callable[..., Ended]
made_once = functools.cache(typer.main.get_command)
"""Typer makes all commands anew for each call: here are some ninety."""


@pytest.fixture
def testbed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Command]:
    """Return the command, called in this process, in an empty folder and with no engine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.setattr(typer.main, "get_command", made_once)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["testbed", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Ended(code=code, out=said.out, err=said.err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _nested_aliases() -> str:
    levels = [
        f"{name}: &{name} [{','.join(f'*{before}' for _ in range(9))}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    return "\n".join(["a: &a [1, 1]", *levels])


def long_name(octets: int) -> str:
    """Return a domain of this length, its labels as long as they may be."""
    labels = [63] * ((octets - 5) // 64)
    return ".".join("a" * length for length in [*labels, octets - 5 - 64 * len(labels)]) + ".test"


FILES: dict[str, tuple[bytes | str, str]] = {
    **{
        f"a domain of {octets} octets": (f"name: x\ndomains: [{long_name(octets)}]\n{NODES}", "at most 248")
        for octets in (249, 250, 251, 253, 254, 300)
    },
    "a label of 64 octets": (f"name: x\ndomains: [{'a' * 64}.test]\n{NODES}", "at most 63"),
    "an unknown key": (f"name: x\ncolour: red\n{NODES}", "colour: unknown key"),
    "an unknown key of a node": ("name: x\nnodes: {dns: {service: bind, colour: red}}", "nodes.dns.colour"),
    "a key twice": ("name: x\nnodes: {dns: {service: bind}, dns: {service: postfix}}", "'dns' is repeated"),
    "a domain with a space": (f"name: x\ndomains: ['a b.test']\n{NODES}", "a b.test"),
    "a domain with a semicolon": (f"name: x\ndomains: ['a;b.test']\n{NODES}", "a;b.test"),
    "a domain with a line break": (f'name: x\ndomains: ["a\\nb.test"]\n{NODES}', "a\\nb.test"),
    "no domain": (f"name: x\ndomains: 0\n{NODES}", "greater than or equal to 1"),
    "10 million domains": (f"name: x\ndomains: 10000000\n{NODES}", "65536"),
    "no address": ("name: x\nnodes: {dns: {service: bind, addresses: 0}}", "nodes.dns.addresses"),
    "10 million addresses": ("name: x\nnodes: {dns: {service: bind, addresses: 10000000}}", "65536"),
    "more than the range holds": (
        "name: x\ndomains: 65536\nnodes: {dns: {service: bind, addresses: 65536}}",
        "131,072",
    ),
    "somebody's subnet": (f"name: x\nsubnet: 10.0.0.0/8\n{NODES}", "198.18.0.0/15"),
    "a subnet with host bits": (f"name: x\nsubnet: 198.18.0.1/24\n{NODES}", "host bits"),
    "a subnet that is too small": (f"name: x\nsubnet: 198.18.0.0/31\n{NODES}", "at least /27"),
    "a release that does not exist": ("name: x\nnodes: {dns: {service: bind, release: potato}}", "potato"),
    "a service that does not exist": ("name: x\nnodes: {r: {service: sendmail}}", "choose one of bhm, bind"),
    "an interface that is none": (f"name: x\nparent: 'eth0; id'\n{NODES}", "eth0; id"),
    "a line break in main.cf": (POSTFIX.format('myhostname: "a\\nrelayhost = b"'), "one line of printable"),
    "a name with a blank in main.cf": (POSTFIX.format("'a b': x"), "main.cf"),
    "a file beside the bed that is not there": (FILES_OF.format("main.cf"), "No such file"),
    "a file that lies elsewhere": (FILES_OF.format("../../../../etc/passwd"), "a file of text below"),
    "a file by its absolute name": (FILES_OF.format("/etc/passwd"), "beside"),
    "a file that the bed writes": (OWN_FILE.format("/testbed/enter"), "written by the bed"),
    "a file that the engine writes": (OWN_FILE.format("/etc/resolv.conf"), "written by the bed or the engine"),
    "a file that leaves its folder": (OWN_FILE.format("/etc/../testbed/enter"), "without '..'"),
    "a file with a shell's words": (OWN_FILE.format("/etc/$(id)"), "plain characters"),
    "a file that its service writes": (
        OWN_FILE.format("/var/spool/postfix/quick-start"),
        "that its service does not write",
    ),
    "nothing": ("", "got 'None'"),
    "a list": ("- a", "dictionary"),
    "binary data": (bytes(range(256)), "codec can't decode"),
    "a program in YAML": ("!!python/object/apply:os.system [id]", "constructor"),
    "a date that is none": (f"name: 2001-13-45\n{NODES}", "month"),
    "aliases of aliases": (_nested_aliases(), "an alias"),
    "a list that holds itself": (f"name: x\ndomains: &d [*d]\n{NODES}", "an alias"),
    "deep nesting": ("[" * 20_000, "levels of nesting"),
    "a word that moves the cursor": (f'name: "\\e[31m"\n{NODES}', "\\x1b[31m"),
}


@pytest.mark.parametrize(("content", "said"), FILES.values(), ids=FILES)
def test_a_bed_file_that_cannot_be_used_is_named(
    testbed: Command, tmp_path: Path, content: bytes | str, said: str
) -> None:
    bed = tmp_path / "bed.yaml"
    bed.write_bytes(content if isinstance(content, bytes) else content.encode())
    ended = testbed("plan", bed)
    assert ended.names(said), ended.err
    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert "\x1b" not in ended.err


def test_a_bed_file_that_cannot_be_read_is_named(testbed: Command, tmp_path: Path) -> None:
    for bed, said in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none.yaml", "No such file"),
        ("/dev/zero", "it is larger"),
        ("relai", "choose one of mail, relay"),
        ("./a\x1b[31m.yaml", "\\x1b[31m"),
    ):
        ended = testbed("plan", bed)
        assert ended.names(said), ended.err
        assert ended.code == ExitCode.USAGE


@pytest.mark.parametrize(
    "words",
    [
        ("--seconds", "-1"),
        ("--seconds", "nan"),
        ("--rate", "nan"),
        ("--rate", "0"),
        ("--rate", "inf"),
        ("--size", "1"),
        ("--domains", "0"),
        ("--domains", "10000000"),
        ("--connections", "0"),
        ("--calibration", "0"),
        ("--relay", "sendmail"),
        ("--relay", "bind"),
        ("--relay-release", "potato"),
        ("--relay-cpus", "-1"),
        ("--parent", "x/y"),
        ("--parent", "longer-than-a-device"),
        ("--format", "xml"),
        ("--colour", "red"),
        ("--runs", "/dev/null/runs"),
    ],
    ids=" ".join,
)
def test_a_parameter_that_makes_no_sense_ends_a_run_before_it_leaves_anything(
    testbed: Command, tmp_path: Path, words: tuple[str, str]
) -> None:
    ended = testbed("run", "relay-throughput", *words)
    assert ended.code == ExitCode.USAGE, ended.err
    assert ended.names("") or "Usage: testbed run relay-throughput" in ended.err, ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bisect", "relay-throughput", "--over", "domains"), "two whole numbers"),
        (("bisect", "relay-throughput", "--over", "domains=9..2"), "two whole numbers"),
        (("bisect", "relay-throughput", "--over", "seconds=1..2"), "a whole number"),
        (("bisect", "relay-throughput", "--over", "domains=1..70000"), "65536"),
        (("run", "relay-throughput", "--vary", "relay.colour=red"), "choose one of domains"),
        (("run", "relay-throughput", "--vary", "relay.release=bookworm,potato"), "'potato'"),
        (("run", "relay-throughput", "--vary", "relay=postfix,sendmail"), "'sendmail'"),
        (("run", "none.json"), "No such file"),
        (("doctor", "relay-throughput", "--rate", "0"), "greater than 0"),
        (("doctor", "nosuch"), "choose one of mail, relay"),
        (("capsule", "nosuch"), "runs/nosuch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_many_runs_are_refused_before_the_first_one(
    testbed: Command, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    ended = testbed(*words)
    assert ended.names(said), ended.err
    assert ended.code == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


def test_what_does_not_exist_is_named(testbed: Command, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{", encoding="utf-8")
    for words, said in (
        (("analyze", "nosuch"), "runs/nosuch"),
        (("analyze", tmp_path), "run.json"),
        (("analyze", tmp_path / "broken"), "run.json"),
        (("plan", "--files", "/dev/null/x"), "/dev/null/x"),
    ):
        ended = testbed(*words)
        assert ended.names(said), ended.err
        assert ended.code == ExitCode.USAGE
    misspelt: list[tuple[str, ...]] = [
        ("run", "nosuch"),
        ("nosuch",),
        ("plan", "--cpus", "0"),
        ("logs",),
        ("exec", "--timeout", "-1", "a", "b"),
    ]
    for wrong in misspelt:
        ended = testbed(*wrong)
        assert (ended.code, "Usage: testbed" in ended.err) == (ExitCode.USAGE, True), ended.err


def test_a_list_of_runs_leaves_a_broken_one_out_and_says_so(testbed: Command, tmp_path: Path) -> None:
    (tmp_path / "runs" / "broken").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "run.json").write_text("[", encoding="utf-8")
    ended = testbed("runs", "--format", "json")
    assert (ended.code, ended.out) == (0, "[]\n")
    assert "broken/run.json" in ended.err


def test_a_list_of_runs_names_a_verdict_that_cannot_be_read(testbed: Command, tmp_path: Path) -> None:
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "run.json").write_text(
        '{"format": 2, "scenario": "x", "verdict": -1}', encoding="utf-8"
    )
    ended = testbed("runs")
    assert ended.code == 0
    assert "runs/old: left out, because it cannot be read: verdict of run.json" in ended.err


NEED_AN_ENGINE: list[tuple[object, ...]] = [
    ("up", "--domains", 2),
    ("ps",),
    ("down",),
    ("logs", "relay"),
    ("exec", "relay", "id"),
    ("stats",),
    ("images",),
    ("clean",),
    ("run", "relay-throughput", "--domains", 2),
]


@pytest.mark.parametrize("words", NEED_AN_ENGINE, ids=lambda words: words[0])
def test_no_engine_is_said_by_every_command_that_needs_one(testbed: Command, words: tuple[object, ...]) -> None:
    ended = testbed(*words)
    assert ended.names("a container engine that answers"), ended.err
    assert ended.code == ExitCode.ENGINE


NEVER_FAIL = {("list",), ("runs",)}


def _with_format() -> Iterator[tuple[str, ...]]:
    """Yield every command and subcommand that has the option --format and can fail."""
    for name, command in made_once(cli.app).commands.items():  # type: ignore[attr-defined]
        subcommands = getattr(command, "commands", {})
        for words, made in {(name,): command, **{(name, other): below for other, below in subcommands.items()}}.items():
            if words not in NEVER_FAIL and any("--format" in option.opts for option in made.params):
                yield words


ARGUMENTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("logs",): ("relay",),
    ("exec",): ("relay", "id"),
    ("analyze",): ("nosuch",),
    ("up",): ("nosuch",),
    ("plan",): ("nosuch",),
    ("graph",): ("nosuch",),
    ("doctor",): ("nosuch",),
    ("dns", "fail"): ("example.com", "MX"),
    ("images", "save"): ("images.tar",),
    ("images", "load"): ("nosuch.tar",),
}


@pytest.mark.parametrize("words", [*_with_format(), ("run", "relay-throughput"), ("run", "none.json")], ids=" ".join)
def test_an_error_is_json_for_a_script(testbed: Command, words: tuple[str, ...]) -> None:
    ended = testbed(*words, *ARGUMENTS.get(words, ()), "--format", "json")
    told = json.loads(ended.err.splitlines()[-1])
    assert told.keys() == {"needed", "found", "do", "notes", "exit_code"}
    assert (told["exit_code"], bool(told["needed"] and told["found"] and told["do"])) == (ended.code, True)
    assert ended.code in {ExitCode.USAGE, ExitCode.ENGINE}
    assert "needed:" not in ended.err
    assert testbed("down").names("a container engine that answers")  # the next command has no --format


def test_notes_of_an_error_are_json_too(testbed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        error = EngineFailed("an engine", "\x1b[31m", "start it")
        error.add_note("bed 0000000a is not wholly removed")
        raise error

    monkeypatch.setattr(docker, "connect", refuse)
    ended = testbed("ps", "--format", "json")
    assert (json.loads(ended.err)["notes"], "\x1b" in ended.err) == (["bed 0000000a is not wholly removed"], False)


@pytest.mark.parametrize("host", ["unix://{}/no.sock", "tcp://127.0.0.1:1", "nonsense://x", "unix:///etc"])
def test_no_engine_is_said_wherever_it_should_have_been(
    testbed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host.format(tmp_path))
    ended = testbed("ps")
    assert ended.names("a container engine that answers"), ended.err
    assert ended.code == ExitCode.ENGINE
    assert host.partition(":")[0] in ended.err
    ended = testbed("doctor")
    assert ended.code == ExitCode.ENGINE
    assert "testbed setup" in ended.out


@pytest.mark.usefixtures("testbed")  # it puts the handlers of signals back
def test_a_full_disk_says_what_was_learnt_until_then(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        error = OSError(errno.ENOSPC, "No space left on device", "runs/sweep.json")
        error.add_note("runs/1: CONFIRMED")
        raise error

    with pytest.raises(SystemExit) as end:
        shell.run_guarded(fail)
    assert end.value.code == ExitCode.HOST
    assert capsys.readouterr().err.splitlines()[-1] == "runs/1: CONFIRMED"


def test_up_verifies_what_it_rendered(testbed: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host, build = FakeHost(), zones.build

    def without_an_address(*words: Any) -> dict[str, str]:
        built = build(*words)
        return {**built, "test.": built["test."].replace("mx.d0.test. A ", "mx.d1.test. A ")}

    monkeypatch.setattr(zones, "build", without_an_address)
    monkeypatch.setattr(docker, "connect", lambda: host)
    bed = tmp_path / "bed.yaml"
    bed.write_text(f"name: x\ndomains: 2\n{NODES}", encoding="utf-8")
    ended = testbed("up", bed)
    assert ended.names("an IPv4 and an IPv6 address of mx.d0.test.")
    assert ended.code == ExitCode.USAGE
    assert host.find({}) == []


def test_the_only_bed_is_found_beside_the_helper_of_another_command(
    testbed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost()
    build(host, Identity(id="0000000a", bed="bed", kind=Kind.UP, nodes=("n0", "n1"), private=False))
    helper = Identity.reading()
    host.create(ContainerSpec(name="helper", image="x", command=("true",), labels=helper.labels()))
    monkeypatch.setattr(docker, "connect", lambda: host)
    assert chosen.find(host, None, "its id").id == "0000000a"
    assert testbed("down").code == 0
    assert [found.name for found in host.find({})] == ["helper"]


@pytest.mark.usefixtures("testbed")  # it puts the handlers of signals back
def test_a_second_signal_does_not_hide_what_could_not_be_removed(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted_twice() -> None:
        first = Interrupted(signal.SIGINT)
        first.add_note("bed 0000000a is not wholly removed")
        try:
            raise first
        except Interrupted:
            raise Interrupted(signal.SIGINT)  # noqa: B904 - as the kernel does it

    with pytest.raises(SystemExit):
        shell.run_guarded(interrupted_twice)
    said = capsys.readouterr().err
    assert "bed 0000000a is not wholly removed" in said
    assert "nothing was left behind" not in said


USER_PATHS: list[tuple[str, ...]] = [
    ("runs", "--runs", "{}"),
    ("analyze", "{}"),
    ("analyze", "x", "--runs", "{}"),
    ("capsule", "x", "--runs", "{}"),
    ("up", "--runs", "{}"),
    ("run", "relay-throughput", "--runs", "{}"),
    ("run", "relay-throughput", "--relay-files", "{}"),
    ("run", "relay-throughput", "--recipients", "{}"),
    ("run", "{}.json"),
    ("plan", "{}.yaml"),
    ("plan", "--files", "{}"),
]


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[str]:
    """Return a path in a folder that is closed to this user, who is nobody if the tests run as root."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700 if os.geteuid() == 0 else 0)
    tmp_path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield "closed/inner"
    os.seteuid(user)
    folder.chmod(0o700)


@pytest.mark.parametrize("words", USER_PATHS, ids=" ".join)
def test_a_path_that_is_too_long_is_named(
    testbed: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(docker, "connect", lambda: FakeHost(lambda *_: Output(status=0, stdout=READING, stderr="")))
    monkeypatch.setattr("orchestrator.hosts.images.ensure", lambda *_: [])
    ended = testbed(*(word.format("x" * 300) for word in words))
    assert ended.names("File name too long"), ended.err
    assert ended.code == ExitCode.USAGE


@pytest.mark.parametrize("words", USER_PATHS, ids=" ".join)
def test_a_path_in_a_folder_of_another_user_is_named(
    testbed: Command, monkeypatch: pytest.MonkeyPatch, closed: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(docker, "connect", lambda: FakeHost(lambda *_: Output(status=0, stdout=READING, stderr="")))
    monkeypatch.setattr("orchestrator.hosts.images.ensure", lambda *_: [])
    ended = testbed(*(word.format(closed) for word in words))
    assert ended.names("Permission denied"), ended.err
    assert ended.code == ExitCode.USAGE


def test_the_folder_of_runs_that_the_doctor_looks_at_is_named(tmp_path: Path, closed: str) -> None:
    with pytest.raises(InvalidInput, match="Permission denied"):
        room_for_runs(tmp_path / closed)


def test_the_folder_of_runs_that_the_doctor_looks_at_may_be_too_long(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="File name too long"):
        room_for_runs(tmp_path / ("x" * 300))
