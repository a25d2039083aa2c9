"""The built-in beds, each a YAML file such as a user would write."""

from importlib.resources import as_file, files
from pathlib import Path

from orchestrator.bed.model import Bed, checked, read_bed
from orchestrator.errors import InvalidInput


def names() -> list[str]:
    """Return the names of the built-in beds."""
    return sorted(Path(f.name).stem for f in files(__name__).iterdir() if f.name.endswith(".yaml"))


def is_named(name: str) -> bool:
    """Return whether ``name`` is the name of a built-in bed, or looks like the name of a YAML file."""
    return name in names() or "/" in name or name.endswith((".yaml", ".yml"))


def bed(
    name: str,
    *,
    called: str | None = None,
    domains: int | None = None,
    parent: str | None = None,
    families: str | None = None,
    guests: bool | None = None,
) -> Bed:
    """Return a built-in bed, or the bed of a YAML file, with these options applied; raises InvalidInput."""
    if name in names():
        with as_file(files(__name__) / f"{name}.yaml") as path:
            written = read_bed(path)
    elif is_named(name):
        written = read_bed(Path(name))
    else:
        choice = f"choose one of {', '.join(names())}"
        raise InvalidInput("the name of a built-in bed, or a YAML file", repr(name), choice)
    options = {"name": called, "domains": domains, "parent": parent, "families": families, "guests": guests}
    given = {key: value for key, value in options.items() if value is not None}
    return checked(Bed, {**written.model_dump(), **given}, f"a valid bed ({name})")
