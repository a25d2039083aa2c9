"""How much mail does this relay carry, and how do we know?

The same load goes first straight to the sink (the instrument's own ceiling), then through the relay; the relay's queue
is drained before the verdict. A result near the ceiling is the instrument's, and is not given out as the relay's.
"""

import math
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Annotated, Any

from pydantic import Field

from orchestrator import beds, services
from orchestrator.errors import InvalidInput
from orchestrator.live import Live
from orchestrator.measurements import Measurements
from orchestrator.measurements.series import TICK_S
from orchestrator.model import MAX_DOMAINS, Bed, Node, Release, Strict
from orchestrator.scenarios import Evidence, Outcome, Verdict
from orchestrator.services import Counts, Offer, OffersLoad, Role, bhm

CALIBRATION, SINGLE, RUN = "calibration", "calibration-single", "relay"
"""The loads of a run: straight to the sink; the same with one message for each connection; through the relay."""
OURS = "smtp-load"
LEAST_PERIODS = 4
"""Of a generator that sends in portions, so many at least are its calibration (``Measurements.steady_per_s``)."""
NEAR_CEILING = 0.7
"""A result above this share of the instrument's ceiling is called instrument-bound."""
LATE = 0.01
"""A generator that starts more than this share of its messages late does not offer the rate it claims."""
BACKLOG = 0.25
"""A relay that delivers less than it accepts by more than this share of it, while load is offered, builds a backlog."""
BUSY = 0.9
"""A generator or sink (one thread each) that uses more of a core than this is taken to be the bottleneck."""


class RelayLoad(Strict):
    """A relay, and the load that it gets."""

    domains: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] = 2560
    """Domains that receive mail, each with an address of its own."""
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Messages a second, open-loop; unset: as fast as the relay takes them."""
    size: Annotated[int, Field(ge=64, le=50 * 1024 * 1024)] = 2048
    """Bytes in the body of a message."""
    connections: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Connections that the load generator keeps open at most."""
    per_connection: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Messages sent over one connection."""
    relay: str = "postfix"
    """The service under test."""
    relay_release: Release = "bookworm"
    """The Debian release it comes from."""

    def order(self, seconds: float) -> dict[str, Any]:
        """Return the load, whoever it goes to."""
        return {
            "seconds": seconds,
            "rate": self.rate,
            "connections": self.connections,
            "per_connection": self.per_connection,
            "sizes": [self.size],
        }


class Params(RelayLoad):
    """What can be varied."""

    seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How long load is offered."""
    calibration: Annotated[float, Field(ge=1, le=600)] = 4.0
    """Seconds of load straight into the sink, before the run, for each of two shapes."""
    drain: Annotated[float, Field(ge=1, le=86_400)] = 1800.0
    """Seconds that the relay may take to empty its queue afterwards."""
    relay_cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    """CPU time that the relay may use, in cores."""
    load: str = OURS
    """The load generator; only ours keeps an account of every message."""
    sink: str = "blackhole"
    """The service that takes the mail; only ours accounts for every message."""


class RelayThroughput:
    """The scenario."""

    name = "relay-throughput"
    question = "How many messages a second does this relay carry, and was it the relay that was measured?"
    params = Params

    def bed(self, params: Params) -> Bed:
        """Return the built-in relay bed with the services that are asked for; our generator waits in any case."""
        _require("load", params.load, fits=services.service(params.load).role is Role.LOAD)
        _require("sink", params.sink, fits=services.service(params.sink).takes_mail)
        base = relay_bed(params, cpus=params.relay_cpus)
        nodes = {**base.nodes, "sink": Node(service=params.sink)}
        if params.load != OURS:
            nodes[params.load] = Node(service=params.load)
        if (params.relay, params.sink) == ("postfix", "bhm"):
            nodes["relay"] = nodes["relay"].model_copy(update={"settings": {"main_cf": bhm.POSTFIX}})
        return base.model_copy(update={"nodes": nodes})

    def connections(self, params: Params) -> dict[str, float]:
        """Return what the rate makes of new connections: of the generator to the relay, of the relay to one domain."""
        if params.rate is None:
            return {}
        return {"load": params.rate / params.per_connection, "relay": params.rate / params.domains}

    def drive(self, live: Live, params: Params) -> None:
        """Calibrate in two shapes, send through the relay, drain it."""
        relay, counts = live.plan.node(Role.RELAY), isinstance(services.service(params.sink), Counts)
        other = services.service(params.load)
        if isinstance(other, OffersLoad):
            if counts:
                seconds = other.period_s * max(LEAST_PERIODS, math.ceil(params.calibration / other.period_s))
                _offer(live, params, CALIBRATION, target=live.plan.node(Role.SINK).v4, seconds=seconds)
            _offer(live, params, RUN, target=relay.v4, seconds=params.seconds)
        else:
            load = params.order(params.seconds)
            if counts:
                calibrate(live, load, params.calibration)
            live.send(RUN, load | {"target": str(relay.v4)})
        live.drain(RUN, params.drain)

    def judge(self, measured: Measurements) -> Verdict:
        """Say what was carried, and whether the relay or the instrument set the pace."""
        return judge(measured)


def _require(role: str, name: str, *, fits: bool) -> None:
    """Refuse a service that does not fill a role.

    Raises:
        InvalidInput: this one does not.
    """
    if not fits:
        raise InvalidInput(f"a service that fills the role {role}", repr(name), "see `testbed list`")


def _offer(live: Live, params: Params, phase: str, *, target: IPv4Address, seconds: float) -> None:
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


def relay_bed(params: RelayLoad, *, cpus: float | None = None) -> Bed:
    """Return the built-in relay bed with the relay that is asked for; ``cpus``: the most cores that it may use.

    Raises:
        InvalidInput: it is no relay.
    """
    if services.service(params.relay).role is not Role.RELAY:
        relays = ", ".join(name for name, kind in services.known().items() if kind.role is Role.RELAY)
        raise InvalidInput("a service that fills the role relay", repr(params.relay), f"choose one of {relays}")
    base = beds.bed("relay")
    relay = base.nodes["relay"]
    under_test = Node(
        service=params.relay,
        release=params.relay_release,
        limits=relay.limits.model_copy(update={"cpus": cpus}),
    )
    return base.model_copy(update={"domains": params.domains, "nodes": {**base.nodes, "relay": under_test}})


def calibrate(live: Live, load: Mapping[str, Any], seconds: float) -> None:
    """Offer a load straight to the sink, as fast as it goes, in two shapes of `seconds` each."""
    straight = {"target": str(live.plan.mail), "seconds": seconds, "rate": None}
    live.send(CALIBRATION, {**load, **straight})
    # As the relay delivers: with thousands of destinations it rarely finds an open connection to use again.
    live.send(SINGLE, {**load, **straight, "per_connection": 1})


def judge(measured: Measurements) -> Verdict:
    """Judge one run: was it measured at all, was mail lost, and who set the pace?"""
    carried = measured.delivered_per_s(RUN) or _sent_per_s(measured)
    ceiling = instrument_ceiling(measured)
    mail, harness = accounting(measured, RUN), instrument(measured, RUN)
    evidence = (*mail, *harness)
    missing = [e.fact for e in evidence if e.holds is None]
    broken = [e for e in mail if e.holds is False]
    bound = [e for e in harness if e.holds is False]
    if broken:
        outcome, reason = Outcome.REFUTED, "; ".join(f"{e.fact}: {e.found}, needed {e.needed}" for e in broken)
    elif missing or carried is None or ceiling is None:
        outcome, reason = Outcome.INCONCLUSIVE, f"not measured{_why(measured)}: {', '.join(missing)}"
    elif bound:
        outcome = Outcome.INCONCLUSIVE
        reason = "the instrument may have set the pace: " + "; ".join(
            f"{e.fact} is {e.found}, needed {e.needed}" for e in bound
        )
    else:
        outcome = Outcome.CONFIRMED
        reason = (
            f"every accepted message arrived once and whole; without the relay the same load runs at {ceiling:,.0f} "
            f"messages a second, {ceiling / carried:.1f} times as fast"
        )
    return Verdict(
        outcome=outcome,
        claim="This relay carries every message it accepts"
        + (f", {carried:,.0f} messages a second ({carried * 60:,.0f} a minute)" if carried else "")
        + ", and it was the relay that was measured.",
        reason=reason[0].upper() + reason[1:] + ".",
        evidence=evidence,
        marks=(*(("instrument-bound",) if bound else ()), *_backlog(measured)),
        figures={
            "relay_messages_per_s": carried,
            "relay_messages_per_minute": carried * 60 if carried else None,
            "accepted_messages_per_s": measured.accepted_per_s(RUN),
            "delivered_under_load_per_s": measured.delivered_under_load_per_s(RUN),
            "instrument_messages_per_s": ceiling,
            "share_of_instrument": carried / ceiling if carried and ceiling else None,
            "harness_cpu_ms_per_message": _harness_cpu_ms(measured),
        },
    )


def _why(measured: Measurements) -> str:
    """Say which service of those that were asked for cannot account for messages."""
    params = measured.params
    silent = [params[role] for role, ours in (("load", OURS), ("sink", "blackhole")) if params.get(role, ours) != ours]
    return f" (no message is accounted for by {' and '.join(silent)})" if silent else ""


def _sent_per_s(measured: Measurements) -> float | None:
    """Return messages a second that the relay's own log calls sent, from the start of the load to the last, to 1 s."""
    load = measured.loads.get(RUN) or measured.offers.get(RUN)
    service = str(measured.params.get("relay"))
    if load is None or service not in services.known():
        return None
    log = services.read_log(service, (line for line in measured.rundir.log("relay") if line[0] >= load.started))
    if log is None or not log.queue:
        return None
    return log.statuses.get("sent", 0) / (log.queue[-1][0] - load.started)


def _backlog(measured: Measurements) -> tuple[str, ...]:
    """Warn of a relay that takes in what it cannot deliver yet: its figure depends on how long that goes on."""
    accepted, delivered = measured.accepted_per_s(RUN), measured.delivered_under_load_per_s(RUN)
    if not accepted or delivered is None or delivered >= (1 - BACKLOG) * accepted:
        return ()
    said = f"the relay accepted {accepted:,.0f} messages a second and delivered {delivered:,.0f} while load was offered"
    return (f"a backlog grew: {said}; the rest went out in the drain, which the figure includes",)


def accounting(measured: Measurements, name: str) -> tuple[Evidence, ...]:
    """Check off every message of a load that went through the relay."""
    count = measured.accounting(name)
    sink = measured.sinks.get(name)
    drain = measured.rundir.result(f"{name}-queue")
    domains = measured.params.get("domains")
    source = f"results/{name}-load.json, results/{name}-sink.json"
    used = min(int(domains), count.accepted) if count and domains else None

    def exact(fact: str, found: int | None, needed: int | None, where: str = source) -> Evidence:
        known = found is not None and needed is not None
        return Evidence(
            fact=fact,
            found="not measured" if found is None else f"{found:,}",
            needed="a figure" if needed is None else f"{needed:,}",
            holds=found == needed if known else None,
            source=where,
        )

    return (
        Evidence(
            fact="messages accepted by the relay",
            found=f"{count.accepted:,}" if count else "not measured",
            needed="at least 1",
            holds=count.accepted > 0 if count else None,
            source=source,
        ),
        # What still waits in the relay's queue is neither lost nor delivered.
        exact("lost", count.lost if count and drain and not drain["left"] else None, 0),
        exact("duplicated", count.duplicated if count else None, 0),
        exact("corrupted", count.corrupted if count else None, 0),
        exact("misrouted", count.misrouted if count else None, 0),
        exact("domains that mail arrived for", sink.domains if sink else None, used),
        Evidence(
            fact="the relay's queue after the drain",
            found=f"{drain['left']:,} messages" if drain else "not measured",
            needed="0 messages",
            holds=True if drain and not drain["left"] else None,
            source=f"results/{name}-queue.json",
        ),
    )


def instrument(measured: Measurements, name: str) -> tuple[Evidence, ...]:
    """Hold the result of a load against what the instrument itself can do."""
    carried, ceiling = measured.delivered_per_s(name), instrument_ceiling(measured)
    share = carried / ceiling if carried and ceiling else None
    load, sink = measured.loads.get(name), measured.sinks.get(name)
    evidence = [
        _below("share of the instrument's ceiling", share, NEAR_CEILING, "results/calibration*.json"),
        _below(
            "CPU of the load generator (one thread)",
            load.cpu_s / (load.ended - load.started) if load and load.ended > load.started else None,
            BUSY,
            f"results/{name}-load.json",
        ),
        _below(
            "CPU of the sink (one thread)",
            sink.cpu_s / (sink.last - load.started) if load and sink and sink.last else None,
            BUSY,
            f"results/{name}-sink.json",
        ),
    ]
    if measured.params.get("rate"):
        late = load.late / load.offered if load and load.offered else None
        evidence.append(_below("messages started over 10 ms late", late, LATE, f"results/{name}-load.json"))
    return tuple(evidence)


def _below(fact: str, found: float | None, limit: float, source: str) -> Evidence:
    return Evidence(
        fact=fact,
        found="not measured" if found is None else f"{found:.1%}",
        needed=f"at most {limit:.0%}",
        holds=None if found is None else found <= limit,
        source=source,
    )


def instrument_ceiling(measured: Measurements) -> float | None:
    """Return what the instrument carries without a relay: of ours, the slower of the two shapes of load."""
    kind = services.known().get(str(measured.params.get("load")))
    if CALIBRATION in measured.offers:
        return measured.steady_per_s(CALIBRATION, kind.period_s if isinstance(kind, OffersLoad) else TICK_S)
    rates = [measured.delivered_per_s(name) for name in (CALIBRATION, SINGLE)]
    return min(rate for rate in rates if rate) if all(rates) else None


def _harness_cpu_ms(measured: Measurements) -> float | None:
    """Return the CPU time of generator and sink together for one delivered message, in milliseconds."""
    load, sink = measured.loads.get(RUN), measured.sinks.get(RUN)
    return 1000 * (load.cpu_s + sink.cpu_s) / sink.delivered if load and sink and sink.delivered else None


SCENARIO = RelayThroughput()
