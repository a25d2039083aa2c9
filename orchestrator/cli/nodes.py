"""Commands at the nodes of a bed that is up: logs, exec, stats."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import chosen, shell
from orchestrator.errors import InvalidInput
from orchestrator.plaintext import pass_on

if TYPE_CHECKING:
    from orchestrator.hosts import Output, Overdue
    from orchestrator.up.node import RunningNode

NodeArgument = Annotated[
    str, typer.Argument(metavar="NODE", help="The name of a node.", autocompletion=chosen.node_names)
]


def logs(
    node: NodeArgument,
    bed: chosen.Option = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the node ends.")] = False,
    output: shell.FormatOption = "text",
) -> None:
    """Print the log of a node; on a terminal, control characters become visible."""
    from orchestrator import strict_json

    for line in _node(bed, node).log(follow=follow):
        if output == "json":
            typer.echo(strict_json.dumps({"t": round(line.t, 6), "text": line.text}))
        else:
            pass_on(f"{line.text}\n", sys.stdout)


def exec_(
    node: NodeArgument,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The command and its arguments.")],
    bed: chosen.Option = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Time limit of the command, in seconds.")] = 60.0,
    output: shell.FormatOption = "text",
) -> None:
    """Run a command in a node with its service's capabilities; on a terminal, control characters become visible."""
    with _shown_if_late(output, timeout):
        done = _node(bed, node, running=True).exec(*command, timeout=timeout)
    _show(output, done)
    raise typer.Exit(done.status)


@contextmanager
def _shown_if_late(output: shell.Format, timeout: float) -> Iterator[None]:
    """If a command is killed at its time limit, show its output, and name the option ``--timeout`` in the error."""
    from orchestrator.hosts import Overdue

    try:
        yield
    except Overdue as late:
        _show(output, late)
        late.do = f"give it more time with --timeout (now {timeout:g} s)"
        raise


def _show(output: shell.Format, done: "Output | Overdue") -> None:
    if output == "json":
        shell.print_json({"status": done.status, "stdout": done.stdout, "stderr": done.stderr})
    else:
        pass_on(done.stdout, sys.stdout)
        pass_on(done.stderr, sys.stderr)


def stats(bed: chosen.Argument = None, output: shell.FormatOption = "text") -> None:
    """Show the state of each node of a bed, and its resource use over one second."""
    from orchestrator.up.collect.stats import rates, table

    used = rates(chosen.attached(bed, "`testbed stats ID`"))
    shell.answer(output, used, lambda: shell.tell(table(used)))


def _node(bed: str | None, name: str, *, running: bool = False) -> "RunningNode":
    """Attach to a bed and return one of its nodes; ``running``: raise EngineFailed if it has ended."""
    from orchestrator.hosts import docker
    from orchestrator.up.attach import attach, unfinished

    host = docker.connect()
    found = chosen.find(host, bed, "`--bed ID`")
    found.check_kept(name)
    attached = attach(host, found)
    nodes = attached.nodes
    if name in found.nodes and name not in nodes:
        raise unfinished(found)
    if name not in nodes:
        raise InvalidInput(f"a node of bed {found.bed}", repr(name), f"choose one of {', '.join(sorted(nodes))}")
    return attached.running(name) if running else nodes[name]
