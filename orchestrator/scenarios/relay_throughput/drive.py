"""Loads of a run: calibration, then the load through the relay."""

from orchestrator.scenarios.relay_load import probes
from orchestrator.scenarios.relay_load.drive import calibrate, find_connections
from orchestrator.scenarios.relay_load.params import OURS
from orchestrator.scenarios.relay_throughput.params import RUN, Params
from orchestrator.up.bed import RecordedBed


def drive(bed: RecordedBed, params: Params) -> None:
    """Find the number of connections that the relay needs, calibrate, send through the relay, drain it."""
    ours = params.load == OURS
    connections = find_connections(bed, params, at_a_rate=probes.MOST if ours else probes.FEWEST)
    by = None if ours else params.load
    if bed.sink.counts:
        calibrate(bed, params, connections, by=by)
    with bed.record_cpus(RUN):
        load = bed.send(RUN, params.order(params.seconds, connections), by=by)
    load.drain(params.drain)
