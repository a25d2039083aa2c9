"""Models of a bed file (bed, nodes, limits, records, zones, recipients); reads YAML and checks every name.

This module checks every name that later reaches a zone file, a shell or a configuration file. Each service checks its
own settings (``services``).
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import dns.exception
import dns.name
import dns.rdata
import dns.zone
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from yaml.constructor import ConstructorError

from orchestrator.agents.order import DOMAIN, LOCAL_PART
from orchestrator.bed import user_files
from orchestrator.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)

MAX_DOMAINS = 65_536
"""Maximum number of domains: their sink addresses, one each, fill half of 198.18.0.0/15; the nodes fit in the rest."""

_MAX_FILE_B = 32 * 2**20
"""Maximum bytes of a bed file: enough for the largest number of the longest domain names."""
_MAX_DEPTH = 32
_REWORDED = {"extra_forbidden": "unknown key"}
_SCHEMA = "see `testbed schema`"

_DOMAIN = re.compile(rf"{DOMAIN}\.(?!arpa\Z)[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
_OWNER = re.compile(r"[a-z0-9_*-]+(?:\.[a-z0-9_-]+)+")
RECORD_TYPES = ("TXT", "MX", "SRV", "CNAME", "CAA", "A", "AAAA", "TLSA", "NAPTR", "SSHFP", "HTTPS", "SVCB")
"""Types of DNS records that a bed file may add."""
_UNBOUNDED = re.compile(r"^\s*(\$(?:INCLUDE|GENERATE))\b", re.IGNORECASE | re.MULTILINE)
_MAX_PATH = 256
"""Maximum octets of a path, with its angle brackets (RFC 5321, 4.5.3.1.3)."""
MAX_DOMAIN = _MAX_PATH - len("<probe@>")
"""Maximum octets of a domain: leaves room for a mailbox path and for the mail host's name, mx.<domain>
(RFC 1035, 2.3.4: 253 octets as text)."""


def _domain(name: str) -> str:
    """Check that a name is lower case, has two labels or more, and leaves room for a mailbox and a mail host's name."""
    if len(name) > MAX_DOMAIN:
        raise ValueError(
            f"a domain of {len(name)} octets; at most {MAX_DOMAIN}, because the path <probe@domain> has "
            f"at most {_MAX_PATH} (RFC 5321, 4.5.3.1.3)"
        )
    if not _DOMAIN.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a domain of two or more labels, each of at most 63 letters, digits, '-' and '_', outside "
            ".arpa"
        )
    return name


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml if installed
    """Loads plain data; refuses a repeated key, because one of two nodes of the same name would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise ConstructorError(None, None, f"{key.value!r} is repeated", key.start_mark)
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return made


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Domain = Annotated[str, AfterValidator(_domain), Field(json_schema_extra={"maxLength": MAX_DOMAIN})]
Release = Literal["bullseye", "bookworm", "trixie"]
_FILES_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [
            {"type": "string", "description": "A file or folder beside the bed file."},
            {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
        ]
    },
}
Files = Annotated[
    dict[Annotated[str, AfterValidator(user_files.node_path)], str],
    AfterValidator(user_files.within_bounds),
    WithJsonSchema(_FILES_SCHEMA),
]
"""Absolute path in a node -> text. (A bed file may name a file beside it instead: ``user_files.read_beside``.)"""

_RECIPIENT = re.compile(rf"{LOCAL_PART}(?:@([^@]+))?")


def _recipient(address: str) -> str:
    """Check that a recipient is a Dot-string (RFC 5321, 4.1.2) of at most 64 octets, alone or at a domain of a bed."""
    match = _RECIPIENT.fullmatch(address)
    if not match:
        raise ValueError(f"{address[:80]!r} is not a local part like 'anna.b', alone or at a domain")
    if match[1] is not None:
        _domain(match[1])
    return address


Recipients = Annotated[
    list[Annotated[str, AfterValidator(_recipient)]], Field(min_length=1, max_length=2 * MAX_DOMAINS)
]
"""Local parts valid in every domain, or full addresses."""


class Families(StrEnum):
    """The address families of a bed's lab network."""

    V4 = "v4"
    V6 = "v6"
    BOTH = "both"

    @property
    def has_v4(self) -> bool:
        """Whether mail and DNS use IPv4."""
        return self is not Families.V6

    @property
    def has_v6(self) -> bool:
        """Whether mail and DNS use IPv6."""
        return self is not Families.V4


class Strict(BaseModel):
    """A part of a bed file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Limits(Strict):
    """Resource limits of one node; unset: the engine's default."""

    cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    """Maximum CPU time in each second, in seconds: 2 is the time of two CPUs."""
    cpuset: Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")] | None = None
    """CPU numbers, as in cpuset(7): ``0-3,6``."""
    memory_mb: Annotated[int, Field(ge=16, le=1 << 20)] | None = None
    """Memory in MiB."""
    nofile: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    """RLIMIT_NOFILE, soft and hard (getrlimit(2))."""
    pids: Annotated[int, Field(ge=8, le=1 << 22)] | None = None
    """Maximum number of processes and threads."""

    @property
    def memory_b(self) -> int | None:
        """Memory in octets."""
        return self.memory_mb and self.memory_mb * 2**20


class NodeSpec(Strict):
    """One container of a bed."""

    service: Name
    release: Release = "bookworm"
    """The Debian release of the image, which determines the version of the daemon."""
    addresses: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] = 1
    """Number of real lab addresses in each family. If there are more than 2,561, the IPv6 addresses are on no
    interface: a route makes their prefix local, because the kernel adds so many addresses too slowly. Exception: a
    service that listens on each address."""
    limits: Limits = Limits()
    settings: dict[str, Any] = {}
    """Settings of the service; ``testbed schema`` lists them."""
    files: Files = {}
    """The user's own files, laid over those of the image and service: absolute path in the node -> the name of a file
    or folder beside the bed file, or ``{text: ...}``. A file that begins with ``#!`` is executable."""
    may_end: bool = False
    """Whether the node may exit, even before it serves, without ending the bed."""


def _record(owner: str, kind: str, data: str) -> str:
    """Return the canonical data of a record; raises ValueError if it is invalid, or reserved for the bed."""
    if kind not in RECORD_TYPES:
        raise ValueError(f"records of {owner}: type {kind!r} is not one of {', '.join(RECORD_TYPES)}")
    if kind == "TXT" and not data.startswith('"'):
        data = " ".join(f'"{_quoted(data[i : i + 255])}"' for i in range(0, len(data), 255))  # RFC 1035, 3.3.14
    try:
        text = dns.rdata.from_text("IN", kind, data, origin=dns.name.root, relativize=False).to_text()
        name = dns.name.from_text(owner)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"records of {owner}: {kind} {data!r}: {error}") from error
    if len(name) < 3 or name.is_subdomain(dns.name.from_text("arpa")) or not _OWNER.fullmatch(owner):
        raise ValueError(f"records of {owner}: the owner is a name of two labels or more, outside .arpa, in lower case")
    return text


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _records(given: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    for owner, kinds in given.items():
        if "CNAME" in kinds and (len(kinds) > 1 or len(kinds["CNAME"]) != 1):
            raise ValueError(f"records of {owner}: a CNAME stands alone (RFC 1034, 3.6.2)")
    return {
        owner: {kind: [_record(owner, kind, one) for one in data] for kind, data in kinds.items()}
        for owner, kinds in given.items()
    }


Records = Annotated[dict[str, dict[str, list[str]]], AfterValidator(_records)]


def _zone(origin: str, text: str) -> str:
    """Return a zone file; raises ValueError if it does not parse, or has ``$INCLUDE`` or ``$GENERATE``."""
    if found := _UNBOUNDED.search(text):
        raise ValueError(f"zone {origin}: {found[1]}: write the records out instead")
    try:
        dns.zone.from_text(text, origin=f"{origin}.", relativize=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"zone {origin}: {error or type(error).__name__}") from error
    return text


Zones = Annotated[
    dict[Domain, str],
    AfterValidator(lambda given: {origin: _zone(origin, text) for origin, text in given.items()}),
    WithJsonSchema(_FILES_SCHEMA),
]
"""Name of a zone -> text of its file (RFC 1035, 5). (A bed file names a file beside it: ``user_files.read_beside``.)"""


class Bed(Strict):
    """A network and its nodes."""

    name: Name
    domains: Annotated[
        Annotated[int, Field(ge=1, le=MAX_DOMAINS), Tag("number")] | Annotated[list[Domain], Tag("names")],
        Discriminator(lambda given: "names" if isinstance(given, list) else "number"),
    ] = 16
    """Number of domains that receive mail (d0.test, d1.test, ...), or their names."""
    families: Families = Families.BOTH
    """Address families of mail and DNS: of records, listeners, routes and rules. ``v4`` needs no IPv6 on the host;
    with ``v6`` the control network and the published ports stay IPv4."""
    subnet: str | None = None
    """The IPv4 slice, within 198.18.0.0/15; unset: the first free slice of sufficient size."""
    records: Records = {}
    """Further DNS records: owner -> type -> data of each record, such as ``example.com: {TXT: ["v=spf1 -all"]}``; text
    without quotes is one string. An MX replaces the bed's own MX of its domain; ``MX: ["0 ."]`` means that the
    domain takes no mail (RFC 7505)."""
    zones: Zones = {}
    """Whole zone files: name of the zone -> a file beside the bed file, or ``{text: ...}``. The bed adds nothing to
    such a zone: mail for its domain reaches node ``inbox`` if its MX is ``inbox.nodes.test.``."""
    lab: Literal["macvlan", "bridge"] = "macvlan"
    """Driver of the lab network. A bridge needs neither macvlan in the kernel nor a rule on the host; its frames take a
    longer path, so beds for measurements use macvlan."""
    parent: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")] | None = None
    """A real interface for the lab network, instead of the bed's private veth pair."""
    on_link: bool = False
    """Whether the IPv4 delivery addresses are on the link: each then takes an entry in the neighbour table of a sending
    node; the table holds 1,024 entries by default. If not on the link, one route leads to all delivery addresses."""
    guests: bool = False
    """Whether the bed has a network of the engine, ``testbed-NAME-guests``, that other containers may join. There
    these containers reach the published ports of the nodes, by the names of the nodes."""
    nodes: Annotated[dict[Name, NodeSpec], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _distinct_domains(self) -> "Bed":
        if isinstance(self.domains, list):
            if not 1 <= len(self.domains) <= MAX_DOMAINS:
                raise ValueError(f"domains: {len(self.domains)} names; from 1 to {MAX_DOMAINS} are allowed")
            if len(set(self.domains)) != len(self.domains):
                raise ValueError("domains: a name is repeated")
        return self

    @model_validator(mode="after")
    def _parent_of_macvlan(self) -> "Bed":
        if self.parent and self.lab == "bridge":
            raise ValueError("parent: a lab on a bridge has none; take `lab: macvlan`, or leave parent out")
        return self

    @property
    def private(self) -> bool:
        """Whether the lab network has its own veth pair on the host."""
        return self.lab == "macvlan" and self.parent is None

    @property
    def domain_names(self) -> list[str]:
        """The name of every domain, in the order of its sink address."""
        return self.domains if isinstance(self.domains, list) else [f"d{i}.test" for i in range(self.domains)]


def parse_bed(data: object, source: str) -> Bed:
    """Check ``data`` (plain lists and dicts) as a bed; raises InvalidInput, which names ``source``."""
    return checked(Bed, data, f"a valid bed ({source})")


def read_bed(path: Path) -> Bed:
    """Read a bed from a YAML file; raises InvalidInput if the file is missing, not YAML or not a bed."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_B + 1)
    except (OSError, ValueError) as error:
        found = f"{path}: {getattr(error, 'strerror', None) or error}"
        raise InvalidInput("a bed file", found, "name a YAML file that can be read") from error
    if len(content) > _MAX_FILE_B:
        raise InvalidInput(f"a bed file of at most {_MAX_FILE_B >> 20} MiB", f"{path}: it is larger", "shorten it")
    try:
        text = content.decode()
        _refuse_bombs(text)
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - its base is a safe loader
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput("a bed in YAML", f"{path}: {error}", "correct the file") from error
    nodes = data.get("nodes") if isinstance(data, dict) else None
    for node in nodes.values() if isinstance(nodes, dict) else ():
        if isinstance(node, dict) and isinstance(node.get("files"), dict):
            node["files"] = user_files.read_beside(path, node["files"])
    if isinstance(data, dict) and isinstance(data.get("zones"), dict):
        data["zones"] = user_files.read_beside(path, data["zones"], "zones", folders=False)
    return parse_bed(data, str(path))


def _refuse_bombs(text: str) -> None:
    """Refuse aliases and deep nesting, whose expansion has no bound; a bed needs neither."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias, *{event.anchor}: write it out instead\n{event.start_mark}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"more than {_MAX_DEPTH} levels of nesting\n{event.start_mark}")


def checked(model: type[M], data: object, needed: str, do: str = _SCHEMA) -> M:
    """Return ``data`` as ``model``; raises InvalidInput with a line for each invalid value.

    ``needed`` is the error's name for the model, ``do`` its advice.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in e['loc'])[:200] or 'the whole'}: "
            f"{_REWORDED.get(e['type']) or e['msg'].removeprefix('Value error, ')} (got {str(e['input'])[:60]!r})"
            for e in error.errors()[:10]
        ]
        more = error.error_count() - len(lines)
        found = "; ".join(lines) + (f"; and {more} more" if more > 0 else "")
        raise InvalidInput(needed, found, do) from error
