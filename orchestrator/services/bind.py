"""BIND: the authoritative server for all names of a bed; its named.conf, open files and memory need."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.bed import zones
from orchestrator.bed.model import Strict
from orchestrator.errors import InvalidInput
from orchestrator.services import Rendered, Role, Service, Site

DIRECTORY = "/etc/bind/testbed"
_OWN = f"{DIRECTORY}/own"
"""Folder of the user's own zone files."""
_CONF = f"{DIRECTORY}/named.conf"
_CHECKED = ("sh", "-euc", f'named-checkconf -z {_CONF} && exec "$@"', "sh")
"""Checks the zones before named starts; an invalid zone ends the node with BIND's error. named itself would start
without this zone."""
_BESIDE = {"bullseye": (9, 12), "bookworm": (7, 11), "trixie": (9, 6)}
"""Debian release -> open files of an idle named, without listening sockets: a fixed number, and a number for each
worker. Measured with 1, 2, 4 and 8 workers, in 9.16.50, 9.18.49 and 9.20.30; see `testbed run bind-fd-limit`."""
DEBIAN_MAX_SOCKETS = 21_000
"""Default of named's option ``-S`` in Debian's BIND 9.16; later versions have no such limit."""
_OUTGOING_FDS = 64
"""Descriptors reserved for files and sockets that named opens briefly: outgoing sockets, TCP clients, zone files."""
_SOCKET_B = {"bullseye": 60_000, "bookworm": 5_000, "trixie": 3_000}
"""Debian release -> bytes of memory for each listening socket, measured with 2,560 addresses. BIND 9.16 (bullseye)
keeps buffers for each socket."""

_RECURSIVE = "yes; allow-recursion { any; };"
_AUTHORITATIVE = "no;                // authoritative only: other names do not exist"

Listen = Literal["service", "lab", "all"]


class Settings(Strict):
    """Settings of BIND in a bed file."""

    listen: Listen = "service"
    """Listening addresses: the service address, every lab address, or every address of the node. Each address takes one
    socket per protocol and worker."""
    listen_v6: Listen | Literal["none"] | None = None
    """IPv6 listening addresses. Default: the value of ``listen``."""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Number of worker threads (``-n``). Default: one thread for each usable CPU."""
    max_sockets: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    """File descriptors of outgoing sockets must be below this number (``-S``). Default: that of the build, 21,000 in
    Debian. The option has no effect since BIND 9.17.20."""
    update: bool = False
    """Accept dynamic updates (RFC 2136) from the node itself, signed with the session key (RFC 8945)."""
    recursion: bool = False
    """Follow a CNAME into another zone of the bed, as a resolver does; the root zone stays the bed's own."""
    resolver: bool = False
    """Resolve and validate as named does by default: named has no root zone, and fetches the root's keys at the start.
    (The fetch fails, because a bed has no route to a root server.)"""


class Bind(Service[Settings]):
    """The service."""

    name = "bind"
    role = Role.DNS
    image = "bind"
    settings = Settings
    capabilities = ("DAC_OVERRIDE", "NET_BIND_SERVICE", "SETGID", "SETUID")  # the first: rndc reads bind's key
    ready = re.compile(r" running$")
    version = ("named", "-v")

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a server for the bed's zones."""
        built = zones.build(site.deliveries, site.nodes, site.lab, site.node, site.families, site.records, site.zones)
        if site.settings.resolver:
            del built[zones.ROOT]
        paths = {origin: f"{DIRECTORY}/{zones.file_name(origin)}" for origin in built}
        paths |= {f"{name}.": f"{_OWN}/{name}.zone" for name in site.zones}
        texts = built | {f"{name}.": text for name, text in site.zones.items()}
        settings = site.settings
        workers = settings.workers or site.workers
        listen6 = _listen6(site)
        listening = _listening(settings.listen, site, real=site.families.has_v4) + _listening(listen6, site, real=True)
        limit = ("-S", str(settings.max_sockets)) if settings.max_sockets else ()
        return Rendered(
            command=(
                *(_CHECKED if site.zones else ()),
                *("named", "-g", "-u", "bind", "-n", str(workers), *limit, "-c", _CONF),
            ),
            files={**{path: texts[name].encode() for name, path in paths.items()}, _CONF: _conf(site, paths).encode()},
            publish=("53/udp", "53/tcp"),
            fds=self.open_files(listening, workers, site.release) + _OUTGOING_FDS,
            fd_limit=self.most_files(site.release, settings.max_sockets),
            memory_mb=64 + listening * 2 * workers * _SOCKET_B[site.release] // 2**20,
            enumerates6=listen6 in {"lab", "all"},
        )

    def open_files(self, addresses: int, workers: int, release: str) -> int:
        """Return the open files of an idle named; ``addresses``: number of listening addresses, of both families.

        They are a UDP and a TCP socket for each address and worker (9.16.12 and later), and the files of ``_BESIDE``.
        """
        fixed, each = _BESIDE[release]
        return addresses * 2 * workers + each * workers + fixed

    def most_files(self, release: str, max_sockets: int | None = None) -> int | None:
        """Return the limit ``-S``: the setting, or else Debian's default; ``None``: this release has no such limit."""
        return max_sockets or DEBIAN_MAX_SOCKETS if release == "bullseye" else None

    def update(self, plan: Mapping[str, bytes], address: str, lines: Sequence[str]) -> tuple[str, ...] | None:
        """Return the nsupdate(1) command that changes the records; ``None``: the node accepts no changes."""
        if b"update-policy local" not in plan.get(_CONF, b""):
            return None
        script = "".join(f"{line}\n" for line in (f"server {address}", *lines, "send"))
        return ("sh", "-euc", 'printf %s "$1" | nsupdate -k /run/named/session.key', "sh", script)

    def verify(self, files: Mapping[str, bytes]) -> None:
        """Raise InvalidInput if the zones do not parse or contradict each other."""
        paths = [path for path in files if path.endswith(".zone") and path.rpartition("/")[0] == DIRECTORY]
        zones.check({zones.origin(path.rpartition("/")[2]): files[path].decode() for path in paths})


def _listen6(site: Site[Settings]) -> str:
    """Return the value of ``listen_v6`` in force; raises InvalidInput if it names addresses in a bed without IPv6."""
    wanted = site.settings.listen_v6
    if site.families.has_v6:
        return wanted or site.settings.listen
    if wanted in {None, "none"}:
        return "none"
    raise InvalidInput(
        f"IPv6 for listen_v6 of node {site.node}", "families: v4", "take `families: both`, or leave listen_v6 out"
    )


def _listening(where: str, site: Site[Settings], *, real: bool) -> int:
    """Return the number of listening addresses of one family; ``all`` includes those of lo and the control network.

    ``real``: the node has all its addresses in this family, not only the service address.
    """
    addresses = len(site.addresses) if real else 1
    return {"none": 0, "service": 1, "lab": addresses, "all": addresses + 2}[where]


def _conf(site: Site[Settings], paths: Mapping[str, str]) -> str:
    settings = site.settings
    four = {"service": str(site.v4), "lab": str(site.lab), "all": "any"}[settings.listen]
    six = {"service": str(site.v6), "lab": str(site.lab6), "all": "any", "none": "none"}[_listen6(site)]
    recursion = _RECURSIVE if settings.resolver or settings.recursion else _AUTHORITATIVE
    validation = "auto" if settings.resolver else "no"
    dynamic = ' update-policy local; journal "{}.jnl";' if settings.update else ""
    statements = "".join(
        f'zone "{origin}" {{ type primary; file "{path}"; check-names ignore;'
        f"{dynamic.format(zones.file_name(origin))} }};\n"
        for origin, path in paths.items()
    )
    return f"""\
options {{
    directory "/var/cache/bind";
    pid-file none;
    listen-on {{ {four}; }};
    listen-on-v6 {{ {six}; }};
    interface-interval 0;        // the addresses of a node do not change
    recursion {recursion}
    allow-transfer {{ none; }};
    empty-zones-enable no;
    minimal-responses yes;
    notify no;
    dnssec-validation {validation};
    querylog no;
}};

// No "controls": rndc works inside the node, over its loopback interface, with the key of its image.

{statements}"""


SERVICE = Bind()
