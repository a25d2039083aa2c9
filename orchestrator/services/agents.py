"""How the agents are put into a container: their code travels as files, so an image never holds an old one."""

from functools import cache
from importlib.resources import files

PYTHON = ("env", "PYTHONPATH=/testbed/lib", "PYTHONDONTWRITEBYTECODE=1", "/opt/agents/bin/python")
"""How a module of the agents is run: ``(*PYTHON, "-m", "orchestrator.agents.sink", ...)``."""

_PLACE = "/testbed/lib/orchestrator"


@cache
def code() -> dict[str, bytes]:
    """Return the code of the agents: absolute path -> content."""
    modules = {
        f"{_PLACE}/agents/{module.name}": module.read_bytes()
        for module in files("orchestrator.agents").iterdir()
        if module.name.endswith(".py")
    }
    return {f"{_PLACE}/__init__.py": b"", **modules}
