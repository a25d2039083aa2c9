"""Bed of a load through a relay."""

from orchestrator import services
from orchestrator.bed import builtin
from orchestrator.bed.model import Bed, Node
from orchestrator.errors import InvalidInput
from orchestrator.scenarios.relay_load.params import OURS, RelayLoad
from orchestrator.services import Role


def relay_bed(params: RelayLoad, *, cpus: float | None = None) -> Bed:
    """Return the built-in relay bed with the chosen relay; ``cpus``: its CPU limit, in cores.

    Raises:
        InvalidInput: the chosen service is no relay.
    """
    if services.service(params.relay).role is not Role.RELAY:
        relays = ", ".join(name for name, kind in services.known().items() if kind.role is Role.RELAY)
        raise InvalidInput("a service that fills the role relay", repr(params.relay), f"choose one of {relays}")
    base = builtin.bed("relay")
    relay = base.nodes["relay"]
    under_test = Node(
        service=params.relay,
        release=params.relay_release,
        limits=relay.limits.model_copy(update={"cpus": cpus}),
        files=params.relay_files or {},
    )
    load = Node(service=OURS, settings={"recipients": params.recipients} if params.recipients else {})
    nodes = {**base.nodes, "relay": under_test, "load": load}
    domains = params.domain_names or params.domains
    return base.model_copy(update={"domains": domains, "families": params.families, "nodes": nodes})
