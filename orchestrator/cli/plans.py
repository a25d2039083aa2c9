"""Commands about beds, up or not: plan, graph, schema."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli import chosen, shell
from orchestrator.errors import EngineFailed, InvalidInput

if TYPE_CHECKING:
    from orchestrator.plan import NodePlan

_CPUS = 2


def plan(
    bed: shell.BedArgument = "relay",
    domains: shell.DomainsOption = None,
    parent: shell.ParentOption = None,
    families: shell.FamiliesOption = None,
    files: Annotated[Path | None, typer.Option(help="Write every rendered file below this folder, too.")] = None,
    cpus: Annotated[int, typer.Option(min=1, help="Number of CPUs of the host to plan for.")] = _CPUS,
    output: Annotated[
        Literal["text", "json", "compose"],
        typer.Option(
            "--format",
            callback=shell.errors_as,
            help="text for people, json for scripts, compose for `docker compose`.",
        ),
    ] = "text",
) -> None:
    """Print the plan of a bed without starting it: addresses, files, limits, and the needed resources of the host."""
    from orchestrator.bed import builtin
    from orchestrator.measurements.files import write_files
    from orchestrator.plan import make_plan
    from orchestrator.up import compose

    wanted = builtin.bed(bed, domains=domains, parent=parent, families=families)
    if output == "compose":
        composed = compose.compose_plan(wanted, cpus=cpus)
        options = {"domains": domains, "parent": parent, "families": families, "cpus": cpus if cpus != _CPUS else None}
        given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
        command = ["testbed", "plan", bed, *given]
        if files:
            write_files(files, {**compose.files(composed, command), **compose.certificates(composed)})
        else:
            typer.echo(compose.render(composed, command), nl=False)
        return
    made = make_plan(wanted, cpus=cpus)
    if files:
        for node in made.nodes:
            write_files(files / node.name, node.files)
    if output == "json":
        shell.print_json(made.to_dict())
        return
    needs = made.needs
    shell.tell(f"bed {made.bed.name}: {len(made.deliveries):,} domains on {made.subnet}, mail to {made.mail}")
    for node in made.nodes:
        shell.tell(
            f"  {node.name:8} {node.tag:26} {node.v4!s:15} {len(node.addresses):,} addresses, {len(node.files)} files, "
            f"{node.fds:,} fds, {node.memory_mb:,} MiB, {', '.join(node.publish) or 'nothing'} published"
        )
        _show_own(node, made.bed.nodes[node.name].files)
    shell.tell(
        f"needed of the host: {needs.containers} containers, {needs.neighbour_entries:,} neighbour entries, "
        f"{needs.fds:,} open files in one process, {needs.memory_mb:,} MiB"
    )


def _show_own(node: "NodePlan", own: Iterable[str]) -> None:
    """Print the user's own files of a node, and testbed's changes to these files."""
    import hashlib

    for path in sorted(own):
        if (content := node.files.get(path)) is not None:
            typer.echo(f"           {path}  {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    for change in node.changes:
        typer.echo(f"           changed: {change}")
    for detour in node.detours:
        typer.echo(f"           can route mail elsewhere: {detour}")


def graph(
    bed: Annotated[
        str,
        typer.Argument(
            metavar="BED",
            help="The name or id of a bed that is up, else a built-in bed or a YAML file.",
            autocompletion=lambda: [*shell.built_in_beds(), *chosen.names()],
        ),
    ] = "relay",
    domains: shell.DomainsOption = None,
    parent: shell.ParentOption = None,
    families: shell.FamiliesOption = None,
    output: Annotated[
        Literal["mermaid", "dot", "json"],
        typer.Option(
            "--format", callback=shell.errors_as, help="mermaid for Markdown, dot for Graphviz, json for scripts."
        ),
    ] = "mermaid",
) -> None:
    """Draw a bed: its networks, and its nodes with roles, addresses and published ports."""
    from orchestrator.bed import builtin
    from orchestrator.hosts import docker
    from orchestrator.plan import graph as drawing
    from orchestrator.plan import make_plan
    from orchestrator.up.attach import attach

    options = domains or parent or families
    if builtin.is_named(bed) and (options or not _is_up(bed)):
        wanted = builtin.bed(bed, domains=domains, parent=parent, families=families)
        drawn = drawing.of_plan(make_plan(wanted, cpus=1))
    elif options:
        raise InvalidInput("a bed file for --domains, --parent and --families", f"bed {bed!r}", "leave them out")
    else:
        host = docker.connect()
        found = chosen.find(host, bed, "`testbed graph ID`")
        drawn = drawing.of_plan(attach(host, found).plan, found.ports, found.published_at)
    if output == "json":
        shell.print_json(drawn.to_dict())
    else:
        shell.tell((drawing.dot if output == "dot" else drawing.mermaid)(drawn).rstrip())


def _is_up(bed: str) -> bool:
    """Return whether a bed of this name is up; False if no engine answers."""
    from orchestrator.hosts import docker, ownership

    try:
        return bool(ownership.kept_beds(docker.connect(), bed))
    except EngineFailed:
        return False


def schema() -> None:
    """Print the JSON Schema of a bed file."""
    from orchestrator import services

    shell.print_json(services.schema())
