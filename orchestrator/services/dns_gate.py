"""A gate before the bed's DNS server: fails queries by name, type and count (``agents.dns_gate``)."""

import json
import re

from orchestrator.agents.dns_rules import DnsRule
from orchestrator.bed.addressing import twin
from orchestrator.bed.model import Strict
from orchestrator.errors import InvalidInput
from orchestrator.services import Rendered, Role, Service, Site
from orchestrator.services.agents import PYTHON, code

_RULES = "/testbed/dns-rules.json"


class Settings(Strict):
    """Settings of a gate in a bed file."""

    rules: tuple[DnsRule, ...] = ()
    """Rules for queries; the first match decides."""


class DnsGate(Service[Settings]):
    """The service."""

    name = "dns-gate"
    role = Role.GATE
    image = "inbox"
    settings = Settings
    capabilities = ("NET_BIND_SERVICE",)
    ready = re.compile(r'"event": "listening"')
    control = (*PYTHON, "-m", "orchestrator.agents.control")

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a gate before the first DNS server of the bed; raises InvalidInput if the bed has none."""
        if (dns := site.first.get(Role.DNS)) is None:
            raise InvalidInput(f"a DNS server behind node {site.node}", "none in the bed", "add one, such as bind")
        upstream = dns if site.families.has_v4 else twin(dns)
        listen = (str(site.v4), *((str(site.v6),) if site.families.has_v6 else ()))
        rules = [rule.model_dump(mode="json") for rule in site.settings.rules]
        return Rendered(
            command=(
                *(*PYTHON, "-m", "orchestrator.agents.dns_gate", "--upstream", str(upstream), "--rules", _RULES),
                *(word for address in listen for word in ("--listen", address)),
            ),
            files={**code(), _RULES: json.dumps(rules).encode()},
            publish=("53/udp", "53/tcp"),
            fds=4096,
            memory_mb=64,
        )


SERVICE = DnsGate()
