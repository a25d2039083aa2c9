"""Commands that prepare, check and clean this machine: setup, doctor, clean."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from orchestrator.cli import scenario_commands, shell
from orchestrator.errors import EngineFailed, ExitCode

if TYPE_CHECKING:
    from orchestrator.bed.model import Bed
    from orchestrator.hosts import Host
    from orchestrator.hosts.capacity import Check
    from orchestrator.plan import Plan
    from orchestrator.scenarios import Scenario


def setup() -> None:
    """Make this machine ready: the container engine, the base images, our images. A second call takes seconds."""
    from orchestrator.cli.progress import Steps
    from orchestrator.hosts import setup as machine_setup

    steps = Steps()
    with steps.step("set up this machine"):
        machine_setup.setup(steps.say)


class Doctor(TyperCommand):
    """The command ``doctor BED``, or ``doctor SCENARIO`` with the scenario's parameters as options."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the command line; if it names a scenario, use the options of this scenario's command."""
        named = next((word for word in args if word in scenario_commands.names()), None)
        if named is None:
            return super().make_context(info_name, args, parent, **extra)
        args.remove(named)
        return scenario_commands.command(named, _doctor).make_context(f"{info_name} {named}", args, parent, **extra)


def doctor(
    bed: Annotated[
        str,
        typer.Argument(
            metavar="BED|SCENARIO",
            help="A built-in bed, a YAML file, or a scenario with its options, to check this machine for.",
            autocompletion=lambda: [*shell.built_in_beds(), *scenario_commands.names()],
        ),
    ] = "relay",
    domains: shell.DomainsOption = None,
    runs: shell.RunsOption = shell.RUNS,
    families: shell.FamiliesOption = None,
    output: shell.FormatOption = "text",
) -> None:
    """Check if this host can run a bed or scenario: needed, found, what to do, and the limit that binds first."""
    from orchestrator.bed import builtin
    from orchestrator.plan import make_plan

    wanted = builtin.bed(bed, domains=domains, families=families)
    make_plan(wanted, cpus=1)  # raises InvalidInput if no machine could build this bed
    checks, _, code = _examine(wanted, runs)
    shell.answer(output, [asdict(check) for check in checks], lambda: _show(checks))
    raise typer.Exit(code)


def _doctor(
    scenario: "Scenario[Any]",
    values: dict[str, Any],
    *,
    runs: shell.RunsOption = shell.RUNS,
    output: shell.FormatOption = "text",
) -> None:
    """Check if this host can run a scenario."""
    from orchestrator.runs import runner
    from orchestrator.runs.forecast import first_to_bind

    params = scenario_commands.params_of(scenario, values)
    wanted = runner.prepare(scenario, params)
    checks, plan, code = _examine(
        wanted,
        runs,
        connections=scenario.connections(params),
        provoked=scenario.provokes,
    )
    nodes = [
        {"name": node.name, "image": node.tag, "fds": node.fds, "memory_mb": node.memory_mb, "neighbours": node.peers}
        for node in (plan.nodes if plan else ())
    ]
    if output == "json":
        first = first_to_bind(checks)
        data = {"checks": [asdict(check) for check in checks], "nodes": nodes}
        shell.print_json(data | {"first_to_bind": first and asdict(first)})
    else:
        _show(checks)
        if nodes:
            shell.tell(f"\n{'node':10}{'image':28}{'open files':>12}{'MiB':>8}{'neighbours':>12}")
        for node in nodes:
            shell.tell("{name:10}{image:28}{fds:12,}{memory_mb:8,}{neighbours:12,}".format(**node))
    raise typer.Exit(code)


def _examine(
    wanted: "Bed",
    runs: Path,
    *,
    connections: "Mapping[str, float] | None" = None,
    provoked: "AbstractSet[str]" = frozenset(),
) -> "tuple[list[Check], Plan | None, ExitCode]":
    """Check if this machine can run a bed; the returned plan is None if the engine does not answer."""
    from orchestrator.hosts import capacity, docker
    from orchestrator.hosts import images as catalogue
    from orchestrator.hosts.helper import HELPER
    from orchestrator.plan import make_plan
    from orchestrator.runs.forecast import forecast

    plan = None
    code = ExitCode.HOST
    try:
        host = docker.connect()
        info = host.info()
        plan = make_plan(wanted, cpus=info.cpus)
        found = f"{info.version} on {info.operating_system}, {info.cpus} CPUs"
        tags = [catalogue.tag(*image) for image in catalogue.needed_by(wanted)]
        lacking = [tag for tag in tags if not host.images.find(tag)]
        checks = [
            capacity.Check(name="engine", needed="Docker 20.10 or later", found=found, do="", state="ok"),
            capacity.Check.of(
                "images of the bed",
                f"{len(tags)}",
                f"missing: {', '.join(lacking)}" if lacking else "all of them",
                "`testbed setup` builds them, and so does the first run",
                enough=not lacking,
                short="warn",
            ),
        ]
        if HELPER not in lacking:  # the helper container reads the host's limits
            checks += [
                *forecast(capacity.read(host), plan, connections=connections, provoked=provoked),
                capacity.room_for_runs(runs),
                _walls(host),
            ]
    except EngineFailed as none:
        checks = [capacity.Check(name="engine", needed=none.needed, found=none.found, do=none.do, state="fail")]
        code = none.exit_code
    return checks, plan, code if any(check.state == "fail" for check in checks) else ExitCode.OK


def _walls(host: "Host") -> "Check":
    """Check the firewalls ("walls") of the beds that are up."""
    from orchestrator.hosts import capacity, ownership, walls

    beds = [bed for bed in ownership.deployed_beds(host) if bed.networks]
    looked = walls.look(host, beds)
    faults = [wall for wall in looked if wall.state is not walls.State.CLOSED]
    found = walls.summary(looked) if faults else "all of them"
    do = ", ".join(dict.fromkeys(wall.do for wall in faults))
    name = "walls of the beds that are up"
    return capacity.Check.of(name, "all of them closed", found, do, enough=not faults, short="warn")


def _show(checks: "list[Check]") -> None:
    from orchestrator.measurements.verdict import Table
    from orchestrator.report.terminal import show_table
    from orchestrator.runs.forecast import first_to_bind

    rows = [(c.state, c.name, c.needed, c.found, "" if c.share is None else f"{c.share:.1%}") for c in checks]
    show_table(Table(title="", columns=("", "check", "needed", "found", "share"), rows=rows, align="llllr"))
    for check in checks:
        if check.do:
            shell.tell(f"do: {check.do}  ({check.name})")
    if first := first_to_bind(checks):
        shell.tell(f"first to bind: {first.name}, {first.needed} of {first.found}")


def clean(
    everything: Annotated[bool, typer.Option("--all", help="Also beds that are up and runs in progress.")] = False,
    output: shell.FormatOption = "text",
) -> None:
    """Remove all objects of killed commands, and expired beds; keep all other beds, unless --all."""
    from orchestrator.hosts import cleaning, docker

    done = cleaning.clean(docker.connect(), everything=everything, say=shell.say)
    if output == "json":
        shell.print_json({name: [bed.to_dict() for bed in beds] for name, beds in done._asdict().items()})
        return
    shell.tell(f"{len(done.removed)} removed, {len(done.kept)} kept")
    for bed in done.kept:
        shell.tell(f"  kept {bed.bed} {bed.id}: it is {bed.state}; `testbed clean --all` removes it, too")
