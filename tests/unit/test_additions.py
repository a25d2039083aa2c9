"""A relay, a name server, a sink, a scenario and a kind of host, each added as one file; nothing else changes."""

import ast
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import scenarios, services
from orchestrator.bed.model import Strict
from orchestrator.measurements.verdict import Outcome
from orchestrator.runs import runner
from tests.unit.runs.test_runner import READING, Steps

SERVICE = '''
"""A service of somebody else."""
import re
from orchestrator.bed.model import Strict
from orchestrator.services import Queue, Rendered, Role, Service

class Settings(Strict):
    """None."""

class Added(Service[Settings]):
    """The service."""
    name, role, image, settings = "added-{role}", Role.{ROLE}, "bind", Settings
    takes_mail, ready = Role.{ROLE} is Role.SINK, re.compile("ready")
    queue = Queue(command=("added-queue",), length=int)

    def render(self, site):
        return Rendered(command=("added-{role}", str(site.v4)), publish=("25/tcp",))

SERVICE = Added()
'''
SCENARIO = '''
"""Is the queue of the added relay empty?"""
from orchestrator.bed.model import Strict, parse_bed
from orchestrator.measurements.verdict import Outcome, Verdict
from orchestrator.scenarios import Scenario

class Params(Strict):
    """What can be varied."""
    domains: int = 3

class Asked(Scenario[Params]):
    """The scenario."""
    name, question, params = "added", "Is its queue empty?", Params

    def bed(self, params):
        nodes = {role: {"service": f"added-{role}"} for role in ("dns", "relay", "sink")}
        return parse_bed({"name": "added", "domains": params.domains, "nodes": nodes}, "bed")

    def drive(self, bed, params):
        bed.rundir.save_result("queue", {"length": bed.relay.queue_length(), "counts": bed.sink.counts})

    def judge(self, measured, params):
        empty = measured.rundir.result("queue") == {"length": 0, "counts": False}
        return Verdict(outcome=Outcome.CONFIRMED if empty else Outcome.REFUTED, claim="It is empty.", reason="So.")

SCENARIO = Asked()
'''
HOST = '''
"""Another kind of host."""
from orchestrator.hosts import Output
from tests.unit.hosts.fake import FakeHost

class Host(FakeHost):
    """Counts what it is asked to make."""

    def __init__(self, reading):
        super().__init__(lambda _, command: Output(status=0, stdout=reading(command), stderr=""), lambda _: ["ready"])
        self.made = []

    def create(self, spec):
        self.made.append(spec)
        return super().create(spec)
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Add the files from a temporary folder."""
    for package, files in {
        services: {f"added_{role}": SERVICE.replace("{role}", role).replace("{ROLE}", role.upper())
                   for role in ("dns", "relay", "sink")},
        scenarios: {"added": SCENARIO},
    }.items():  # fmt: skip
        folder = tmp_path / package.__name__
        folder.mkdir()
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        package.known.cache_clear()
    (tmp_path / "host.py").write_text(HOST)
    yield tmp_path
    monkeypatch.undo()
    services.known.cache_clear()
    scenarios.known.cache_clear()


def other_host(path: Path) -> Any:
    """Return a host of the kind that a file defines."""
    spec = importlib.util.spec_from_file_location("added_host", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    host = module.Host(lambda command: "0\n" if command[-1] == "added-queue" else READING)
    host.images.tags["testbed/debian:bookworm"] = {"id": "base"}
    return host


def test_a_question_of_added_services_is_answered_on_an_added_host(added: Path) -> None:
    assert {"added-dns", "added-relay", "added-sink"} < services.known().keys()
    question = scenarios.scenario("added")
    params: Strict = question.params()
    host = other_host(added / "host.py")
    finished = runner.run(
        question, params, connect=lambda: host, runs=added / "runs", parent=None, command=["added"], steps=Steps()
    )
    assert finished.verdict.outcome is Outcome.CONFIRMED
    nodes = {spec.labels["testbed.node"]: spec for spec in host.made if "testbed.node" in spec.labels}
    assert nodes.keys() == {"dns", "relay", "sink"}
    assert "added-relay 198." in nodes["relay"].files["/testbed/enter"].decode()
    assert host.find({}) == []


def imported(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports."""
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            yield from (name.name for name in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield from (f"{statement.module}.{name.name}" for name in statement.names)


def test_no_scenario_names_a_service_class_or_reaches_into_engine_recorder_or_another_scenario() -> None:
    root = Path(scenarios.__file__).parent
    hidden = [f"orchestrator.services.{m.name}" for m in pkgutil.iter_modules(services.__path__)]
    hidden += ["orchestrator.hosts.docker", "orchestrator.up.collect"]
    questions = {m.name for m in pkgutil.iter_modules([str(root)])} - {"relay_load"}
    reaches = {
        f"{path.relative_to(root)} imports {name}"
        for path in root.rglob("*.py")
        for name in imported(path)
        for other in (*hidden, *(f"{scenarios.__name__}.{question}" for question in questions))
        if f"{name}.".startswith(f"{other}.")
        and not other.endswith(f".{path.relative_to(root).parts[0].removesuffix('.py')}")
    }
    assert reaches == set()
