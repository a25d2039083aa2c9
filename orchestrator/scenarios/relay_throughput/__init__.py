"""How much mail does this relay carry, and how do we know?

The same load goes first straight to the sink (the instrument's own ceiling), then through the relay; the relay's queue
is drained before the verdict. A result near the ceiling measures the instrument, and is never reported as the relay's.
"""

from orchestrator.bed.model import Bed
from orchestrator.measurements import Measurements
from orchestrator.scenarios import Verdict
from orchestrator.scenarios.relay_throughput.bed import bed
from orchestrator.scenarios.relay_throughput.drive import drive
from orchestrator.scenarios.relay_throughput.params import Params
from orchestrator.scenarios.relay_throughput.verdict import judge
from orchestrator.up.bed import RecordedBed


class RelayThroughput:
    """The scenario."""

    name = "relay-throughput"
    question = "How many messages a second does this relay carry, and was it the relay that was measured?"
    params = Params

    def bed(self, params: Params) -> Bed:
        """Return the built-in relay bed with the chosen services."""
        return bed(params)

    def connections(self, params: Params) -> dict[str, float]:
        """Return new connections a second at the given rate: generator to relay, and relay to one domain."""
        if params.rate is None:
            return {}
        return {"load": params.rate / params.per_connection, "relay": params.rate / params.domains}

    def drive(self, bed: RecordedBed, params: Params) -> None:
        """Calibrate, send through the relay, drain it."""
        drive(bed, params)

    def judge(self, measured: Measurements, params: Params) -> Verdict:
        """Judge whether the relay carries the load, and whether it set the pace."""
        return judge(measured, params)


SCENARIO = RelayThroughput()
