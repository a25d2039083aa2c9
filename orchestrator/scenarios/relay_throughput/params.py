"""Parameters of the scenario."""

from typing import Annotated

from pydantic import Field

from orchestrator.scenarios.relay_load.params import OURS, RelayLoad

RUN = "relay"
"""The load through the relay."""


class Params(RelayLoad):
    """What can be varied."""

    seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How long load is offered."""
    relay_cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    """CPU time that the relay may use, in cores."""
    load: str = OURS
    """The load generator; only ours keeps an account of every message."""
    sink: str = "blackhole"
    """The service that takes the mail; only ours accounts for every message."""
