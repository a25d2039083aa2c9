"""Bed of the scenario: the built-in relay bed with the chosen services."""

from orchestrator import services
from orchestrator.bed.model import Bed, Node
from orchestrator.errors import InvalidInput
from orchestrator.scenarios.relay_load.bed import relay_bed
from orchestrator.scenarios.relay_load.params import OURS
from orchestrator.scenarios.relay_throughput.params import Params
from orchestrator.services import Role


def bed(params: Params) -> Bed:
    """Return the built-in relay bed with the chosen services; our generator is always part of it.

    Raises:
        InvalidInput: a service does not fill its role.
    """
    _require("load", params.load, fits=services.service(params.load).role is Role.LOAD)
    _require("sink", params.sink, fits=services.service(params.sink).takes_mail)
    base = relay_bed(params, cpus=params.relay_cpus)
    nodes = {**base.nodes, "sink": Node(service=params.sink)}
    if params.load != OURS:
        if params.recipients:
            raise InvalidInput("the load generator smtp-load for recipients", repr(params.load), "leave one out")
        nodes[params.load] = Node(service=params.load)
    if settings := services.relay_settings(params.relay, params.sink):
        nodes["relay"] = nodes["relay"].model_copy(update={"settings": dict(settings)})
    return base.model_copy(update={"nodes": nodes})


def _require(role: str, name: str, *, fits: bool) -> None:
    if not fits:
        raise InvalidInput(f"a service that fills the role {role}", repr(name), "see `testbed list`")
