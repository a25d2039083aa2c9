"""The DNS of a bed that is up: its records, the failures that its gate injects, the questions of other nodes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdatatype

from orchestrator import services
from orchestrator.agents.dns_rules import Action, DnsRule
from orchestrator.bed.model import checked
from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.services import Role, TakesUpdates, dns_gate
from orchestrator.up.node import RunningNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Dns:
    """The name server and the gate (DNS proxy) in front of it. Each method raises the errors of ``RunningBed.role``."""

    role: Callable[[Role], RunningNode]

    def set(self, name: str, kind: str, data: Sequence[str], *, ttl: int = 60) -> None:
        """Replace the records of a name and type (RFC 2136); on return, the server answers with the new ones.

        ``data``: the data of each record in the presentation format of RFC 1035, with absolute names.

        Raises:
            EngineFailed: the server keeps other records, such as a CNAME at this name or the last NS of a zone.
        """
        lines = changes(name, kind, data, ttl)
        server = self.role(Role.DNS)
        service, command = services.service(server.plan.service), None
        if isinstance(service, TakesUpdates):
            command = service.update(server.plan.files, str(server.address), lines)
        if command is None:
            needed = f"a DNS server that takes changes, instead of node {server.name}"
            raise InvalidInput(needed, f"service {service.name}", "give the node `settings: {update: true}` (bind)")
        done = server.exec(*command)
        if done.status != 0:
            do = f"see `testbed logs {server.name}`; a CNAME stands alone, and a zone keeps its SOA and NS"
            raise EngineFailed(f"the {kind} records of {name} changed", done.failure, do)

    def fail(
        self, name: str, kind: str = "*", then: str = "SERVFAIL", *, times: int | None = None, delay_s: float = 0.0
    ) -> dict[str, Any]:
        """Fail questions of a name and type; put the new rule first, and return it in the form of ``rules``.

        ``then``: a response code, or an ``Action`` such as ``drop``. ``times``: fail only this many questions.
        """
        rule = {"name": name, "type": kind, "times": times, "delay_s": delay_s}
        rule |= {"then": then.lower()} if then.lower() in set(Action) else {"rcode": then.upper()}
        made = checked(DnsRule, rule, "a rule that the gate takes", "correct it")
        (added,) = self._ask("add", json.dumps([made.model_dump(mode="json")]))
        rule_in_force: dict[str, Any] = added
        return rule_in_force

    def remove(self, rule: int) -> int:
        """Remove the rule with this id, and return its hits; raises InvalidInput if the gate has no such rule."""
        hits: int | None = self._ask("remove", str(rule))
        if hits is None:
            raise InvalidInput("a rule of the gate", f"none with the id {rule}", "see `testbed dns rules`")
        return hits

    def clear(self) -> None:
        """Remove every rule of the gate."""
        self._ask("clear")

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules of the gate as ``DnsRule`` has them, in the order in which they are tried.

        Each rule also has its ``hits`` and an ``id``; no later rule gets this id.
        """
        rules: list[dict[str, Any]] = self._ask("rules")
        return rules

    def queries(self, *, after: int = 0) -> list[dict[str, Any]]:
        """Return the questions with an id above ``after``, at most the last 100,000, the oldest first.

        Each has ``id``, ``client``, ``over`` (udp or tcp), ``name``, ``type`` and ``rcode`` (None: no answer).
        """
        asked: list[dict[str, Any]] = self._ask("queries", str(after))
        return asked

    def _ask(self, *words: str) -> Any:
        return json.loads(self.role(Role.GATE).ask(*dns_gate.SERVICE.control, *words))


def changes(name: str, kind: str, data: Sequence[str], ttl: int) -> list[str]:
    """Return the changes as commands of nsupdate(1); dnspython checks every word first.

    A second update message requires the new records: a server may answer NOERROR without a change (RFC 2136, 3.4.2).

    Raises:
        InvalidInput: the name, the type or the data are invalid.
    """
    if not all(one.isprintable() for one in data):
        needed = "data of DNS records on one line"
        raise InvalidInput(needed, repr(data), "leave line breaks and control characters out")
    try:
        owner, of = dns.name.from_text(name).to_text(), dns.rdatatype.from_text(kind)
        made = [dns.rdata.from_text("IN", of, one, origin=dns.name.root, relativize=False) for one in data]
        rdatas = list(dict.fromkeys(rdata.to_text() for rdata in made))
    except (dns.exception.DNSException, ValueError) as error:
        raise InvalidInput("a name, a type and data of DNS records", f"{name} {kind}: {error}", "correct it") from error
    word = dns.rdatatype.to_text(of)
    return [
        *(f"update delete {owner} {word}", *(f"update add {owner} {ttl} IN {word} {rdata}" for rdata in rdatas)),
        "send",
        *([f"prereq yxrrset {owner} IN {word} {rdata}" for rdata in rdatas] or [f"prereq nxrrset {owner} IN {word}"]),
    ]
