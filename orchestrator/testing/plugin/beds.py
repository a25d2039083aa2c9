"""Beds of the fixtures in one test process, and the pytest hooks for these beds."""

import os
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bed import builtin
from orchestrator.errors import EngineFailed, Problem
from orchestrator.hosts import Host, docker
from orchestrator.hosts.ownership import Kind, owner_label
from orchestrator.plaintext import plain
from orchestrator.testing.bed import MailBed
from orchestrator.testing.plugin import report as reports
from orchestrator.testing.plugin.workers import Folder, Record, stays
from orchestrator.testing.rules import Rule
from orchestrator.testing.watchdog import watch_over

_BEDS = pytest.StashKey["Beds"]()
_BEGUN = pytest.StashKey[float]()
"""Unix time of the start of a test."""


@dataclass(slots=True, kw_only=True)
class _Held:
    """A bed of a fixture."""

    fixture: str
    bed: MailBed
    shared: bool
    since: float = field(default_factory=time.time)
    """Unix time of the end of its bring-up."""
    failed: bool = False
    """Whether a test that used the bed failed."""
    lasting: list[Rule] = field(default_factory=list)
    """Rules of fixtures that several tests share."""

    def remove_rules(self, lasting: Collection[Rule] = ()) -> None:
        """Remove the rules that this process made, except the lasting ones."""
        with ExitStack() as stack:  # after an error, the other rules are still removed
            for rule in self.bed.rules:
                if rule not in lasting:
                    stack.callback(rule.remove)
            self.bed.rules[:] = lasting


class Beds:
    """The beds of this process; a plugin of pytest, registered when a test first uses one of the fixtures."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._held: list[_Held] = []
        self._kept: list[str] = []
        self._host: Host | None = None
        given = getattr(config, "workerinput", {}).get("testbed")
        self._folder = Folder(Path(given["folder"])) if given and Path(given["folder"]).is_dir() else None
        """Folder of the controller; only in a worker of pytest-xdist on the same machine."""
        self._controller: int = given["controller"] if given else 0

    @classmethod
    def of(cls, config: pytest.Config) -> "Beds":
        """Return the ``Beds`` of this process."""
        if _BEDS not in config.stash:
            config.stash[_BEDS] = cls(config)
            config.pluginmanager.register(config.stash[_BEDS], "testbed-beds")
        return config.stash[_BEDS]

    @contextmanager
    def hold(self, request: pytest.FixtureRequest, bed: str | Path | Callable[[], MailBed]) -> Iterator[MailBed]:
        """Keep a bed up during the block.

        The test is skipped or fails if no engine answers, and fails if the bring-up fails.
        """
        name, scope = str(request.fixturename), request.scope
        workers = self._config.getini("mail_bed_workers")
        try:
            made = bed() if callable(bed) else MailBed(self._place(bed))
            host = self._engine()
            if self._folder and scope == "session" and workers == "shared":
                held = _Held(fixture=name, bed=self._share(self._folder, f"{name} {bed}", made, host), shared=True)
            else:
                held = _Held(fixture=name, bed=made.start_as(self._kind), shared=False)
        except Problem as problem:
            raise pytest.fail.Exception(_text(problem), pytrace=False) from None
        self._held.append(held)
        try:
            yield held.bed
        finally:
            self._held.remove(held)
            self._let_go(held)

    def _place(self, bed: str | Path) -> str | Path:
        is_file = builtin.is_named(str(bed)) and str(bed) not in builtin.names()
        return self._config.rootpath / bed if is_file else bed

    @property
    def _kind(self) -> Kind:
        """Kind of the beds: labels cannot change, so a bed that may stay up is ``Kind.UP`` from its start."""
        return Kind.UP if self._config.getoption("testbed_keep") else Kind.RUN

    def _engine(self) -> Host:
        if self._host is None:
            try:
                self._host = docker.connect()
            except EngineFailed as error:
                found = f"no container engine for the bed: {plain(error.found)}"
                if _required(self._config):
                    text = f"{found}\ndo: {error.do}; or --testbed-engine=skip skips the tests that use a bed"
                    raise pytest.fail.Exception(text, pytrace=False) from None
                raise pytest.skip.Exception(f"{found} (--testbed-engine=require makes this an error)") from None
        return self._host

    def _share(self, folder: Folder, key: str, made: MailBed, host: Host) -> MailBed:
        """Attach to the bed that all workers share; the first of them brings it up."""
        with folder.locked(key):
            record = folder.read(key)
            if record is None:
                owner = owner_label(self._controller)
                if self._kind is Kind.RUN:
                    watch_over(owner, folder.lifeline)
                try:
                    made.start_as(self._kind, owner=owner)
                except Problem as problem:
                    folder.write(key, Record(note=_text(problem)))
                    raise
                record = Record(id=made.id, note=_reach(made), shared=True)
                folder.write(key, record)
                made.leave()
        if not record.id:
            raise pytest.fail.Exception(f"its bring-up failed in another worker\n{record.note}", pytrace=False)
        return MailBed.attach(record.id, host=host)

    def _let_go(self, held: _Held) -> None:
        bed = held.bed
        if held.shared:
            held.remove_rules()
        if held.shared or not bed.is_up or not stays(self._config, failed=held.failed):
            bed.stop()
            return
        if self._folder:
            self._folder.write(bed.id, Record(id=bed.id, note=_reach(bed)))
        else:
            self._kept.append(_reach(bed))
        bed.leave()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Set the mark of each bed that the test may use: mail of earlier tests does not count."""
        item.stash[_BEGUN] = time.time()
        names = _fixtures(item)
        for held in self._held:
            used = held.fixture in names or "request" in names  # ``request`` can bring further fixtures
            if used and held.bed.is_up:
                held.bed.begin()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: "pytest.FixtureDef[Any]") -> Generator[None, object, object]:
        """Keep the rules that a fixture of a wider scope makes: several tests share these rules."""
        before = {id(held): len(held.bed.rules) for held in self._held}
        result = yield
        if fixturedef.scope != "function":
            for held in self._held:
                held.lasting += held.bed.rules[before.get(id(held), 0) :]
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Remove the rules that the test and its fixtures made."""
        result = yield
        for held in self._held:
            held.remove_rules(held.lasting)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the evidence of each bed that a failed test used to the test's report."""
        report = yield
        if report.failed:
            names = _fixtures(item)
            for held in self._held:
                if held.fixture in names:
                    self._add_evidence(held, item, report)
        return report

    def _add_evidence(self, held: _Held, item: pytest.Item, report: pytest.TestReport) -> None:
        held.failed = True
        if held.shared and self._folder:
            self._folder.note_failure(held.bed.id)
        if not held.bed.is_up:  # a test stopped the bed
            return
        since = max(held.since, item.stash.get(_BEGUN, 0.0))
        found = reports.collect(held.bed, since)
        report.sections.extend(found.sections())
        if directory := self._config.getoption("testbed_report"):
            place = directory / reports.folder_name(item.nodeid)
            try:
                found.save(place)
            except (Problem, OSError) as error:
                report.sections.append((f"testbed: {place} is not complete", plain(error)))
            item.user_properties.append(("testbed_report", str(place)))  # shown in JUnit's XML, too

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Name the beds that stay up."""
        for line in self._kept:
            terminalreporter.write_line(line)


def _required(config: pytest.Config) -> bool:
    chosen = config.getoption("testbed_engine")
    return bool(chosen == "require" if chosen else os.environ.get("CI", "").lower() not in {"", "0", "false"})


def _fixtures(item: pytest.Item) -> set[str]:
    """Return the names of the fixtures that a test uses, including those it got through ``request``."""
    request = getattr(item, "_request", None)  # pytest gives ``request`` to fixtures, not to hooks
    return set(request.fixturenames) if request else set()


def _reach(bed: MailBed) -> str:
    """Return the addresses of a bed that stays up, and the command that takes it down."""
    return (
        f"bed {bed.running.plan.bed.name} {bed.id} stays up: relay {bed.relay.host}:{bed.relay.port}, "
        f"inbox {bed.inbox.url}; `testbed down {bed.id}` takes it down"
    )


def _text(problem: Problem) -> str:
    notes = getattr(problem, "__notes__", ())
    told = (f"needed: {problem.needed}", f"found:  {problem.found}", f"do:     {problem.do}", *notes)
    return plain("\n".join(told))
