"""The sink: accepts the mail of every domain and accounts for each message (``agents.sink``)."""

import json
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from orchestrator.agents.contract import SinkSettings
from orchestrator.agents.rules import Action, Rule
from orchestrator.bed.model import Strict
from orchestrator.bed.wiring import CERTIFICATE
from orchestrator.services import Rendered, Role, Service, Site
from orchestrator.services.agents import DOMAINS, PYTHON, files


def _possible(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    if any(rule.then is Action.BOUNCE for rule in rules):
        raise ValueError("bounce: the service blackhole keeps no mail, so it cannot bounce it; use the service inbox")
    return rules


class Settings(Strict):
    """Settings of a sink in a bed file."""

    data_delay_ms: Annotated[float, Field(ge=0, le=3_600_000)] = 0.0
    """Delay between the end of a message's data and the reply, in milliseconds."""
    max_size: Annotated[int, Field(ge=1024, le=1 << 40)] = 50 * 1024 * 1024
    """Announced SIZE (RFC 1870), in octets."""
    tls: bool = False
    """Offer STARTTLS, with the node's certificate."""
    rules: Annotated[tuple[Rule, ...], AfterValidator(_possible)] = ()
    """Rules for sessions and messages; the first match decides."""


class Blackhole(Service[Settings]):
    """The service."""

    name = "blackhole"
    role = Role.SINK
    image = "agents"
    settings = Settings
    capabilities = ("NET_BIND_SERVICE",)
    takes_mail = True
    ready = re.compile(r'"event": "listening"')
    control = (*PYTHON, "-m", "orchestrator.agents.control")

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a sink for the whole block of delivery addresses."""
        settings = SinkSettings(**site.settings.model_dump(exclude={"tls", "rules"}))
        rules = [rule.to_dict() for rule in site.settings.rules]
        listen = () if site.families.has_v6 else ("--listen", "0.0.0.0")
        place = ("--domains", DOMAINS, "--prefix", str(site.block)) if site.block else ()
        options = (
            *(*listen, *place, "--settings", json.dumps(settings.to_dict())),
            *(("--certificate", CERTIFICATE) if site.settings.tls else ()),
            *(("--rules", json.dumps(rules)) if rules else ()),
        )
        return Rendered(
            command=(*PYTHON, "-m", "orchestrator.agents.sink", *options),
            files=files(site.deliveries),
            publish=("25/tcp",),
            fds=4096,
            memory_mb=96,
        )


SERVICE = Blackhole()
