"""JSON files of a run: base class of their pydantic models, check of ``format``, reason why a file is unreadable."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator import strict_json
from orchestrator.errors import InvalidInput


class Kept(BaseModel):
    """Base class for the content of files in a run directory: strict types, unknown keys ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Check a file's content in pydantic's JSON mode: strict fields may be dataclasses, enumerations and tuples."""
        return cls.model_validate_json(strict_json.dumps(data))


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises OSError, ValueError or RecursionError."""
    data = strict_json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError("the file holds no JSON object")  # noqa: TRY004 - invalid content, not a wrong argument
    return data


def check_format(data: Mapping[str, Any], known: int, path: Path) -> None:
    """Raise InvalidInput if a file's ``format`` is not ``known``; a file without the key has format 1."""
    found = data.get("format", 1)
    if type(found) is int and found == known:
        return
    made_by = f", written by testbed {data['version']}" if isinstance(data.get("version"), str) else ""
    if type(found) is not int:
        do = "the file is damaged, or testbed did not write it"
    elif found < known:
        do = f"it was made before format {known}: use an earlier testbed (CHANGELOG.md lists them)"
    else:
        do = f"it was made after format {known}: use a later testbed"
    raise InvalidInput(f"a file of format {known}", f"{path}: format {found!r:.60}{made_by}", do)


def why(error: Exception) -> str:
    """Return the reason why data cannot be read; for a validation error, the first invalid key."""
    if isinstance(error, ValidationError):
        return place(error.errors()[0])
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def place(error: Mapping[str, Any]) -> str:
    """Return the key and the message of one of pydantic's errors."""
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
