"""The bed that is asked for."""

from orchestrator import services
from orchestrator.bed import builtin
from orchestrator.bed.model import Bed, Node
from orchestrator.errors import InvalidInput
from orchestrator.scenarios.relay_throughput.params import OURS, Params, RelayLoad
from orchestrator.services import Role, bhm


def bed(params: Params) -> Bed:
    """Return the built-in relay bed with the services that are asked for; our generator waits in any case.

    Raises:
        InvalidInput: one of them does not fill its role.
    """
    _require("load", params.load, fits=services.service(params.load).role is Role.LOAD)
    _require("sink", params.sink, fits=services.service(params.sink).takes_mail)
    base = relay_bed(params, cpus=params.relay_cpus)
    nodes = {**base.nodes, "sink": Node(service=params.sink)}
    if params.load != OURS:
        if params.recipients:
            raise InvalidInput("the load generator smtp-load for recipients", repr(params.load), "leave one out")
        nodes[params.load] = Node(service=params.load)
    if (params.relay, params.sink) == ("postfix", "bhm"):
        nodes["relay"] = nodes["relay"].model_copy(update={"settings": {"main_cf": bhm.POSTFIX}})
    return base.model_copy(update={"nodes": nodes})


def relay_bed(params: RelayLoad, *, cpus: float | None = None) -> Bed:
    """Return the built-in relay bed with the relay that is asked for; ``cpus``: the most cores that it may use.

    Raises:
        InvalidInput: it is no relay.
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


def _require(role: str, name: str, *, fits: bool) -> None:
    """Refuse a service that does not fill a role.

    Raises:
        InvalidInput: this one does not.
    """
    if not fits:
        raise InvalidInput(f"a service that fills the role {role}", repr(name), "see `testbed list`")
