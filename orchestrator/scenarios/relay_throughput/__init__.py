"""How much mail does this relay carry, and how do we know?

The same load goes first straight to the sink (the instrument's own ceiling), then through the relay; the relay's queue
is drained before the verdict. A result near the ceiling is the instrument's, and is not given out as the relay's.

::

    verdict       the judgement of a run
    evidence      what it rests on
    drive         the loads
    bed           who fills which role
    params        what can be varied, and the names that do not
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
        """Return the built-in relay bed with the services that are asked for."""
        return bed(params)

    def connections(self, params: Params) -> dict[str, float]:
        """Return what the rate makes of new connections: of the generator to the relay, of the relay to one domain."""
        if params.rate is None:
            return {}
        return {"load": params.rate / params.per_connection, "relay": params.rate / params.domains}

    def drive(self, bed: RecordedBed, params: Params) -> None:
        """Calibrate, send through the relay, drain it."""
        drive(bed, params)

    def judge(self, measured: Measurements, params: Params) -> Verdict:
        """Say what was carried, and whether the relay or the instrument set the pace."""
        return judge(measured, params)


SCENARIO = RelayThroughput()
