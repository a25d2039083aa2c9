"""Parameters of the scenario relay-throughput."""

from typing import Annotated

from pydantic import Field

from orchestrator.scenarios.relay_load.params import OURS, RelayLoad

RUN = "relay"
"""The load through the relay."""


class Params(RelayLoad):
    """Parameters of the scenario."""

    seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """Time of the load, in seconds."""
    relay_cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    """CPU limit of the relay, in cores."""
    load: str = OURS
    """The load generator; only smtp-load keeps an account of every message."""
    sink: str = "blackhole"
    """The service that receives the mail; only blackhole keeps an account of every message."""
