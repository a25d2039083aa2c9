"""Capsule: one file that holds a run, so that another machine can repeat the run and compare the two results.

A capsule is untrusted input: its size is bounded, and every key is checked. Only the name of a known scenario and valid
parameters are used; files and environment of a capsule are only compared, and shown escaped. A capsule never contains
the user's consent to change the host, or to run the files that the parameters install in a node.
"""

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, JsonValue

from orchestrator import strict_json
from orchestrator.bed.addressing import parse_slice
from orchestrator.bed.model import Strict, checked
from orchestrator.bed.user_files import FromDisk, read_tree
from orchestrator.errors import ExitCode, InvalidInput, usable
from orchestrator.measurements.files import replace
from orchestrator.measurements.kept import check_format
from orchestrator.measurements.run_json import read as read_facts
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome
from orchestrator.plan import Plan, make_plan
from orchestrator.runs.runner import Finished, prepare
from orchestrator.scenarios import Scenario, scenario
from orchestrator.services import agents

FORMAT = 1
MAX_FILE_B = 8 * 2**20
"""Largest capsule that is read."""
MAX_CONFIG_B = 3 * 2**20
"""Maximum bytes of rendered files that a capsule holds as text, smallest files first; the other files are digests."""
MAX_DIFF_LINES = 4_000
"""Two files with more lines in total are not compared line by line."""
CONSENT = "allow_host_changes"
"""The parameter for consent to change the host; ``make`` leaves it out."""
_MOVING = {"disk_free_b", "memory_available_b", "neighbours", "neighbours_planned"}
"""Facts of a host that change by themselves, and so are not compared."""

Word = Annotated[str, Field(max_length=4096)]


class File(Strict):
    """One rendered file of a node."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    text: str | None = None
    """Unset if the file did not fit (``MAX_CONFIG_B``), or is not text."""


class Signature(Strict):
    """Result of the run."""

    outcome: Outcome
    claim: Word
    """The headline of its verdict."""
    quotes: Annotated[list[Word], Field(max_length=100)]
    figures: Annotated[dict[Word, float | None], Field(max_length=200)]


class Capsule(Strict):
    """One run."""

    format: int
    """``FORMAT`` of the testbed that made the capsule."""
    scenario: Word
    version: Word
    """Version of that testbed."""
    command: Annotated[list[Word], Field(max_length=200)]
    params: Annotated[dict[Word, JsonValue], Field(max_length=200)]
    bed: dict[Word, JsonValue]
    subnet: Word
    environment: dict[Word, JsonValue]
    """Engine, kernel, CPUs, limits, sysctls, ids of the images, versions of the daemons: as in run.json."""
    config: Annotated[dict[Word, dict[Word, File]], Field(max_length=64)]
    """Node -> absolute path -> file."""
    signature: Signature


def make(rundir: RunDir) -> Capsule:
    """Make a capsule of a run.

    Raises:
        InvalidInput: the run has no verdict or no bed.
    """
    facts = read_facts(rundir)
    verdict, environment, plan = (facts.get(key) for key in ("verdict", "environment", "plan"))
    if not (verdict and environment and plan):
        found = "; ".join([f"{rundir.path}: it is {facts.get('status')}", *rundir.left_out_marks])
        raise InvalidInput("a run with a verdict", found, "see `testbed runs`")
    with usable(rundir.path, "a run directory"):
        config = _config(rundir.path / "config")
    data = {
        "format": FORMAT,
        **{key: facts.get(key) for key in ("scenario", "version", "command")},
        "params": {name: value for name, value in (facts.get("params") or {}).items() if name != CONSENT},
        "bed": _without_texts(facts.get("bed") or {}),
        "subnet": plan.get("subnet"),
        "environment": environment,
        "config": config,
        "signature": {
            "outcome": verdict["outcome"],
            "claim": verdict["headline"][:4096],
            "quotes": [quote["text"][:4096] for quote in verdict.get("quotes") or ()][:100],
            "figures": verdict["figures"],
        },
    }
    return checked(Capsule, data, f"a run that a capsule can hold ({rundir.path})", "see `testbed runs`")


def write(capsule: Capsule, path: Path) -> None:
    """Write a capsule.

    Raises:
        InvalidInput: the file cannot be written, or the capsule is too long.
    """
    text = strict_json.dumps(capsule.model_dump(mode="json"), indent=1) + "\n"
    if len(text) > MAX_FILE_B:
        raise InvalidInput(
            f"a capsule of at most {MAX_FILE_B:,} bytes", f"{len(text):,}", "repeat the run with fewer domains or files"
        )
    with usable(path, "a file to write"):
        replace(path, text)


def read(path: Path) -> Capsule:
    """Read a capsule.

    Raises:
        InvalidInput: the file is missing, too long, or no capsule of a known format.
    """
    with usable(path, "a capsule"), path.open("rb") as file:
        content = file.read(MAX_FILE_B + 1)
    if len(content) > MAX_FILE_B:
        needed = f"a capsule of at most {MAX_FILE_B >> 20} MiB"
        raise InvalidInput(needed, f"{path}: it is larger", "ask its maker for a smaller one")
    try:
        data = strict_json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("a capsule, made by `testbed capsule`", f"{path}: {error}", "name another file") from error
    if not isinstance(data, dict) or "format" not in data:
        raise InvalidInput("a capsule, made by `testbed capsule`", f"{path}: JSON of another kind", "name another file")
    check_format(data, FORMAT, path)
    return checked(Capsule, data, f"a valid capsule ({path})", "ask its maker for another one")


def question(capsule: Capsule, *, consent: bool = False) -> tuple[Scenario[Any], Strict]:
    """Return the scenario of a capsule and its checked parameters.

    Raises:
        InvalidInput: the scenario is unknown, or a parameter is invalid.
    """
    chosen = scenario(capsule.scenario)
    if CONSENT in capsule.params:
        do = f"remove it from the capsule; --{CONSENT.replace('_', '-')} consents"
        raise InvalidInput("a capsule without consent to change this host", f"the parameter {CONSENT}", do)
    given = {CONSENT: True} if consent and CONSENT in chosen.params.model_fields else {}
    params = checked(
        chosen.params,
        {**capsule.params, **given},
        f"parameters that {chosen.name} of this version takes",
        f"use testbed {capsule.version}, which made the capsule",
    )
    prepare(chosen, params)
    return chosen, params


def installed_files(params: Strict) -> list[str]:
    """Return the paths of files that the parameters install in a node; each may start programs, as master.cf does."""
    fields = type(params).model_fields.items()
    trees = [
        name for name, info in fields if any(isinstance(m, FromDisk) and m.read is read_tree for m in info.metadata)
    ]
    files = {path: text for name in trees for path, text in (getattr(params, name) or {}).items()}
    return [f"{path} (a program)" if text.startswith("#!") else path for path, text in files.items()]


def compare(capsule: Capsule, finished: Finished) -> dict[str, Any]:
    """Compare a run with its capsule.

    ::

        outcome, claim, quotes    [capsule, here]
        figures                   [name, capsule, here, here / capsule]
        environment               [name, capsule, here] of every fact that differs
        config                    nodes, path and diff of every rendered file that differs, in the capsule's subnet
    """
    facts = finished.rundir.load()
    verdict = finished.verdict
    original = capsule.signature
    figures = (
        (name, original.figures.get(name), verdict.figures.get(name))
        for name in dict.fromkeys([*original.figures, *verdict.figures])
    )
    return {
        "outcome": [str(original.outcome), str(verdict.outcome)],
        "claim": [original.claim, verdict.headline],
        "quotes": [original.quotes, [quote.text for quote in verdict.quotes]],
        "figures": [[name, a, b, b / a if a and b is not None else None] for name, a, b in figures],
        "environment": list(
            _differences(
                {"testbed": capsule.version, **_steady(capsule.environment), "bed": capsule.bed},
                {"testbed": facts["version"], **_steady(facts["environment"]), "bed": _without_texts(facts["bed"])},
            )
        ),
        "config": _changed(capsule, _plan_here(capsule, facts)),
    }


def exit_code(compared: Mapping[str, Any]) -> ExitCode:
    """Return INCONCLUSIVE if the run here is INCONCLUSIVE, OK if its outcome equals the capsule's, else UNEXPECTED."""
    original, here = compared["outcome"]
    if here == Outcome.INCONCLUSIVE:
        return ExitCode.INCONCLUSIVE
    return ExitCode.OK if here == original else ExitCode.UNEXPECTED


def _without_texts(bed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a bed with digests in place of the user's files; ``params`` and ``config`` of a capsule hold the texts."""

    def digests(node: Mapping[str, Any]) -> dict[str, Any]:
        files = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in (node.get("files") or {}).items()}
        return {**node, **({"files": files} if files else {})}

    return {**bed, "nodes": {name: digests(node) for name, node in (bed.get("nodes") or {}).items()}}


def _config(folder: Path) -> dict[str, dict[str, File]]:
    """Return the rendered files of every node."""
    config: dict[str, dict[str, File]] = {}
    room = MAX_CONFIG_B
    for path in sorted(sorted(p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size):
        node, name = str(path.relative_to(folder)).split("/", 1)
        if f"/{name}" not in agents.code():  # without the agents' code: the environment holds its digest
            content = path.read_bytes()
            room -= len(content)
            config.setdefault(node, {})[f"/{name}"] = _file(content, carried=room >= 0)
    return config


def _file(content: bytes, *, carried: bool) -> File:
    try:
        text = content.decode() if carried else None
    except UnicodeDecodeError:
        text = None
    return File(sha256=hashlib.sha256(content).hexdigest(), text=text)


def _plan_here(capsule: Capsule, facts: Mapping[str, Any]) -> Plan:
    """Plan this machine's bed in the capsule's subnet, if the bed fits there, so that no address differs."""
    chosen = scenario(capsule.scenario)
    bed = prepare(chosen, chosen.params.model_validate(facts["params"]))
    cpus = int(facts["environment"]["engine"]["cpus"])
    try:
        return make_plan(bed, subnet=parse_slice(capsule.subnet), cpus=cpus)
    except InvalidInput:
        return make_plan(bed, subnet=IPv4Network(facts["plan"]["subnet"]), cpus=cpus)


def _changed(capsule: Capsule, here: Plan) -> list[dict[str, Any]]:
    """Return every rendered file that differs; nodes with the same difference share an entry."""
    changed: dict[tuple[str, str], list[str]] = {}
    files = {
        node.name: {path: _file(content, carried=True) for path, content in node.files.items()} for node in here.nodes
    }
    for node in sorted({*capsule.config, *files}):
        original, mine = capsule.config.get(node, {}), files.get(node, {})
        for path in sorted({*original, *mine} - agents.code().keys()):
            if diff := _diff(original.get(path), mine.get(path)):
                changed.setdefault((path, diff), []).append(node)
    return [{"nodes": nodes, "path": path, "diff": diff} for (path, diff), nodes in changed.items()]


def _diff(original: File | None, here: File | None) -> str | None:
    """Return a unified diff, or a sentence if a text is missing or too long; ``None`` if the files are equal."""
    if not original or not here:
        return "only here" if here else "only in the capsule"
    if (original.sha256 == here.sha256) if original.text is None else (original.text == here.text):
        return None
    if original.text is None or here.text is None:
        return "differs; the capsule holds its digest only"
    one, other = original.text.splitlines(), here.text.splitlines()
    if len(one) + len(other) > MAX_DIFF_LINES:
        return "differs; too long to compare line by line"
    return "\n".join(difflib.unified_diff(one, other, "capsule", "here", lineterm="", n=1))


def _steady(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environment.items() if name not in _MOVING}


def _differences(original: Any, here: Any, name: str = "") -> Iterator[list[str]]:
    """Yield [name, capsule's value, value here], all as text, for every leaf that differs."""
    if isinstance(original, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*original, *here]):
            yield from _differences(original.get(key), here.get(key), f"{name} {key}".strip())
    elif original != here:
        yield [name, *(("none" if value is None else str(value)) for value in (original, here))]
