"""A run in one file: what it holds, what is refused of a stranger's, and what a second run is compared by."""

import errno
import hashlib
import io
import json
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import scenarios
from orchestrator.bed.model import Bed, Strict, parse_bed
from orchestrator.cli import run as cli_run
from orchestrator.errors import ExitCode, HostCannot, InvalidInput
from orchestrator.interrupts import Interrupted
from orchestrator.measurements.verdict import Outcome
from orchestrator.report import many
from orchestrator.runs import capsule, runner
from orchestrator.runs.runner import Finished
from orchestrator.scenarios import relay_throughput
from tests.unit import disk
from tests.unit.cli import test_errors as test_cli_errors
from tests.unit.cli.test_errors import Command
from tests.unit.runs.test_runner import Asked, Breaking, Steps

testbed = test_cli_errors.testbed


class Params(Strict):
    """Those of a scenario that would change the host."""

    workers: int = 1
    """Of the name server."""
    allow_host_changes: bool = False
    """Consent."""


class Travelling(Asked):
    """A question that a capsule can hold."""

    name = "travelling"
    params: type[Strict] = Params

    def bed(self, params: Any) -> Bed:  # noqa: D102
        dns = {"service": "bind", "settings": {"workers": params.workers}}
        return parse_bed({"name": "one", "domains": 2, "nodes": {"dns": dns}}, "bed")


@pytest.fixture(autouse=True)
def _scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "known", lambda: {"travelling": Travelling()})


def run(runs: Path, **params: Any) -> Finished:
    """Run it on the fake engine."""
    return runner.run(
        Travelling(), Params(**params), connect=Breaking, runs=runs, parent=None, command=["testbed"], steps=Steps()
    )


@pytest.fixture(scope="module")
def capsule_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a capsule, once."""
    folder = tmp_path_factory.mktemp("capsule")
    path = folder / "a.capsule.json"
    capsule.write(capsule.make(run(folder, allow_host_changes=True).rundir), path)
    return path.read_text()


@pytest.fixture
def made(tmp_path: Path, capsule_text: str) -> Path:
    """Give a test a capsule of its own."""
    path = tmp_path / "a.capsule.json"
    path.write_text(capsule_text)
    return path


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a capsule as its maker, or a stranger, could have."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def test_a_capsule_holds_what_a_second_run_needs_and_what_it_is_compared_by(made: Path) -> None:
    held = capsule.read(made)
    assert held.params == {"workers": 1}
    assert held.signature.outcome is Outcome.CONFIRMED
    assert "listen-on" in str(held.config["dns"]["/etc/bind/testbed/named.conf"].text)
    assert {"images", "daemons", "source", "engine", "sysctls"} <= held.environment.keys()


def test_the_same_run_here_is_the_same(made: Path, tmp_path: Path) -> None:
    held = capsule.read(made)
    _, params = capsule.question(held)
    compared = capsule.compare(held, run(tmp_path / "again", **params.model_dump()))
    assert (compared["environment"], compared["config"]) == ([], [])
    assert capsule.exit_code(compared) is ExitCode.OK


def test_what_differs_is_named(made: Path, tmp_path: Path) -> None:
    def elsewhere(data: dict[str, Any]) -> None:
        data["environment"]["engine"]["kernel"] = "5.10\x1b[31m"
        data["environment"]["memory_available_b"] = 1
        data["environment"]["daemons"]["dns"] = "BIND 9.16"
        conf = data["config"]["dns"]["/etc/bind/testbed/named.conf"]
        conf["text"] = conf["text"].replace("minimal-responses yes", "minimal-responses no")
        data["config"]["dns"]["/only/there"] = {"sha256": "0" * 64, "text": "x"}

    held = capsule.read(changed(made, elsewhere))
    compared = capsule.compare(held, run(tmp_path / "again"))
    assert [name for name, _, _ in compared["environment"]] == ["engine kernel", "daemons dns"]
    only, conf = sorted(compared["config"], key=lambda c: len(c["diff"]))
    assert (only["path"], only["diff"]) == ("/only/there", "only in the capsule")
    assert "-    minimal-responses no;\n+    minimal-responses yes;" in conf["diff"]
    console = Console(file=io.StringIO(), width=100)
    page = many.comparison({**compared, "question": "?", "runs": [], "command": ["testbed"]})
    many.show(page, [], console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "5.10\\x1b[31m" in shown
    assert "\x1b" not in shown
    assert "Differences in the environment: 4" in shown


@pytest.mark.parametrize(
    ("here", "code"),
    [
        (Outcome.CONFIRMED, ExitCode.OK),
        (Outcome.REFUTED, ExitCode.UNEXPECTED),
        (Outcome.INCONCLUSIVE, ExitCode.INCONCLUSIVE),
    ],
)
def test_the_outcome_decides_how_it_ends(made: Path, tmp_path: Path, here: Outcome, code: ExitCode) -> None:
    finished = run(tmp_path / "again")
    finished = replace(finished, verdict=finished.verdict.model_copy(update={"outcome": here}))
    assert capsule.exit_code(capsule.compare(capsule.read(made), finished)) is code


@pytest.mark.parametrize("word", ["1e999", "-1e999", "NaN"])
@pytest.mark.parametrize("place", ["figures", "params", "environment"])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(made: Path, place: str, word: str) -> None:
    def mark(data: dict[str, Any]) -> None:
        (data["signature"] if place == "figures" else data)[place]["a"] = "HERE"

    made.write_text(changed(made, mark).read_text().replace('"HERE"', word))
    with pytest.raises(InvalidInput, match="is not a finite number"):
        capsule.read(made)


def test_no_capsule_is_written_that_is_no_json(made: Path, tmp_path: Path) -> None:
    taken = capsule.read(made)
    broken = taken.model_copy(update={"params": {"seconds": float("inf")}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        capsule.write(broken, tmp_path / "b.capsule.json")
    assert not (tmp_path / "b.capsule.json").exists()


def test_a_run_that_could_not_be_judged_is_compared_by_its_reason(made: Path, tmp_path: Path) -> None:
    finished = run(tmp_path / "again")
    verdict = finished.verdict.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "reason": "It was too short."})
    held = capsule.read(made)
    assert capsule.compare(held, replace(finished, verdict=verdict))["claim"] == [held.signature.claim, verdict.reason]
    facts = finished.rundir.load()
    finished.rundir.save({**facts, "verdict": verdict.model_dump()})
    assert capsule.make(finished.rundir).signature.claim == verdict.reason


def test_consent_is_given_here_or_not_at_all(made: Path) -> None:
    assert capsule.question(capsule.read(made))[1] == Params()
    assert capsule.question(capsule.read(made), consent=True)[1] == Params(allow_host_changes=True)
    taken = capsule.read(changed(made, lambda data: data["params"].update(allow_host_changes=True)))
    with pytest.raises(InvalidInput, match="without consent to change this host"):
        capsule.question(taken)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a newer format": (lambda data: data.update(format=2), "of format 1; found .*: format 2"),
    "a format that is none": (lambda data: data.update(format="1"), "of format 1"),
    "no format": (lambda data: data.pop("format"), "JSON of another kind"),
    "an unknown key": (lambda data: data.update(run="rm -rf"), "run: unknown key"),
    "a digest that is none": (lambda data: data["config"]["dns"].update(x={"sha256": "../"}), "sha256"),
    "an outcome that is none": (lambda data: data["signature"].update(outcome="PASSED"), "signature.outcome"),
    "too many figures": (lambda data: data["signature"].update(figures=dict.fromkeys(map(str, range(999)), 1)), "200"),
    "deep nesting": (lambda data: data.update(bed=json.loads('{"a":' * 300 + "1" + "}" * 300)), "a valid capsule"),
    "a word without end": (lambda data: data.update(command=["x" * 5000]), "4096"),
}


@pytest.mark.parametrize(("change", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_capsule_is_refused(made: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        capsule.read(changed(made, change))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("[]", "JSON of another kind"),
        ("[" * 100 + "]" * 100, "JSON of another kind"),
        ('{"format": NaN}', "NaN"),
        (" " * (capsule.MAX_FILE_B + 1), "it is larger"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=said):
        capsule.read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scenario": "no-such-thing"}, "choose one of travelling"),
        ({"scenario": "../../x"}, "choose one of travelling"),
        ({"params": {"colour": "red"}}, "colour: unknown key"),
        ({"params": {"workers": 4096}}, "less than or equal to 1024"),
    ],
)
def test_what_is_not_known_here_is_not_run(made: Path, change: dict[str, Any], said: str) -> None:
    held = capsule.read(changed(made, lambda data: data.update(change)))
    with pytest.raises(InvalidInput, match=said):
        capsule.question(held)


PROGRAM = "#!/usr/bin/perl\nprint 1"


@pytest.fixture
def bringing(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a capsule that brings a configuration and a program."""
    monkeypatch.setattr(scenarios, "known", lambda: {"relay-throughput": relay_throughput.SCENARIO})
    files = {"/etc/postfix/main.cf": "myhostname = relay.test\n", "/usr/local/lib/policy.pl": PROGRAM}
    return changed(made, lambda data: data.update(scenario="relay-throughput", params={"relay_files": files}))


class Terminal(io.StringIO):
    """A terminal at which somebody types."""

    def isatty(self) -> bool:  # noqa: D102
        return True


def test_the_files_that_a_capsule_brings_run_only_with_consent(
    bringing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_of_many(*_: object) -> Callable[[Any], Finished]:
        raise Interrupted(signal.SIGINT)  # a run would begin here

    monkeypatch.setattr(cli_run, "one_of_many", one_of_many)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(HostCannot, match="consent") as refused:
        cli_run._again(bringing, runs=tmp_path / "runs")
    assert "/etc/postfix/main.cf, /usr/local/lib/policy.pl (a program)" in refused.value.found
    assert "--trust-files" in refused.value.do
    assert not (tmp_path / "runs").exists()
    with pytest.raises(Interrupted):
        cli_run._again(bringing, trust_files=True, runs=tmp_path / "runs")
    answers: dict[str, type[BaseException]] = {
        "y\n": Interrupted, "n\n": HostCannot, "\n": HostCannot, "": HostCannot,
    }  # fmt: skip
    for answer, ends in answers.items():
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        with pytest.raises(ends):
            cli_run._again(bringing, runs=tmp_path / "runs")
        assert "policy.pl (a program)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "written"), [("cap9", "cap9.json"), ("a b.json", "a b.json"), ("v1.2", "v1.2.json"), (None, None)]
)
def test_the_hint_of_a_capsule_names_a_command_that_works(
    testbed: Command, tmp_path: Path, given: str | None, written: str | None
) -> None:
    made = run(tmp_path / "runs").rundir
    ended = testbed("capsule", made.path.name, *(("-o", given) if given else ()))
    words = shlex.split(ended.out.split("`")[1])
    assert words == ["testbed", "run", written or f"{made.path.name}.capsule.json"]
    assert capsule.read(tmp_path / words[2])
    assert testbed(*words[1:]).names("a container engine that answers")


def test_a_run_without_a_verdict_makes_no_capsule(tmp_path: Path) -> None:
    rundir = run(tmp_path).rundir
    rundir.save({**rundir.load(), "verdict": None, "status": "interrupted"})
    with pytest.raises(InvalidInput, match="it is interrupted"):
        capsule.make(rundir)


def test_long_files_travel_as_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capsule, "MAX_CONFIG_B", 900)
    held = capsule.make(run(tmp_path).rundir)
    texts = [file.text for file in held.config["dns"].values()]
    assert None in texts
    assert sum(len(text) for text in texts if text) <= 900
    compared = capsule.compare(held, run(tmp_path))
    assert compared["config"] == []


def test_a_full_disk_hides_no_interrupt_of_a_capsule(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_of_many(*_: object) -> Callable[[Any], Finished]:
        def ask(_: Any) -> Finished:
            disk.fill()
            raise Interrupted(signal.SIGINT)

        return ask

    monkeypatch.setattr(cli_run, "one_of_many", one_of_many)
    with disk.full(1 << 30), pytest.raises(Interrupted) as caught:
        cli_run._again(made, runs=tmp_path)
    assert "capsule.json could not be updated: File too large" in caught.value.__notes__[0]


def test_a_page_that_cannot_be_written_costs_no_answer(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = run(tmp_path / "again")

    def fail(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli_run, "one_of_many", lambda *_: lambda _: finished)
    monkeypatch.setattr(many, "write", fail)
    with pytest.raises(HostCannot, match=r"report\.html.*No space left"):
        cli_run._again(made, runs=tmp_path)
    assert capsys.readouterr().out.lstrip().startswith("CONFIRMED")


def test_the_text_of_own_files_travels_once_and_a_capsule_that_nobody_could_read_is_not_written(
    tmp_path: Path, made: Path
) -> None:
    bed = {"nodes": {"relay": {"service": "postfix", "files": {"/etc/x": "secret"}}, "dns": {"service": "bind"}}}
    digest = hashlib.sha256(b"secret").hexdigest()
    assert capsule._without_texts(bed) == {
        "nodes": {"relay": {"service": "postfix", "files": {"/etc/x": digest}}, "dns": {"service": "bind"}}
    }
    held = capsule.read(made)
    large = held.model_copy(update={"params": {"text": "x" * capsule.MAX_FILE_B}})
    with pytest.raises(InvalidInput, match="a capsule of at most"):
        capsule.write(large, tmp_path / "large.json")
    assert not (tmp_path / "large.json").exists()
