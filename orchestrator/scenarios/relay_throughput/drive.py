"""The loads of a run: straight to the sink, in two shapes, and through the relay."""

import math
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from orchestrator import services
from orchestrator.live import Live
from orchestrator.scenarios.relay_throughput.params import CALIBRATION, RUN, SINGLE, Params
from orchestrator.services import Counts, Offer, OffersLoad, Role

LEAST_PERIODS = 4
"""Of a generator that sends in portions, so many at least are its calibration (``Measurements.steady_per_s``)."""


def drive(live: Live, params: Params) -> None:
    """Calibrate in two shapes, send through the relay, drain it."""
    relay, counts = live.plan.node(Role.RELAY), isinstance(services.service(params.sink), Counts)
    other = services.service(params.load)
    if isinstance(other, OffersLoad):
        if counts:
            seconds = other.period_s * max(LEAST_PERIODS, math.ceil(params.calibration / other.period_s))
            _offer(live, params, CALIBRATION, target=live.plan.node(Role.SINK).address, seconds=seconds)
        with live.record_cpus(RUN):
            _offer(live, params, RUN, target=relay.address, seconds=params.seconds)
    else:
        load = params.order(params.seconds)
        if counts:
            calibrate(live, load, params.calibration)
        with live.record_cpus(RUN):
            live.send(RUN, load | {"target": str(relay.address)})
    live.drain(RUN, params.drain)


def calibrate(live: Live, load: Mapping[str, Any], seconds: float) -> None:
    """Offer a load straight to the sink, as fast as it goes, in two shapes of `seconds` each."""
    straight = {"target": str(live.plan.destinations), "seconds": seconds, "rate": None}
    live.send(CALIBRATION, {**load, **straight})
    # As the relay delivers: with thousands of destinations it rarely finds an open connection to use again.
    live.send(SINGLE, {**load, **straight, "per_connection": 1})


def _offer(live: Live, params: Params, phase: str, *, target: IPv4Address | IPv6Address, seconds: float) -> None:
    """Have the other generator send."""
    load = Offer(
        target=target,
        seconds=seconds,
        connections=params.connections,
        per_connection=params.per_connection,
        size=params.size,
        domain=live.plan.deliveries[0].domain,
        rate=params.rate if phase == RUN else None,
    )
    live.offer(phase, live.plan.named(params.load), load)
