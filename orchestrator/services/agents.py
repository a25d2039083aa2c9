"""Files that install the agents in a container. Images do not contain the agents' code: it could be outdated there."""

from collections.abc import Iterable
from functools import cache
from importlib import resources

from orchestrator.bed.addressing import Delivery

LIB = "/testbed/lib"
"""Folder in a container that holds the agents' code."""

PYTHON = ("env", f"PYTHONPATH={LIB}", "/opt/agents/bin/python")
"""Start of an agent's command: ``(*PYTHON, "-m", "orchestrator.agents.sink", ...)``."""

DOMAINS = "/testbed/domains"
"""File of the bed's domains, one a line, in the order of their delivery addresses."""

RECIPIENTS = "/testbed/recipients"
"""File of the load generator's recipients, one a line."""

_PLACE = f"{LIB}/orchestrator"


@cache
def code(package: str = "") -> dict[str, bytes]:
    """Return the code of the agents, or of a package inside them: absolute path -> content."""
    modules: dict[str, bytes] = {}
    folders = [(resources.files("orchestrator.agents") / package, f"{_PLACE}/agents/{package}".rstrip("/"))]
    for folder, place in folders:
        for entry in folder.iterdir():
            if entry.is_file():
                modules[f"{place}/{entry.name}"] = entry.read_bytes()
            elif package and entry.name != "__pycache__":
                folders.append((entry, f"{place}/{entry.name}"))
    return {f"{_PLACE}/__init__.py": b"", **modules}


def files(deliveries: Iterable[Delivery]) -> dict[str, bytes]:
    """Return the files of a node that runs an agent: the code, and the list of domains."""
    return {**code(), DOMAINS: "".join(f"{delivery.domain}\n" for delivery in deliveries).encode()}
