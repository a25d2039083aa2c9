"""Verdict at a given rate: does the relay keep up with it?

Three facts: it takes nearly all that is offered, nearly all of that has come out when the load ends, and no message
waits for a connection.
"""

from orchestrator.measurements import Latency, Measurements
from orchestrator.scenarios import Evidence
from orchestrator.scenarios.relay_load.evidence import at_most
from orchestrator.scenarios.relay_load.probes import used
from orchestrator.scenarios.relay_throughput.params import RUN

TAKEN = 0.99
"""Share of the offered messages that the relay accepts."""
OUT = 0.95
"""Share of the accepted messages that are delivered ``TAIL_S`` after the last reply. In a long run less may wait."""
TAIL_S = 1.0
"""A queue that does not grow never holds as much as is offered in this time."""
LATE = 0.01
"""Share of the messages that may start over 10 ms after they were due."""


def kept(measured: Measurements, rated: float) -> tuple[Evidence, ...]:
    """Say whether the relay kept up with the rate."""
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
    """Say whether the messages were sent when they were due."""
    load = measured.loads.get(RUN)
    late = load.late / load.offered if load and load.late is not None and load.offered else None
    return at_most("messages started over 10 ms late", late, LATE, f"results/{RUN}-load.json")


def exhausted(measured: Measurements) -> int | None:
    """Return the number of connections if all were once in use: a message that was due had to wait for one."""
    connections = used(measured)
    return connections if connections and measured.connections_at_most(RUN) >= connections else None


def response(measured: Measurements) -> Latency | None:
    """Return the times from when a message was due to its acceptance."""
    return measured.latency(RUN).get("response")


def _at_least(fact: str, found: float | None, least: float, source: str) -> Evidence:
    return Evidence(
        fact=fact,
        found="not measured" if found is None else f"{found:.2%}",
        needed=f"at least {least:.2%}",
        holds=None if found is None else found >= least,
        source=source,
    )
