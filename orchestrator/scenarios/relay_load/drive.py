"""Steps of drive() before the measured load: probes over more and more connections; loads straight to the sink."""

import math
import time
from collections.abc import Iterable
from dataclasses import replace

from orchestrator import services
from orchestrator.scenarios.relay_load import probes
from orchestrator.scenarios.relay_load.params import CALIBRATION, MOST_CONNECTIONS, SINGLE, RelayLoad
from orchestrator.services import Purpose, Role
from orchestrator.up.bed import RecordedBed

LEAST_BURSTS = 4
"""Minimum length of a calibration, in bursts of its generator (``Measurements.steady_per_s``)."""
PROBING_S = 40.0
"""Time after which the search tries no further number of connections; each probe takes about 5 s."""


def find_connections(
    bed: RecordedBed, params: RelayLoad, cpus: Iterable[int] | None = None, *, at_a_rate: int = probes.MOST
) -> int:
    """Return and save the number of connections for the load; probes find the number, or check a given number.

    There are no probes if the sink cannot count messages, or if the load has a rate: such a load opens up to
    ``at_a_rate`` connections on demand. ``cpus``: CPUs of the machine that the relay may use.
    """
    given = params.connections
    if params.rate is not None:
        connections = given or at_a_rate
    elif not bed.sink.counts:
        connections = given or probes.FEWEST
    elif given is None:
        connections = _search(bed, params, cpus)
    else:
        connections = given
        _compare_with_more(bed, params, given, cpus)
    bed.rundir.save_result(probes.CONNECTIONS, {"connections": connections, "given": given is not None})
    return connections


def _search(bed: RecordedBed, params: RelayLoad, cpus: Iterable[int] | None) -> int:
    """Double the connections until the throughput stops growing, or a probe leaves mail in the relay's queue."""
    end = time.monotonic() + PROBING_S
    tried: tuple[probes.Probe, ...] = ()
    while (connections := probes.following(tried)) and (len(tried) < 2 or time.monotonic() < end):
        tried, empty = _probe(bed, params, connections, cpus)
        if not empty:
            break
    return probes.enough(tried)


def _compare_with_more(bed: RecordedBed, params: RelayLoad, given: int, cpus: Iterable[int] | None) -> None:
    """Probe the given number of connections and a larger one; probe both again if the comparison is unclear.

    Mail left in the relay's queue ends the comparison.
    """
    larger = min(probes.TIMES * given, MOST_CONNECTIONS)
    if larger <= given:
        return
    for number in (1, 2):
        for connections in (given, larger):
            tried, empty = _probe(bed, params, connections, cpus, number)
            if not empty:
                return
        if not probes.unclear(*tried):
            break


def _probe(
    bed: RecordedBed, params: RelayLoad, connections: int, cpus: Iterable[int] | None, number: int = 1
) -> tuple[tuple[probes.Probe, ...], bool]:
    """Send a short load over this many connections, then drain the relay's queue.

    Return all probes so far, and whether the relay's queue is empty. If the queue is not empty, further probes are
    useless: each drain would take the full ``--drain``, and the verdict is INCONCLUSIVE.
    """
    name = probes.name(connections, number)
    with bed.record_cpus(name, cpus):
        load = bed.send(name, params.order(params.probe, connections), purpose=Purpose.PROBE)
    empty = load.drain(params.drain, phase=f"{name} drain")
    return probes.read(bed.measurements()), empty


def calibrate(bed: RecordedBed, params: RelayLoad, connections: int, *, by: str | None = None) -> None:
    """Send a load straight to the sink, as fast as possible; with our generator, again with one message per connection.

    If the measured load has a rate, ``connections`` is only an upper limit; the calibration then uses at most
    ``probes.FEWEST`` connections, enough to saturate generator or sink.
    """
    used = connections if params.rate is None else min(connections, probes.FEWEST)
    node = bed.nodes[by] if by else bed.role(Role.LOAD)
    burst_s = services.burst_s(node.plan.service)
    numbered = by is None
    seconds = params.calibration if numbered else burst_s * max(LEAST_BURSTS, math.ceil(params.calibration / burst_s))
    order = replace(params.order(seconds, used), rate=None)
    bed.send(CALIBRATION, order, to=Role.SINK, by=by, purpose=Purpose.CALIBRATE)
    if numbered:
        # A relay to thousands of destinations delivers in this way: it rarely reuses a connection.
        bed.send(SINGLE, replace(order, per_connection=1), to=Role.SINK, purpose=Purpose.CALIBRATE)
