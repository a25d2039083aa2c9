"""BIND: the authoritative server of everything that a bed knows, and of nothing else."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from orchestrator import zones
from orchestrator.addressing import twin
from orchestrator.model import Strict
from orchestrator.services import Rendered, Role, Site

DIRECTORY = "/etc/bind/testbed"
_OTHER_FDS = 120
"""What named has open beside its listening sockets: files, pipes, netlink, outgoing sockets (measured)."""


class Settings(Strict):
    """What a bed file may say of BIND."""

    listen: Literal["service", "all"] = "service"
    """On its one service address, or on every address that it has: a socket per address, protocol and worker."""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Worker threads (``-n``); unset, one for each CPU that it may use."""


class Bind:
    """The service."""

    name = "bind"
    role = Role.DNS
    image = "bind"
    settings = Settings
    capabilities = ("DAC_OVERRIDE", "NET_BIND_SERVICE", "SETGID", "SETUID")  # the first so that rndc reads bind's key
    takes_mail = False
    ready = re.compile(r" running$")

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a server for the bed's zones."""
        built = zones.build(site.deliveries, site.nodes, site.lab, site.node)
        files = {f"{DIRECTORY}/{zones.file_name(origin)}": text.encode() for origin, text in built.items()}
        workers = site.settings.workers or site.workers
        listening = 1 if site.settings.listen == "service" else len(site.addresses)
        return Rendered(
            command=("named", "-g", "-u", "bind", "-n", str(workers), "-c", f"{DIRECTORY}/named.conf"),
            files={**files, f"{DIRECTORY}/named.conf": _conf(site, list(built)).encode()},
            publish=("53/udp", "53/tcp"),
            fds=2 * listening * 2 * workers + _OTHER_FDS,  # two families, UDP and TCP
            memory_mb=64 + listening // 4,
            peers=len(site.nodes) - 1,
        )

    def verify(self, files: Mapping[str, bytes]) -> None:
        """Read the zones back with dnspython and hold them against each other.

        Raises:
            InvalidInput: one is not what it should be.
        """
        paths = [path for path in files if path.startswith(f"{DIRECTORY}/") and path.endswith(".zone")]
        zones.check({zones.origin(path.rpartition("/")[2]): files[path].decode() for path in paths})


def _conf(site: Site[Settings], origins: list[str]) -> str:
    every = site.settings.listen == "all"
    four, six = ("any", "any") if every else (str(site.v4), str(twin(site.v4)))
    statements = "".join(
        f'zone "{origin}" {{ type primary; file "{DIRECTORY}/{zones.file_name(origin)}"; check-names ignore; }};\n'
        for origin in origins
    )
    return f"""\
options {{
    directory "/var/cache/bind";
    pid-file none;
    listen-on {{ {four}; }};
    listen-on-v6 {{ {six}; }};
    interface-interval 0;        // the addresses of a node do not change
    recursion no;                // authoritative only: what the bed does not know, nobody does
    allow-transfer {{ none; }};
    empty-zones-enable no;
    minimal-responses yes;
    notify no;
    dnssec-validation no;
    querylog no;
}};

// No "controls": rndc works inside the node, over its loopback interface, with the key of its image.

{statements}"""


SERVICE = Bind()
