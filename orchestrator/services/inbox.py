"""The inbox: a mailbox for every domain of the bed, with an HTTP API, a web page and rules (``agents.inbox``)."""

import json
import re
from typing import Annotated

from pydantic import Field

from orchestrator.agents.rules import Rule
from orchestrator.bed.addressing import twin
from orchestrator.bed.model import Strict
from orchestrator.bed.wiring import CERTIFICATE
from orchestrator.services import Rendered, Role, Service, Site
from orchestrator.services.agents import DOMAINS, PYTHON, code, files

SPOOL = "/var/spool/inbox"
HTTP = 8025
_SETTINGS = "/testbed/inbox.json"
_RULES = "/testbed/rules.json"


class Settings(Strict):
    """Settings of an inbox in a bed file."""

    max_size: Annotated[int, Field(ge=1024, le=1 << 40)] = 50 * 1024 * 1024
    """Announced SIZE (RFC 1870), in octets."""
    max_messages: Annotated[int, Field(ge=1, le=10_000_000)] = 200_000
    """Maximum number of kept messages; further messages get the reply 452."""
    max_stored_mb: Annotated[int, Field(ge=1, le=1 << 20)] = 4096
    """Maximum MiB of the kept messages and their index; beyond it, messages get the reply 452."""
    users: dict[Annotated[str, Field(min_length=1, max_length=255)], str] | None = None
    """Name -> password for AUTH. By default any name with any password is accepted."""
    timeout_s: Annotated[float, Field(ge=1, le=3600)] = 300.0
    """Time limit, in seconds, of a command and of each 16 KiB of a message; a slower client gets 421."""
    require_auth: bool = False
    require_tls: bool = False
    rules: tuple[Rule, ...] = ()
    """Rules for sessions and messages; the first match decides."""


class Inbox(Service[Settings]):
    """The service."""

    name = "inbox"
    role = Role.SINK
    image = "inbox"
    settings = Settings
    capabilities = ("NET_BIND_SERVICE",)
    takes_mail = True
    ready = re.compile(r'"event": "listening"')

    def render(self, site: Site[Settings]) -> Rendered:
        """Render an inbox for the whole block of delivery addresses."""
        listen = () if site.families.has_v6 else ("--listen", "0.0.0.0")
        settings = site.settings.model_dump(exclude={"rules"})
        rules = [rule.to_dict() for rule in site.settings.rules]
        options = (
            *("--spool", SPOOL, "--settings", _SETTINGS, "--rules", _RULES),
            *("--certificate", CERTIFICATE, "--name", site.node, "--domains", DOMAINS),
            *(("--relay", str(site.first[Role.RELAY])) if Role.RELAY in site.first else ()),
            *(word for name, v4 in site.relays.items() for word in ("--log-from", name, str(v4), str(twin(v4)))),
        )
        return Rendered(
            command=(*PYTHON, "-m", "orchestrator.agents.inbox.server", *listen, *options),
            files={
                **files(site.deliveries),
                **code("inbox"),
                _SETTINGS: json.dumps(settings).encode(),
                _RULES: json.dumps(rules).encode(),
            },
            publish=("25/tcp", "465/tcp", "587/tcp", f"{HTTP}/tcp"),
            fds=4096,
            memory_mb=160,
        )


SERVICE = Inbox()
