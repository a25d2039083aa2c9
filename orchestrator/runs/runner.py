"""run(): one run, from the check of its bed to its verdict and report; judge_again(): the verdict of a finished run."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator import services, strict_json
from orchestrator.bed.model import Bed, Strict, checked
from orchestrator.errors import EngineFailed, ExitCode, InvalidInput, NodeDied, Problem, host_cannot, usable
from orchestrator.hosts import Host, capacity, cleaning, images
from orchestrator.hosts.ownership import Identity, Kind
from orchestrator.interrupts import Interrupted
from orchestrator.measurements import Measurements, run_json
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome, Verdict
from orchestrator.plan import make_plan
from orchestrator.report import html
from orchestrator.scenarios import Scenario, scenario
from orchestrator.up.admission import admit
from orchestrator.up.bed import RecordedBed
from orchestrator.up.bringup import Progress, bring_up, verify
from orchestrator.up.node import RunningNode

EXIT_CODES = {
    Outcome.CONFIRMED: ExitCode.OK,
    Outcome.REFUTED: ExitCode.UNEXPECTED,
    Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}

JUDGE = "judge"
"""Name of the step that judges; an error in this step does not fail the run."""
REPORT = "report"
"""Stem of the file that keeps the traceback of a failed report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A completed run."""

    rundir: RunDir
    verdict: Verdict
    broken: Problem | None = None
    """Reason for a missing answer: a node ended during ``drive``, or the judge failed."""
    unreported: Problem | None = None
    """Reason for a missing report.html: ``HostCannot`` if the disk is full."""

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the command."""
        return EXIT_CODES[self.verdict.outcome]


class Record:
    """run.json of an unfinished run: saved before the start, after each step and at the end."""

    def __init__(self, rundir: RunDir, /, **facts: Any) -> None:
        self._rundir = rundir
        self._facts: dict[str, Any] = facts
        self.save()

    @property
    def broken(self) -> bool:
        """Whether the run is incomplete; an error of the judge does not count, because the run can be judged again."""
        error = self._facts.get("error")
        judged = isinstance(error, dict) and error.get("step") == JUDGE
        return (error is not None and not judged) or self._facts.get("status") == "interrupted"

    def save(self, **facts: Any) -> None:
        """Add facts and write the file."""
        self._facts |= facts
        self._rundir.save(self._facts)

    def save_end(self, error: BaseException, /, **facts: Any) -> None:
        """Add facts and save the failure of the run (``RunDir.save_end``)."""
        self._facts |= facts
        self._rundir.save_end(self._facts, error)


def run(
    scenario: Scenario[Any],
    params: Strict,
    *,
    connect: Callable[[], Host],
    runs: Path,
    parent: str | None,
    command: Sequence[str],
    steps: Progress,
) -> Finished:
    """Run a scenario, and save its results in a new run directory.

    1. Check the bed and make a run directory; run.json is saved again after each step.
    2. Remove leftovers of killed runs, and report their names.
    3. Plan the bed, and render and verify its files.
    4. Build missing images, and compare the plan's needs with the host's capacity.
    5. Deploy the bed, recorded from its first log line to its last.
    6. Drive load through the bed. The death of a node ends this step at once.
    7. Remove the bed, after a failure, too.
    8. Judge the run from its directory alone; a failure of the judge makes the run INCONCLUSIVE.
    9. Write the report; a failure of the report does not change the verdict.

    Raises:
        Problem: the first failure; the run directory holds the results so far.
        Interrupted: a signal came; the bed is removed.
    """
    bed = prepare(scenario, params, parent=parent)
    rundir = RunDir.create(runs, scenario.name)
    record = Record(
        rundir,
        scenario=scenario.name,
        question=scenario.question,
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
            host = connect()
            cleaning.make_way(host, steps.say)
            cpus = host.info().cpus
            plan = make_plan(bed, cpus=cpus)
        with steps.step("verify the rendered files"):
            verify(plan)
        read = partial(capacity.read, host)
        provoked, smaller = scenario.provokes, scenario.smaller(params)
        readings, old = admit(host, plan, read, disk=runs, steps=steps, provoked=provoked, smaller=smaller)
        tags = [images.tag(*image) for image in images.needed_by(bed)]
        environment = capacity.environment(readings) | {
            "images": {tag: (host.images.find(tag) or {}).get("id", "") for tag in tags},
            "old_images": ", ".join(old),
        }
        record.save(environment=environment, plan=plan.to_dict())
        with ExitStack() as stack:
            identity = Identity.new(bed, Kind.RUN)
            running = bring_up(host, bed, identity, rundir=rundir, steps=steps, stack=stack, cpus=cpus)
            # The list ``running.phases`` grows during the run, so each later save writes all phases so far.
            record.save(plan=running.plan.to_dict(), phases=running.phases)
            try:
                record.save(environment=environment | {"daemons": _daemons(running)})
                scenario.drive(running, params)
            except NodeDied as death:
                broken = death
        with steps.step(JUDGE):
            record.save(**({"status": "failed", "error": broken.to_dict()} if broken else {}))
            finished = _judge(scenario, rundir, record)
    except Interrupted as signal:
        record.save_end(signal, status="interrupted")
        raise
    except Problem as problem:
        problem.add_note(f"kept:   {rundir.path}, with the results so far")
        record.save_end(problem, status="failed", error=problem.to_dict())
        raise
    except BaseException as error:
        refused = host_cannot(error, str(rundir.path)) if isinstance(error, OSError) else None
        if refused is None:
            bug = Problem("a run without a bug of testbed", repr(error), "report it")
            record.save_end(error, status="failed", error=bug.to_dict())
            raise
        record.save_end(refused, status="failed", error=refused.to_dict())
        raise refused from error
    return replace(finished, broken=broken or finished.broken)


def prepare(scenario: Scenario[Any], params: Strict, *, parent: str | None = None) -> Bed:
    """Return the checked bed of a scenario.

    Raises:
        InvalidInput: the bed cannot be built.
    """
    bed = checked(Bed, {**scenario.bed(params).model_dump(), "parent": parent}, f"a valid bed for {scenario.name}")
    make_plan(bed, cpus=1)
    images.check(images.needed_by(bed))
    return bed


def _daemons(running: RecordedBed) -> dict[str, str]:
    """Return node -> version line of its daemon, without nodes that ended as expected; raise any other failure."""

    def ask(node: RunningNode, command: Sequence[str]) -> str | None:
        try:
            return node.ask(*command).partition("\n")[0]
        except EngineFailed as failed:
            if isinstance(failed, NodeDied) or not node.end(0):  # for a node that may not end, end() raises NodeDied
                raise
            return None

    commands = {name: services.service(node.plan.service).version for name, node in running.nodes.items()}
    with ThreadPoolExecutor(len(running.nodes)) as pool:
        replies = {name: pool.submit(ask, running.nodes[name], words) for name, words in commands.items() if words}
    return {name: line for name, reply in replies.items() if (line := reply.result()) is not None}


def judge_again(rundir: RunDir) -> Finished:
    """Judge a run from its directory, and rewrite its report.

    Raises:
        InvalidInput: the directory is not a run directory, this user cannot write there, or the scenario is unknown.
    """
    known = run_json.read(rundir)
    try:
        chosen = scenario(str(known.get("scenario")))
    except InvalidInput as unknown:
        found = f"{rundir.path / 'run.json'}: scenario: {unknown.found}"
        raise InvalidInput(unknown.needed, found, unknown.do) from None
    with usable(rundir.path, "a run directory"):
        record = Record(rundir, **rundir.load())
    return _judge(chosen, rundir, record)


def _judge(scenario: Scenario[Any], rundir: RunDir, record: Record) -> Finished:
    """Judge a run from its directory; a run that broke off is INCONCLUSIVE.

    Raises:
        OSError: the verdict could not be saved; a note on the error holds the verdict.
    """
    verdict, failed = _verdict(scenario, rundir)
    if record.broken and verdict.outcome is not Outcome.INCONCLUSIVE:
        reason = f"The run broke off before its end. Observed so far: {verdict.reason}"
        verdict = verdict.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "reason": reason})
    error = {**failed.to_dict(), "step": JUDGE} if failed else None
    try:
        record.save(verdict=verdict.model_dump(), **({} if record.broken else {"status": "finished", "error": error}))
    except OSError as full:
        full.add_note(f"the verdict, which could not be saved: {verdict.outcome}. {verdict.reason}")
        raise
    unreported: Problem | None = None
    try:
        html.write(rundir)
        rundir.save_traceback(REPORT, None)
    except Exception as bug:  # noqa: BLE001 - no failure of the report changes the verdict
        rundir.save_traceback(REPORT, bug)
        unreported = html.unwritten(bug, f"report it with {REPORT}.traceback of the run")
    return Finished(rundir=rundir, verdict=verdict, broken=failed, unreported=unreported)


def _verdict(scenario: Scenario[Any], rundir: RunDir) -> tuple[Verdict, Problem | None]:
    """Call the scenario's judge; if it fails, return INCONCLUSIVE and the problem."""
    failed: Problem | None = None
    measured = Measurements.read(rundir)
    values = {name: value for name, value in measured.params.items() if name in scenario.params.model_fields}
    params = checked(
        scenario.params, values, f"params of {scenario.name} in {rundir.path / 'run.json'}", "correct it there"
    )
    try:
        verdict = scenario.judge(measured, params)
        strict_json.dumps(verdict.model_dump(), default=str)  # run.json takes finite figures only
    except Exception as error:  # noqa: BLE001 - the measurements are saved, and can be judged again
        rundir.save_traceback(JUDGE, error)
        found = f"{type(error).__name__}: {error}"
        failed = Problem(
            "a verdict", f"the judge failed: {found}", f"report it, and attach the run's {JUDGE}.traceback"
        )
        verdict = Verdict(outcome=Outcome.INCONCLUSIVE, claim=scenario.question, reason=f"The judge failed: {found}")
    else:
        rundir.save_traceback(JUDGE, None)
    return verdict.model_copy(update={"marks": (*verdict.marks, *rundir.left_out_marks)}), failed
