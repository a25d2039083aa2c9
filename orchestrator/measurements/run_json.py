"""run.json: types of its keys (plan, environment, phases, ...), and a reader that checks these keys."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from orchestrator.errors import InvalidInput
from orchestrator.measurements.files import check_name
from orchestrator.measurements.kept import Kept, place
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Verdict
from orchestrator.services import Purpose

_LEFT_OUT = {"verdict", "error", "phases"}
"""Keys not needed to judge a run: if invalid, they are left out; of the phases, only invalid phases are left out."""


class _Node(Kept):
    service: str | None = None
    limits: dict[str, float | int | str | None] | None = None
    files: dict[str, str] | None = None


class _Bed(Kept):
    nodes: dict[Annotated[str, AfterValidator(check_name)], _Node] | None = None


class _PlannedNode(Kept):
    name: str
    role: str | None = None
    limits: dict[str, float | int | str | None] | None = None
    changes: list[dict[str, Any]] | None = None
    detours: list[str] | None = None


class _Plan(Kept):
    subnet: str | None = None
    nodes: list[_PlannedNode] | None = None


class _Engine(Kept):
    cpus: int | None = None


class _Environment(Kept):
    engine: _Engine | None = None


class Phase(Kept):
    """A named period of the run; ``end`` is ``None`` if the run broke off during it."""

    name: str
    start: float
    end: float | None = None
    purpose: Annotated[Purpose, Field(strict=False)] = Purpose.MEASURE
    """Purpose of the load that was sent or drained in this phase."""


class _Step(Kept):
    name: str
    seconds: float | None = None


class _Error(Kept):
    needed: str
    found: str
    do: str


class _RunFacts(Kept):
    scenario: str | None = None
    status: str | None = None
    question: str | None = None
    version: str | None = None
    command: list[str] | None = None
    params: dict[str, Any] | None = None
    bed: _Bed | None = None
    plan: _Plan | None = None
    environment: _Environment | None = None
    phases: list[Phase] | None = None
    steps: list[_Step] | None = None
    verdict: Verdict | None = None
    error: _Error | None = None


def read(rundir: RunDir) -> dict[str, Any]:
    """Read run.json; raises InvalidInput if that fails, or a key is invalid.

    An invalid verdict, error or phase raises nothing: the reader omits this key, and ``rundir.left_out`` names the key.
    """
    facts, path = rundir.load(), rundir.path / "run.json"
    try:
        _RunFacts.model_validate(facts)
        wrong = []
    except ValidationError as error:
        wrong = error.errors()
    if refused := [e for e in wrong if e["loc"][0] not in _LEFT_OUT]:
        raise InvalidInput("a readable run directory", f"{path}: {place(refused[0])}", "correct it there")
    broken = {e["loc"][: 2 if e["loc"][0] == "phases" else 1] for e in wrong}
    rundir.leave_out(path, ", ".join(sorted(".".join(map(str, key)) for key in broken)))
    whole = facts | {str(key): None for key, *entry in broken if not entry}
    if whole.get("verdict"):
        whole["verdict"] = Verdict.model_validate(whole["verdict"]).model_dump()
    phases = [phase for n, phase in enumerate(whole.get("phases") or ()) if ("phases", n) not in broken]
    return whole | {"phases": phases}
