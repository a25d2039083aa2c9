"""The built-in beds, as the YAML that a user would write."""

from importlib.resources import as_file, files
from pathlib import Path

from orchestrator.errors import InvalidInput
from orchestrator.model import Bed, read_bed


def names() -> list[str]:
    """Name the built-in beds."""
    return sorted(Path(f.name).stem for f in files(__name__).iterdir() if f.name.endswith(".yaml"))


def bed(name: str) -> Bed:
    """Return a built-in bed, or the one in the YAML file of this name.

    Raises:
        InvalidInput: there is neither, or the file is no bed.
    """
    if name in names():
        with as_file(files(__name__) / f"{name}.yaml") as path:
            return read_bed(path)
    if "/" in name or name.endswith((".yaml", ".yml")):
        return read_bed(Path(name))
    raise InvalidInput("the name of a built-in bed, or a YAML file", repr(name), f"choose one of {', '.join(names())}")
