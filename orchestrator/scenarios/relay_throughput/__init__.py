"""How much mail does this relay carry, and how do we know?

The same load goes first straight to the sink, then through the relay. The relay's queue is drained before the verdict.
The rate straight to the sink is the ceiling of the instrument (load generator and sink): a result near this ceiling is
not reported as the relay's rate.
"""

from orchestrator import services
from orchestrator.bed.model import Bed, NodeSpec
from orchestrator.errors import InvalidInput
from orchestrator.scenarios import Scenario
from orchestrator.scenarios.relay_load import probes
from orchestrator.scenarios.relay_load.drive import calibrate, find_connections
from orchestrator.scenarios.relay_load.params import OURS, require
from orchestrator.scenarios.relay_throughput.params import RUN, Params
from orchestrator.scenarios.relay_throughput.verdict import judge
from orchestrator.services import Role
from orchestrator.up.bed import RecordedBed


class RelayThroughput(Scenario[Params]):
    """The scenario."""

    name = "relay-throughput"
    question = "How many messages a second does this relay carry, and was it the relay that was measured?"
    params = Params
    judge = staticmethod(judge)

    def bed(self, params: Params) -> Bed:
        """Return the built-in relay bed with the chosen services; raises InvalidInput if one is unfit for its role."""
        require(Role.LOAD, params.load)
        require(Role.SINK, params.sink)
        base = params.bed(params.seconds, load=params.load, cpus=params.relay_cpus)
        nodes = {**base.nodes, "sink": NodeSpec(service=params.sink)}
        if params.load != OURS:
            if params.recipients:
                needed, do = "the load generator smtp-load for recipients", "leave --load or --recipients out"
                raise InvalidInput(needed, repr(params.load), do)
            nodes[params.load] = NodeSpec(service=params.load)
        if settings := services.service(params.sink).relays.get(params.relay):
            nodes["relay"] = nodes["relay"].model_copy(update={"settings": dict(settings)})
        return base.model_copy(update={"nodes": nodes})

    def connections(self, params: Params) -> dict[str, float]:
        """Return node -> new connections a second: generator to relay, relay to one domain; empty without a rate."""
        if params.rate is None:
            return {}
        return {"load": params.rate / params.per_connection, "relay": params.rate / params.domains}

    def drive(self, bed: RecordedBed, params: Params) -> None:
        """Find the number of connections that the relay needs, calibrate, send through the relay, drain its queue."""
        ours = params.load == OURS
        connections = find_connections(bed, params, at_a_rate=probes.MOST if ours else probes.FEWEST)
        by = None if ours else params.load
        if bed.sink.counts:
            calibrate(bed, params, connections, by=by)
        with bed.record_cpus(RUN):
            load = bed.send(RUN, params.order(params.seconds, connections), by=by)
        load.drain(params.drain)


SCENARIO = RelayThroughput()
