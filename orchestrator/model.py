"""The bed as its author writes it: YAML or Python in, checked data out.

This is the only module where outside text becomes data, so every name that later reaches a zone file, a shell or a
configuration file is checked here. Service settings are checked by the service they belong to (``services``).
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from orchestrator.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)

MAX_DOMAINS = 65_536
"""Half of 198.18.0.0/15: one sink address for each domain, and room for the nodes."""

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*\.test")


def _domain(name: str) -> str:
    """Check for a lower-case name under .test (RFC 6761) that fits in 255 octets (RFC 1035, 2.3.4)."""
    if len(name) > 253 or not _DOMAIN.fullmatch(name):
        raise ValueError(f"{name!r} is not a domain under .test made of letters, digits, '-', '_' and dots")
    return name


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Domain = Annotated[str, AfterValidator(_domain)]
Release = Literal["bullseye", "bookworm", "trixie"]


class Strict(BaseModel):
    """A part of a bed file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Limits(Strict):
    """What one node may use at most; unset is the engine's default."""

    cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    """CPU time per second, in cores."""
    cpuset: Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")] | None = None
    """CPU numbers, as in cpuset(7): ``0-3,6``."""
    memory_mb: Annotated[int, Field(ge=16, le=1 << 20)] | None = None
    """Memory in MiB."""
    nofile: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    """RLIMIT_NOFILE, soft and hard (getrlimit(2))."""
    pids: Annotated[int, Field(ge=8, le=1 << 22)] | None = None
    """Processes and threads."""


class Node(Strict):
    """One container of a bed."""

    service: Name
    release: Release = "bookworm"
    """The Debian release of its image: a version axis for its daemon."""
    addresses: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] = 1
    """How many real IPv4 (and as many IPv6) lab addresses it has."""
    limits: Limits = Limits()
    settings: dict[str, Any] = {}
    """What its service understands; ``testbed schema`` lists it."""


class Bed(Strict):
    """A network and its nodes."""

    name: Name
    domains: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] | list[Domain] = 16
    """How many domains receive mail (d0.test, d1.test, ...), or their names."""
    subnet: str | None = None
    """The IPv4 slice, within 198.18.0.0/15; unset takes the first free one that fits."""
    parent: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")] | None = None
    """A real interface to put the lab network on, instead of the bed's private veth pair."""
    nodes: Annotated[dict[Name, Node], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _distinct_domains(self) -> "Bed":
        if isinstance(self.domains, list):
            if not 1 <= len(self.domains) <= MAX_DOMAINS:
                raise ValueError(f"domains: {len(self.domains)} names; from 1 to {MAX_DOMAINS} are possible")
            if len(set(self.domains)) != len(self.domains):
                raise ValueError("domains: a name stands there twice")
        return self

    @property
    def domain_names(self) -> list[str]:
        """The name of every domain, in the order of its sink address."""
        return self.domains if isinstance(self.domains, list) else [f"d{i}.test" for i in range(self.domains)]


def parse_bed(data: object, source: str) -> Bed:
    """Check ``data`` (plain lists and dicts) as a bed; ``source`` names it in the error.

    Raises:
        InvalidInput: with a line for each thing that is wrong.
    """
    return checked(Bed, data, source)


def read_bed(path: Path) -> Bed:
    """Read a bed from a YAML file.

    Raises:
        InvalidInput: the file is missing, is no YAML or is no bed.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput("a bed file", f"{path}: {error.strerror}", "name a YAML file that can be read") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput("a bed in YAML", f"{path}: {error}", "correct the file") from error
    return parse_bed(data, str(path))


def checked(model: type[M], data: object, source: str) -> M:
    """Validate ``data`` as ``model``, with an error that a user can act on.

    Raises:
        InvalidInput: with a line for each thing that is wrong.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in e['loc']) or 'bed'}: {e['msg']} (got {str(e['input'])[:60]!r})"
            for e in error.errors()[:10]
        ]
        more = error.error_count() - len(lines)
        found = "; ".join(lines) + (f"; and {more} more" if more > 0 else "")
        raise InvalidInput(f"a valid {source}", found, "see `testbed schema` for what is possible") from error
