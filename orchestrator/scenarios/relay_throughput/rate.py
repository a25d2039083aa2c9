"""Verdict at a given rate: does the relay keep up with it?

Three facts: the relay accepts nearly all offered messages, has delivered nearly all of them when the load ends, and no
message waits for a connection.
"""

from orchestrator.measurements import Latency, Measurements
from orchestrator.scenarios import Evidence
from orchestrator.scenarios.relay_load.evidence import at_most
from orchestrator.scenarios.relay_load.probes import used
from orchestrator.scenarios.relay_throughput.params import RUN

TAKEN = 0.99
"""Least share of the offered messages that the relay accepts."""
OUT = 0.95
"""Least share of the accepted messages delivered ``TAIL_S`` after the last reply; larger for a long run."""
TAIL_S = 1.0
"""Largest queue of a relay that keeps up, as seconds of the offered rate."""
LATE = 0.01
"""Most messages, as a share, that start over 10 ms late."""


def kept(measured: Measurements, rated: float) -> tuple[Evidence, ...]:
    """Return the evidence that the relay kept up with the rate."""
    load = measured.loads.get(RUN)
    out = measured.delivered_by(RUN, load.ended + TAIL_S) if load else None
    return (
        _at_least(
            "messages accepted, of those offered",
            load.accepted / load.offered if load and load.accepted is not None and load.offered else None,
            TAKEN,
            f"results/{RUN}-load.json",
        ),
        _at_least(
            f"messages delivered {TAIL_S:.0f} s after the last reply, of those accepted",
            out / load.accepted if load and load.accepted and out is not None else None,
            max(OUT, 1 - rated * TAIL_S / load.accepted) if load and load.accepted else OUT,
            f"results/{RUN}-sink.json, series/sink.jsonl",
        ),
    )


def on_time(measured: Measurements) -> Evidence:
    """Return the evidence that messages were sent on time."""
    load = measured.loads.get(RUN)
    late = load.late / load.offered if load and load.late is not None and load.offered else None
    return at_most("messages started over 10 ms late", late, LATE, f"results/{RUN}-load.json")


def exhausted(measured: Measurements) -> int | None:
    """Return the number of connections if all were in use at once, so that messages waited; else None."""
    connections = used(measured)
    return connections if connections and measured.connections_at_most(RUN) >= connections else None


def response(measured: Measurements) -> Latency | None:
    """Return the times from due to accepted."""
    return measured.latency(RUN).get("response")


def _at_least(fact: str, found: float | None, least: float, source: str) -> Evidence:
    return Evidence(
        fact=fact,
        found="not measured" if found is None else f"{found:.2%}",
        needed=f"at least {least:.2%}",
        holds=None if found is None else found >= least,
        source=source,
    )
