"""One run, from start to end."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator import services, strict_json
from orchestrator.bed.model import Bed, Strict, checked
from orchestrator.errors import EngineFailed, ExitCode, InvalidInput, NodeDied, Problem, host_cannot, usable
from orchestrator.hosts import Host, capacity, cleaning, images
from orchestrator.hosts.ownership import Kind
from orchestrator.interrupts import Interrupted
from orchestrator.measurements import Measurements, facts
from orchestrator.measurements.rundir import RunDir
from orchestrator.plan import make_plan
from orchestrator.report import html
from orchestrator.scenarios import Outcome, Provokes, Scales, Scenario, Verdict, scenario
from orchestrator.up.bed import RecordedBed
from orchestrator.up.bringup import Progress, bring_up, verify
from orchestrator.up.node import RunningNode

EXIT_CODES = {
    Outcome.CONFIRMED: ExitCode.OK,
    Outcome.REFUTED: ExitCode.UNEXPECTED,
    Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}

JUDGE = "judge"
"""The step that judges: an error of it is no error of the run."""
REPORT = "report"
"""What is written last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that came to its end."""

    rundir: RunDir
    verdict: Verdict
    broken: Problem | None = None
    """Why there is no answer: a node ended while the question was asked, or the judge failed."""
    unreported: Problem | None = None
    """Why report.html could not be written: ``HostCannot`` if there was no room."""

    @property
    def exit_code(self) -> ExitCode:
        """How the command ends."""
        return EXIT_CODES[self.verdict.outcome]


class Record:
    """run.json of a run that goes on: saved before the start, after each step and at the end."""

    def __init__(self, rundir: RunDir, /, **facts: Any) -> None:
        self._rundir = rundir
        self._facts: dict[str, Any] = facts
        self.save()

    @property
    def broken(self) -> bool:
        """The run did not come to its end. An error of the judge is none of the run: it can judge again."""
        error = self._facts.get("error")
        judged = isinstance(error, dict) and error.get("step") == JUDGE
        return (error is not None and not judged) or self._facts.get("status") == "interrupted"

    def save(self, **facts: Any) -> None:
        """Add facts and write the file."""
        self._facts |= facts
        self._rundir.save(self._facts)

    def save_end(self, error: BaseException, /, **facts: Any) -> None:
        """Save how the run broke; ``RunDir.save_end``."""
        self._facts |= facts
        self._rundir.save_end(self._facts, error)


def run(
    asked: Scenario[Any],
    params: Strict,
    *,
    connect: Callable[[], Host],
    runs: Path,
    parent: str | None,
    command: Sequence[str],
    steps: Progress,
) -> Finished:
    """Ask a question of a bed, and keep whatever is learnt.

    1. The bed is checked; a run directory is made; run.json is saved again after each of the steps.
    2. What runs that were killed have left behind is removed, and named; what cannot be removed is only named.
    3. The bed is worked out and held against what the host can give.
    4. Missing images are built.
    5. The bed goes up, recorded from its first line to its last.
    6. The question is asked: load is driven through the bed. A node that dies ends that at once.
    7. The bed goes down, however the steps before ended.
    8. What was measured is judged, from the run directory alone; a judge that fails makes it INCONCLUSIVE.
    9. The report is written; the verdict stands without it.

    Raises:
        Problem: the first thing that went wrong; the run directory holds what was learnt until then.
        Interrupted: by a signal; the bed is gone.
    """
    bed = prepare(asked, params, parent=parent)
    rundir = RunDir.create(runs, asked.name)
    record = Record(
        rundir,
        scenario=asked.name,
        question=asked.question,
        status="running",
        version=version("testbed"),
        command=list(command),
        params=params.model_dump(),
        bed=bed.model_dump(exclude_defaults=True),
        steps=steps.taken,
        verdict=None,
        error=None,
    )
    broken: NodeDied | None = None
    try:
        with steps.step("look at the host"):
            engine = connect()
            cleaning.make_way(engine, steps.say)
            cpus = engine.info().cpus
            plan = make_plan(bed, cpus=cpus)
        with steps.step("check what was rendered"):
            verify(plan)
        with steps.step("find or build the images"):
            old = images.ensure(engine, images.of(bed), steps.say)
            readings = capacity.read(engine)
            provoked = asked.provokes if isinstance(asked, Provokes) else frozenset()
            smaller = asked.smaller(params) if isinstance(asked, Scales) else None
            capacity.admit(readings, plan.needs, runs, provoked=provoked, smaller=smaller, say=steps.say)
            environment = capacity.environment(readings) | {
                "images": _image_ids(engine, bed),
                "old_images": ", ".join(old),
            }
            record.save(environment=environment, plan=plan.to_dict())
        with ExitStack() as stack:
            _, running = bring_up(engine, bed, kind=Kind.RUN, rundir=rundir, steps=steps, stack=stack, cpus=cpus)
            # The list of phases grows: it is saved as it then is, however the run ends.
            record.save(plan=running.plan.to_dict(), phases=running.phases)
            try:
                record.save(environment=environment | {"daemons": _daemons(running)})
                asked.drive(running, params)
            except NodeDied as death:
                broken = death
        with steps.step(JUDGE):
            record.save(**({"status": "failed", "error": broken.to_dict()} if broken else {}))
            finished = _judge(asked, rundir, record)
    except Interrupted as signal:
        record.save_end(signal, status="interrupted")
        raise
    except Problem as problem:
        problem.add_note(f"kept:   {rundir.path}, with what was learnt until then")
        record.save_end(problem, status="failed", error=problem.to_dict())
        raise
    except BaseException as error:
        refused = host_cannot(error, str(rundir.path)) if isinstance(error, OSError) else None
        if refused is None:
            record.save_end(error, status="failed", error=Problem("no bug", repr(error), "report it").to_dict())
            raise
        for note in getattr(error, "__notes__", ()):
            refused.add_note(note)
        record.save_end(refused, status="failed", error=refused.to_dict())
        raise refused from error
    return replace(finished, broken=broken or finished.broken)


def prepare(asked: Scenario[Any], params: Strict, *, parent: str | None = None) -> Bed:
    """Return the bed that a question is asked of, checked: what cannot be built is refused before anything is made.

    Raises:
        InvalidInput: it cannot be built.
    """
    bed = checked(Bed, {**asked.bed(params).model_dump(), "parent": parent}, f"a valid bed for {asked.name}")
    make_plan(bed, cpus=1)
    images.check(images.of(bed))
    return bed


def _image_ids(engine: Host, bed: Bed) -> dict[str, str]:
    """Return tag -> id of every image of a bed."""
    tags = [images.tag(*image) for image in images.of(bed)]
    return {tag: (engine.images.find(tag) or {}).get("id", "") for tag in tags}


def _daemons(running: RecordedBed) -> dict[str, str]:
    """Return node -> the version of its daemon, in the daemon's own words; not of one that has ended and may.

    Raises:
        NodeDied: a container ended.
    """

    def ask(node: RunningNode) -> str:
        try:
            said = node.ask(*(services.version_command(node.plan.service) or ()))
        except EngineFailed as ended:
            if isinstance(ended, NodeDied) or not running.plan.bed.nodes[node.name].may_end:
                raise
            return ""
        return next(iter(said.splitlines()), "")

    nodes = [node for node in running.nodes.values() if services.version_command(node.plan.service)]
    with ThreadPoolExecutor(len(running.nodes)) as pool:
        said = dict(zip((node.name for node in nodes), pool.map(ask, nodes), strict=True))
    return {name: version for name, version in said.items() if version}


def judge_again(rundir: RunDir) -> Finished:
    """Judge a run from its directory, and write its report anew.

    Raises:
        InvalidInput: it is no run, one of a scenario that is not known here, or one that this user cannot write to.
    """
    known = facts.read(rundir)
    try:
        asked = scenario(str(known.get("scenario")))
    except InvalidInput as unknown:
        found = f"{rundir.path / 'run.json'}: scenario: {unknown.found}"
        raise InvalidInput(unknown.needed, found, unknown.do) from None
    with usable(rundir.path, "a run directory"):
        record = Record(rundir, **rundir.load())
    return _judge(asked, rundir, record)


def _judge(asked: Scenario[Any], rundir: RunDir, record: Record) -> Finished:
    """Judge what the run directory holds, whoever filled it; a run that broke is never confirmed or refuted.

    Raises:
        OSError: the verdict could not be kept; a note says what it is.
    """
    verdict, failed = _verdict(asked, rundir)
    if record.broken and verdict.outcome is not Outcome.INCONCLUSIVE:
        reason = f"The run broke off before its end. What was seen until then: {verdict.reason}"
        verdict = replace(verdict, outcome=Outcome.INCONCLUSIVE, reason=reason)
    error = {**failed.to_dict(), "step": JUDGE} if failed else None
    try:
        record.save(verdict=verdict.to_dict(), **({} if record.broken else {"status": "finished", "error": error}))
    except OSError as full:
        full.add_note(f"the verdict, which could not be kept: {verdict.outcome}. {verdict.reason}")
        raise
    unreported: Problem | None = None
    try:
        html.write(rundir)
        rundir.save_traceback(REPORT, None)
    except Exception as bug:  # noqa: BLE001 - whatever breaks the report, the verdict stands
        rundir.save_traceback(REPORT, bug)
        unreported = host_cannot(bug, "report.html") if isinstance(bug, OSError) else None
        found = f"the report failed: {type(bug).__name__}: {bug}"
        unreported = unreported or Problem("report.html", found, f"report it with {REPORT}.traceback of the run")
    return Finished(rundir=rundir, verdict=verdict, broken=failed, unreported=unreported)


def _verdict(asked: Scenario[Any], rundir: RunDir) -> tuple[Verdict, Problem | None]:
    """Let the scenario judge; a judge that fails is INCONCLUSIVE, and the problem says how it failed."""
    failed: Problem | None = None
    measured = Measurements.read(rundir)
    values = {name: value for name, value in measured.params.items() if name in asked.params.model_fields}
    params = checked(asked.params, values, f"params of {asked.name} in {rundir.path / 'run.json'}", "correct it there")
    try:
        verdict = asked.judge(measured, params)
        strict_json.dumps(verdict.to_dict(), default=str)  # as run.json will hold it: a figure may not be finite
    except Exception as error:  # noqa: BLE001 - what was measured is there, and a better judge can judge it again
        rundir.save_traceback(JUDGE, error)
        found = f"{type(error).__name__}: {error}"
        failed = Problem("a verdict", f"the judge failed: {found}", f"report it with {JUDGE}.traceback of the run")
        verdict = Verdict(outcome=Outcome.INCONCLUSIVE, claim=asked.question, reason=f"The judge failed: {found}")
    else:
        rundir.save_traceback(JUDGE, None)
    return replace(verdict, marks=(*verdict.marks, *rundir.left_out_marks)), failed
