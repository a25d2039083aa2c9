"""Loads before the one that is measured: over more and more connections, and straight to the sink."""

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
"""No further number of connections is tried after this: at about 5 s each, that of all of them."""


def find_connections(
    bed: RecordedBed, params: RelayLoad, cpus: Iterable[int] | None = None, *, at_a_rate: int = probes.MOST
) -> int:
    """Return the connections of the load, and save them; ``probes`` shows that they are enough.

    At a rate there are up to ``at_a_rate``, opened as they are needed, and nothing is tried; nor where the sink cannot
    count. ``cpus``: CPUs of the machine that the relay may use.
    """
    given = params.connections
    if params.rate is not None:
        found = given or at_a_rate
    elif not bed.sink.counts:
        found = given or probes.FEWEST
    elif given is None:
        found = _search(bed, params, cpus)
    else:
        found = given
        _compare_with_more(bed, params, given, cpus)
    bed.rundir.save_result(probes.FOUND, {"connections": found, "given": given is not None})
    return found


def _search(bed: RecordedBed, params: RelayLoad, cpus: Iterable[int] | None) -> int:
    """Double the connections until more carry no more."""
    end = time.monotonic() + PROBING_S
    tried: tuple[probes.Probe, ...] = ()
    while (connections := probes.following(tried)) and (len(tried) < 2 or time.monotonic() < end):
        tried = _probe(bed, params, connections, cpus)
    return probes.enough(tried)


def _compare_with_more(bed: RecordedBed, params: RelayLoad, given: int, cpus: Iterable[int] | None) -> None:
    """Try the given number of connections and a larger one; a second time if the first comparison is unclear."""
    larger = min(probes.TIMES * given, MOST_CONNECTIONS)
    if larger <= given:
        return
    for number in (1, 2):
        _probe(bed, params, given, cpus, number)
        if not probes.unclear(*_probe(bed, params, larger, cpus, number)):
            break


def _probe(
    bed: RecordedBed, params: RelayLoad, connections: int, cpus: Iterable[int] | None, number: int = 1
) -> tuple[probes.Probe, ...]:
    """Send a short load over this many connections, drain it, and return all probes until now."""
    name = probes.name(connections, number)
    with bed.record_cpus(name, cpus):
        load = bed.send(name, params.order(params.probe, connections), purpose=Purpose.PROBE)
    load.drain(params.drain, phase=f"{name} drain")
    return probes.read(bed.measurements(), params)


def calibrate(bed: RecordedBed, params: RelayLoad, connections: int, *, by: str | None = None) -> None:
    """Send a load straight to the sink, as fast as it goes, in two shapes where messages are numbered.

    A load at a rate may have many connections and seldom needs them: the sink is filled by a few.
    """
    used = connections if params.rate is None else min(connections, probes.FEWEST)
    node = bed.node(by) if by else bed.role(Role.LOAD)
    burst_s = services.burst_s(node.plan.service)
    numbered = by is None
    seconds = params.calibration if numbered else burst_s * max(LEAST_BURSTS, math.ceil(params.calibration / burst_s))
    order = replace(params.order(seconds, used), rate=None)
    bed.send(CALIBRATION, order, to=Role.SINK, by=by, purpose=Purpose.CALIBRATE)
    if numbered:
        # As the relay delivers: with thousands of destinations it rarely finds an open connection to use again.
        bed.send(SINGLE, replace(order, per_connection=1), to=Role.SINK, purpose=Purpose.CALIBRATE)
