"""Evidence for the judge() of a relay: an account of every message, and the ceiling of generator and sink."""

from collections.abc import Iterable

from orchestrator import services
from orchestrator.measurements import Accounting, Measurements
from orchestrator.measurements.verdict import Evidence
from orchestrator.scenarios.relay_load.params import CALIBRATION, SINGLE

INSTRUMENT, CONCURRENCY = "instrument-bound", "concurrency-bound"
"""Marks of a verdict: the harness, or the number of connections, may have limited the rate."""
UNSTEADY, DISTURBED = "unsteady", "disturbed"
"""Marks of a verdict: the relay's rate changed; other processes used the machine's CPU."""
NEAR_CEILING = 0.7
"""A result above this share of the instrument's ceiling is instrument-bound."""
BUSY = 0.9
"""A generator or sink (one thread each) above this share of a core counts as the bottleneck."""


def accounting(measured: Measurements, name: str) -> tuple[Evidence, ...]:
    """Return the evidence that every message of a load through the relay arrived once and whole."""
    count, drained = measured.accounting(name), measured.drained(name)
    empty = drained is not None and drained.left == 0
    source = f"results/{name}-load.json, results/{name}-sink.json"
    return (
        Evidence.some("messages accepted by the relay", count.accepted if count else None, source),
        # Messages in the relay's queue are neither lost nor delivered.
        Evidence.none("lost", count.lost if count and empty else None, source),
        Evidence.none("duplicated", count.duplicated if count else None, source),
        Evidence.none("corrupted", count.corrupted if count else None, source),
        Evidence.none("outside the prefix", count.outside if count else None, source),
        Evidence.none("misrouted", count.misrouted if count else None, source),
        _domains(measured, name, count, source, drained=empty),
        Evidence.of(
            "the relay's queue after the drain",
            drained.left if drained else None,
            "0 messages",
            lambda left: left == 0 or None,
            f"results/{name}-queue.json",
            "{:,} messages",
        ),
    )


def _domains(measured: Measurements, name: str, count: Accounting | None, source: str, *, drained: bool) -> Evidence:
    """Return the evidence that as many domains have delivered messages as have accepted messages.

    The number with delivered messages may be larger: a message can arrive although the generator saw no acceptance
    (``unresolved``, ``unaccepted``). The number may be smaller while the relay's queue holds mail.
    """
    fact, load, sink = "domains with delivered mail", measured.loads.get(name), measured.sinks.get(name)
    arrived, accepted = sink.domains if sink else None, load.domains if load else None
    if accepted is None or count is None:
        return Evidence.of(fact, arrived, "a figure", lambda _: None, source)
    most = accepted + count.unresolved + count.unaccepted
    needed = f"{accepted:,}" if most == accepted else f"{accepted:,} to {most:,}"
    return Evidence.of(
        fact, arrived, needed, lambda n: None if n < accepted and not drained else accepted <= n <= most, source
    )


def worst(evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """Return the worst evidence of each fact: a failure if there is one, else an unknown, else a fact that holds."""
    by_fact: dict[str, Evidence] = {}
    for e in sorted(evidence, key=lambda e: (False, None, True).index(e.holds)):
        by_fact.setdefault(e.fact, e)
    return tuple(by_fact.values())


def instrument(measured: Measurements, name: str) -> tuple[Evidence, ...]:
    """Return the evidence that the instrument (load generator and sink) did not limit a load."""
    carried, ceiling = measured.delivered_per_s(name), instrument_ceiling(measured)
    share = carried / ceiling if carried and ceiling else None
    load, sink = measured.loads.get(name), measured.sinks.get(name)
    return (
        Evidence.at_most("share of the instrument's ceiling", share, NEAR_CEILING, "results/calibration*.json"),
        Evidence.at_most(
            "CPU of the load generator (one thread)",
            load.cpu_s / load.seconds if load and load.seconds > 0 else None,
            BUSY,
            f"results/{name}-load.json",
        ),
        Evidence.at_most(
            "CPU of the sink (one thread)",
            sink.cpu_s / (sink.last - load.started) if load and sink and sink.last else None,
            BUSY,
            f"results/{name}-sink.json",
        ),
    )


def instrument_ceiling(measured: Measurements) -> float | None:
    """Return the rate of the slower calibration, in messages per second."""
    calibration = measured.loads.get(CALIBRATION)
    if calibration and not calibration.numbered:
        return measured.steady_per_s(CALIBRATION, services.burst_s(calibration.generator))
    rates = [measured.delivered_per_s(name) for name in (CALIBRATION, SINGLE)]
    return min(rate for rate in rates if rate) if all(rates) else None
