"""A bed in a test before its start: a built-in bed or a file, and changes to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from orchestrator import services
from orchestrator.bed import builtin
from orchestrator.bed.model import Bed, checked
from orchestrator.errors import InvalidInput
from orchestrator.services import Role
from orchestrator.testing import conditions


class Definition:
    """The definition of a bed. Its methods raise InvalidInput for a bed that cannot be built."""

    @property
    def is_up(self) -> bool:
        """Whether the bed is up; its definition can then no longer change."""
        return False

    def __init__(self, bed: str | Path | Bed, name: str | None) -> None:
        self._bed = bed if isinstance(bed, Bed) else builtin.bed(str(bed))
        if name is not None:
            self._change(name=name)

    def with_domains(self, *names: str | int) -> Self:
        """Replace the domains that receive mail; a number: use this many domains, d0.test, d1.test and so on."""
        number = len(names) == 1 and isinstance(names[0], int)
        return self._change(domains=names[0] if number else list(names))

    def with_relay(
        self, main_cf: Mapping[str, str | int | bool] | None = None, users: Mapping[str, str] | None = None
    ) -> Self:
        """Add Postfix parameters (postconf(5)), and users for AUTH (name -> password)."""
        node, settings = self._settings(Role.RELAY)
        both = {"main_cf": {**settings.get("main_cf", {}), **(main_cf or {})}}
        return self._set(node, **both, users={**settings.get("users", {}), **(users or {})})

    def with_rule(self, then: str, **given: Any) -> Self:
        """Append a rule to the rules of the inbox: ``with_rule("defer", to="*@example.org", times=2)``.

        The first rule that matches decides. ``given``: the arguments of the same action's method of ``bed.inbox``.
        """
        node, settings = self._settings(Role.SINK)
        return self._set(node, rules=[*settings.get("rules", ()), conditions.rule(then, given)])

    def with_tls(self) -> Self:
        """Make the relay offer STARTTLS, and ports 587 and 465 with AUTH; the bed `mail` always offers them.

        ``ssl_context`` trusts its certificate. Name and password are ``testbed`` if the relay has no users.
        """
        _, settings = self._settings(Role.RELAY)
        return self if settings.get("users") else self.with_relay(users={"testbed": "testbed"})

    def with_network(self) -> Self:
        """Make a network for other containers; they reach the nodes by name (``relay:25``). Its name: ``network``."""
        return self._change(guests=True)

    def _change(self, **changes: Any) -> Self:
        if self.is_up:
            raise InvalidInput("changes before the start of the bed", "it is up", "call with_... before start")
        self._bed = checked(Bed, {**self._bed.model_dump(), **changes}, f"a valid bed ({self._bed.name})")
        return self

    def _settings(self, role: Role) -> tuple[str, dict[str, Any]]:
        node = _node_of(self._bed, role)
        return node, self._bed.nodes[node].settings

    def _set(self, node: str, **settings: Any) -> Self:
        nodes = self._bed.model_dump()["nodes"]
        nodes[node]["settings"] |= settings
        return self._change(nodes=nodes)


def _node_of(bed: Bed, role: Role) -> str:
    """Return the name of the first node with a role; raises InvalidInput if there is none."""
    for name, node in bed.nodes.items():
        if services.service(node.service).role is role:
            return name
    raise InvalidInput(f"a node that fills the role {role}", f"none in bed {bed.name}", "add one to the bed")
