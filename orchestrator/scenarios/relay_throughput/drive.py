"""The loads of a run: short ones over more and more connections, straight to the sink, and through the relay."""

import math
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from orchestrator import services
from orchestrator.measurements import Measurements
from orchestrator.scenarios.relay_throughput import probes
from orchestrator.scenarios.relay_throughput.params import (
    CALIBRATION,
    MOST_CONNECTIONS,
    OURS,
    RUN,
    SINGLE,
    Params,
    RelayLoad,
)
from orchestrator.services import Counts, Offer, OffersLoad, Role
from orchestrator.up.live import Live

LEAST_PERIODS = 4
"""Minimum length of a calibration, in periods of a generator that sends in bursts (``Measurements.steady_per_s``)."""
PROBING_S = 40.0
"""No further number of connections is tried after this: at about 5 s each, that of all of them."""


def drive(live: Live, params: Params) -> None:
    """Find how many connections the relay needs, calibrate in two shapes, send through the relay, drain it."""
    relay, counts = live.plan.node(Role.RELAY), _counts(live)
    other = services.service(params.load)
    connections = find_connections(live, params, at_a_rate=probes.MOST if params.load == OURS else probes.FEWEST)
    if isinstance(other, OffersLoad):
        if counts:
            seconds = other.period_s * max(LEAST_PERIODS, math.ceil(params.calibration / other.period_s))
            _offer(live, params, CALIBRATION, connections, target=live.plan.node(Role.SINK).address, seconds=seconds)
        with live.record_cpus(RUN):
            _offer(live, params, RUN, connections, target=relay.address, seconds=params.seconds)
    else:
        if counts:
            calibrate(live, params, connections)
        with live.record_cpus(RUN):
            live.send(RUN, params.order(params.seconds, connections) | {"target": str(relay.address)})
    live.drain(RUN, params.drain)


def find_connections(
    live: Live, params: RelayLoad, cpus: Iterable[int] | None = None, *, at_a_rate: int = probes.MOST
) -> int:
    """Return the connections of the load, and keep them with the evidence that they are enough (``probes``).

    At a rate they are as many as it takes, ``at_a_rate`` at most, so nothing is tried; neither where the sink cannot
    count. ``cpus``: those of the machine that the relay may use.
    """
    given = params.connections
    if params.rate is not None:
        found = given or at_a_rate
    elif not _counts(live):
        found = given or probes.FEWEST
    elif given is None:
        found = _search(live, params, cpus)
    else:
        found = given
        _hold_against_more(live, params, given, cpus)
    live.rundir.save_result(probes.FOUND, {"connections": found, "given": given is not None})
    return found


def _search(live: Live, params: RelayLoad, cpus: Iterable[int] | None) -> int:
    """Double the connections until more carry no more."""
    end = time.monotonic() + PROBING_S
    tried: tuple[probes.Probe, ...] = ()
    while (connections := probes.following(tried)) and (len(tried) < 2 or time.monotonic() < end):
        tried = _probe(live, params, connections, cpus)
    return probes.enough(tried)


def _hold_against_more(live: Live, params: RelayLoad, given: int, cpus: Iterable[int] | None) -> None:
    """Try a number of connections and a larger one, in turn; a second time where that does not tell."""
    larger = min(probes.TIMES * given, MOST_CONNECTIONS)
    if larger <= given:
        return
    for number in (1, 2):
        _probe(live, params, given, cpus, number)
        if not probes.unclear(*_probe(live, params, larger, cpus, number)):
            break


def _probe(
    live: Live, params: RelayLoad, connections: int, cpus: Iterable[int] | None, number: int = 1
) -> tuple[probes.Probe, ...]:
    """Send a short load over so many connections, drain it, and return all probes until now."""
    name = probes.name(connections, number)
    with live.record_cpus(name, cpus):
        live.send(name, params.order(params.probe, connections) | {"target": str(live.plan.node(Role.RELAY).address)})
    live.drain(name, params.drain, name=f"{name} drain")
    return probes.read(Measurements.read(live.rundir, logs=False))


def calibrate(live: Live, params: RelayLoad, connections: int) -> None:
    """Offer a load straight to the sink, as fast as it goes, in two shapes.

    A load at a rate may have many connections and seldom needs them: the sink is filled by a few.
    """
    used = connections if params.rate is None else min(connections, probes.FEWEST)
    load = params.order(params.calibration, used) | {"target": str(live.plan.destinations), "rate": None}
    live.send(CALIBRATION, load)
    # As the relay delivers: with thousands of destinations it rarely finds an open connection to use again.
    live.send(SINGLE, load | {"per_connection": 1})


def _counts(live: Live) -> bool:
    """Say whether the sink counts what arrives."""
    return isinstance(services.service(live.plan.node(Role.SINK).service), Counts)


def _offer(
    live: Live,
    params: Params,
    phase: str,
    connections: int,
    *,
    target: IPv4Address | IPv6Address,
    seconds: float,
) -> None:
    """Have the other generator send."""
    load = Offer(
        target=target,
        seconds=seconds,
        connections=connections,
        per_connection=params.per_connection,
        size=params.size,
        domain=live.plan.deliveries[0].domain,
        rate=params.rate if phase == RUN else None,
    )
    live.offer(phase, live.plan.named(params.load), load)
