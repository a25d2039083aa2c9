"""``testbed images``: the images on this machine; ``save`` and ``load`` move them to other machines in a file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import shell
from orchestrator.cli.verbosity import verbose

app = typer.Typer()


@app.callback(invoke_without_command=True)
@verbose
def images(
    context: typer.Context,
    build: Annotated[
        bool, typer.Option("--build", help="Build each image that is missing or older than its files.")
    ] = False,
    release: Annotated[str, typer.Option(help="The Debian release that supplies the daemons.")] = "bookworm",
    output: shell.FormatOption = "text",
) -> None:
    """List the images, each current, stale or missing; with --build, build them first."""
    if context.invoked_subcommand:
        return
    from orchestrator.cli.progress import Steps
    from orchestrator.hosts import docker
    from orchestrator.hosts import images as catalogue

    host = docker.connect()
    if build:
        steps = Steps()
        with steps.step(f"build the images for {release}"):
            states = catalogue.build_all(host, release, steps.say)
    else:
        states = catalogue.states(host, release)
    if output == "json":
        shell.print_json([asdict(state) for state in states])
    else:
        for state in states:
            size = f"{state.size_b / 1e6:7.0f} MB" if state.size_b else ""
            shell.tell(f"{state.tag:32} {state.state:8} {size:10}  {state.build}".rstrip())


@app.command()
@verbose
def save(
    file: Annotated[Path, typer.Argument(help="The file to write; an existing one is replaced when all is written.")],
    bed: Annotated[
        str,
        typer.Option(
            help="Save the images that this bed needs: a built-in bed or a YAML file.",
            autocompletion=shell.built_in_beds,
        ),
    ] = "mail",
    output: shell.FormatOption = "text",
) -> None:
    """Save the images of a bed to a file; missing and stale ones are built first."""
    from orchestrator.bed import builtin
    from orchestrator.cli.progress import Steps
    from orchestrator.hosts import docker, saved_images
    from orchestrator.hosts import images as catalogue

    needed = catalogue.needed_by(builtin.bed(bed))
    steps = Steps()
    with steps.step(f"save {len(needed)} images"):
        size = saved_images.save(docker.connect(), needed, file, steps.say)
    tags = [catalogue.tag(*one) for one in needed]
    shell.answer(
        output, {"file": str(file), "size_b": size, "images": tags}, lambda: shell.tell(f"{file}: {size / 1e6:.0f} MB")
    )


@app.command()
@verbose
def load(
    file: Annotated[Path, typer.Argument(help="A file of `testbed images save`.")],
    output: shell.FormatOption = "text",
) -> None:
    """Load images from a file; this version of testbed must have saved them."""
    from orchestrator.cli.progress import Steps
    from orchestrator.hosts import docker, saved_images

    steps = Steps()
    with steps.step("load images"):
        tags = saved_images.load(docker.connect(), file, steps.say)
    shell.answer(output, {"images": tags}, lambda: shell.tell("\n".join(tags)))
