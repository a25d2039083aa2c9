"""A bed that `testbed up` has brought up, used through the command."""

import json
import secrets
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from orchestrator.hosts import Host, Output
from tests.integration.command import answer, call
from tests.integration.traces import traces


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Up:
    """A bed that `testbed up` has brought up, as its JSON tells."""

    facts: dict[str, Any]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.facts["id"])

    @property
    def nodes(self) -> list[str]:
        """The names of its nodes."""
        return [node["name"] for node in self.facts["nodes"]]

    @property
    def subnet(self) -> IPv4Network:
        """Its slice."""
        return IPv4Network(self.facts["subnet"])

    def container(self, node: str) -> str:
        """Name the container of a node."""
        return next(str(n["container"]) for n in self.facts["nodes"] if n["name"] == node)

    def port(self, node: str, port: str) -> int:
        """Return the port of 127.0.0.1 that leads to a port (``25/tcp``) of a node."""
        return next(int(n["ports"][port]) for n in self.facts["nodes"] if n["name"] == node)

    def exec(self, node: str, *command: str) -> Output:
        """Run a command in a node by `testbed exec`."""
        done = call("exec", "--format", "json", "--bed", self.id, node, "--", *command)
        assert done.stdout, done.stderr
        return Output(**json.loads(done.stdout))

    @cache  # noqa: B019 - a bed lives as long as its tests
    def address(self, node: str) -> IPv4Address:
        """Read the service address of a node from the inside."""
        said = self.shell(node, 'ip -oneline -4 address show to "$1"', str(self.subnet))
        return IPv4Address(said.split()[3].partition("/")[0])

    def shell(self, node: str, script: str, *words: str) -> str:
        """Run a shell script in a node that succeeds, and return what it prints."""
        done = self.exec(node, "sh", "-euc", script, "sh", *words)
        assert done.status == 0, done.stderr
        return done.stdout


def bring_up(*words: str | Path) -> Up:
    """Bring a bed up by the command, under a name of its own: a bed of somebody else is not to be found instead."""
    return Up(facts=answer("up", *words, "--name", f"test-{secrets.token_hex(4)}"))


def bring_down(engine: Host, bed: Up) -> None:
    """Take a bed down by the command, and see that it is gone."""
    done = call("down", bed.id)
    assert done.returncode == 0, done.stderr
    assert traces(engine, [bed.id]) == []
