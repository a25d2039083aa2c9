"""How much can each load generator send at most, and does the relay or the generator set the pace?

Each generator sends straight to the same sink, which gives its ceiling, and then through the relay. A result near the
ceiling measures the generator, not the relay. postal's ceiling is 24,576 messages a minute: it sends 2,048 messages
every 5 s, and waits in between with most of the CPU idle.
"""

import math
from typing import Annotated

from pydantic import Field

from orchestrator import services
from orchestrator.agents.contract import TICK_S, LoadOrder
from orchestrator.bed import builtin
from orchestrator.bed.model import MAX_DOMAINS, Bed, Node
from orchestrator.errors import InvalidInput
from orchestrator.measurements import Machine, Measurements
from orchestrator.scenarios import Evidence, Outcome, OverIPv4, Table, Verdict
from orchestrator.scenarios.relay_load.evidence import NEAR_CEILING
from orchestrator.scenarios.relay_load.params import OURS
from orchestrator.scenarios.relay_load.probes import Cpu, cpu_of
from orchestrator.services import Purpose, Role
from orchestrator.services.postal import PER_MINUTE
from orchestrator.up.bed import RecordedBed
from orchestrator.up.load import SentLoad

POSTAL = "postal"
STRAIGHT = "calibration-"
"""Prefix of the name of a load straight to the sink."""
TOLERANCE = 0.03
"""Relative tolerance of postal's pace."""
TIMES = 10
"""Least ratio of another generator's ceiling to postal's, to show that the sink does not limit postal."""
HALF = 0.5
"""Below this share of CPU use, CPU is not the limit."""


class Params(OverIPv4):
    """Parameters of the scenario."""

    engines: str = f"{OURS},smtp-source,{POSTAL}"
    """Load generators, separated by commas."""
    domains: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] = 2560
    """Domains that receive mail; smtp-source sends to the first one only."""
    seconds: Annotated[float, Field(ge=5, le=600)] = 8.0
    """Minimum time of each load straight to the sink, in seconds."""
    portions: Annotated[int, Field(ge=4, le=100)] = 8
    """Minimum number of bursts sent straight to the sink, for a generator that sends in bursts (postal: every 5 s)."""
    relay_seconds: Annotated[float, Field(ge=0, le=3600)] = 12.0
    """Minimum time of each load through the relay, in seconds, rounded up to whole bursts; 0: none."""
    size: Annotated[int, Field(ge=64, le=50 * 1024 * 1024)] = 2048
    """Bytes in the body of a message."""
    connections: Annotated[int, Field(ge=1, le=1000)] = 50
    """Open connections of each generator."""
    data_delay_ms: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """Delay of the sink's reply to each message, in milliseconds, to make the sink the limit."""
    drain: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """Seconds that the relay may take to empty its queue after each load."""

    @property
    def names(self) -> list[str]:
        """The generators, in the order of sending."""
        return list(dict.fromkeys(name.strip() for name in self.engines.split(",")))


class GeneratorCeiling:
    """The scenario."""

    name = "generator-ceiling"
    question = "How much can each load generator send at most, and when does that set a relay's pace?"
    params = Params

    def bed(self, params: Params) -> Bed:
        """Return the built-in relay bed with a node for each generator."""
        possible = [name for name, kind in services.known().items() if kind.role is Role.LOAD]
        if unknown := [name for name in params.names if name not in possible]:
            raise InvalidInput("load generators", ", ".join(map(repr, unknown)), f"choose of {', '.join(possible)}")
        base = builtin.bed("relay", domains=params.domains, families=params.families)
        sink = Node(service="blackhole", settings={"data_delay_ms": params.data_delay_ms})
        others = {name: Node(service=name) for name in params.names if name != OURS}
        return base.model_copy(update={"nodes": {**base.nodes, "sink": sink, **others}})

    def drive(self, bed: RecordedBed, params: Params) -> None:
        """Send with each generator straight to the sink, then through the relay, which is drained after each load."""
        for name in params.names:
            _send(bed, params, name, straight=True)
        for name in params.names if params.relay_seconds else ():
            _send(bed, params, name, straight=False).drain(params.drain)

    def judge(self, measured: Measurements, params: Params) -> Verdict:
        """Judge whether every ceiling is known, and postal's is its own."""
        return judge(measured, params)


def _send(bed: RecordedBed, params: Params, name: str, *, straight: bool) -> SentLoad:
    load = f"{STRAIGHT}{name}" if straight else name
    burst_s = services.burst_s(name)
    least = params.seconds if straight else params.relay_seconds
    bursts = max(math.ceil(least / burst_s), params.portions if straight and burst_s > TICK_S else 1)
    order = LoadOrder(seconds=burst_s * bursts, connections=params.connections, per_connection=10, sizes=[params.size])
    with bed.record_cpus(load):
        return bed.send(
            load,
            order,
            to=Role.SINK if straight else Role.RELAY,
            by=None if name == OURS else name,
            purpose=Purpose.CALIBRATE if straight else Purpose.MEASURE,
        )


def judge(measured: Measurements, params: Params) -> Verdict:
    """Judge one run: is every ceiling known, and is postal's its own?"""
    names = params.names
    rates = {name: (_ceiling(measured, name), _through(measured, name)) for name in names}
    known = tuple(
        Evidence(
            fact=f"ceiling of {name}",
            found=f"{ceiling:,.0f} messages a minute" if ceiling else "not measured",
            needed="a figure",
            holds=True if ceiling else None,
            source=f"series/sink.jsonl, phase {STRAIGHT}{name}",
        )
        for name, (ceiling, _) in rates.items()
    )
    own, room = _postal(measured, {name: ceiling for name, (ceiling, _) in rates.items()})
    evidence = (*known, *own, *room)
    wrong = [e for e in own if e.holds is False]
    unclear = [e for e in evidence if e.holds is None or (e in room and not e.holds)]
    if wrong or unclear:
        outcome = Outcome.REFUTED if wrong else Outcome.INCONCLUSIVE
        reason = "; ".join(f"{e.fact}: {e.found}, needed {e.needed}" for e in wrong or unclear)
    else:
        outcome = Outcome.CONFIRMED
        reason = "; ".join(f"{name} sends {ceiling:,.0f} a minute at most" for name, (ceiling, _) in rates.items())
    claim = "Each generator's ceiling is known"
    return Verdict(
        outcome=outcome,
        claim=f"{claim}, and postal's is its own: {PER_MINUTE:,.0f} a minute." if POSTAL in names else f"{claim}.",
        reason=reason[0].upper() + reason[1:] + ".",
        evidence=evidence,
        marks=tuple(mark for name in names if (mark := _mark(measured, name))),
        figures={
            f"{name.replace('-', '_')}_{where}_messages_per_minute": rate
            for name, both in rates.items()
            for where, rate in zip(("ceiling", "relay"), both, strict=True)
        },
        tables=(
            Table(
                title="Messages a minute, straight to the sink and through the relay",
                columns=("generator", "ceiling", "through the relay", "share", "CPU ms/message", "who set the pace"),
                rows=tuple((name, *_row(measured, name, *both)) for name, both in rates.items()),
                bars="ceiling",
            ),
        ),
    )


def _ceiling(measured: Measurements, name: str) -> float | None:
    """Return messages a minute straight to the sink, without the warm-up."""
    rate = measured.steady_per_s(f"{STRAIGHT}{name}", services.burst_s(name))
    return None if rate is None else 60 * rate


def _through(measured: Measurements, name: str) -> float | None:
    """Return messages a minute through the relay, from the first message sent to the last delivery."""
    rate = measured.delivered_per_s(name)
    return None if rate is None else 60 * rate


def _row(
    measured: Measurements, name: str, ceiling: float | None, through: float | None
) -> tuple[str | float | None, ...]:
    """Return the cells of one generator after its name."""
    share = through / ceiling if through and ceiling else None
    return (
        ceiling,
        through,
        "not measured" if share is None else f"{share:.0%}",
        _cpu_ms(measured, name),
        _pace(measured, name, share),
    )


def _pace(measured: Measurements, name: str, share: float | None) -> str:
    """Return the limit of the rate through the relay; with CPU left, the number of connections is possible, too."""
    if share is None:
        return "not known"
    if share > NEAR_CEILING:
        return "the generator"
    return "the relay" if cpu_of(measured, name) in {Cpu.SPENT, Cpu.TAKEN} else "not the generator"


def _cpu_ms(measured: Measurements, name: str) -> float | None:
    """Return the generator's CPU time for one message straight to the sink, in milliseconds."""
    load = measured.loads.get(f"{STRAIGHT}{name}")
    messages = load and (load.accepted if load.numbered else load.arrived)
    return 1000 * load.cpu_s / messages if load and messages else None


def _starved(machine: Machine | None) -> bool:
    """Return whether processes outside the bed may have starved it; True if that was not recorded."""
    return machine is None or machine.starved


def _mark(measured: Measurements, name: str) -> str | None:
    machine = measured.machine(f"{STRAIGHT}{name}")
    if machine is None or not _starved(machine):
        return None
    return f"busy machine: while {name} sent, the bed had {machine.bed:.1f} of {machine.cpus} cores, others the rest"


def _postal(
    measured: Measurements, ceilings: dict[str, float | None]
) -> tuple[tuple[Evidence, ...], tuple[Evidence, ...]]:
    """Return the evidence for postal's ceiling, and the evidence that CPU is not its limit."""
    if POSTAL not in ceilings:
        return (), ()
    pace, load = ceilings[POSTAL], f"{STRAIGHT}{POSTAL}"
    machine = measured.machine(load)
    off = None if pace is None else pace / PER_MINUTE - 1
    own = [
        Evidence(
            fact="postal's pace",
            found=f"{pace:,.0f} messages a minute" if pace else "not measured",
            needed=f"{PER_MINUTE:,.0f}, within {TOLERANCE:.0%}",
            holds=_unless_starved(machine, None if off is None else abs(off) <= TOLERANCE, slow=bool(off and off < 0)),
            source=f"series/sink.jsonl, phase {load}",
        )
    ]
    others = {name: ceiling for name, ceiling in ceilings.items() if name != POSTAL and ceiling}
    if others and pace:
        best = max(others, key=lambda name: others[name] or 0.0)
        times = (others[best] or 0.0) / pace
        own.append(
            Evidence(
                fact="rate of the same sink with another generator",
                found=f"{others[best]:,.0f} a minute from {best}, {times:.0f} times as much",
                needed=f"at least {TIMES} times as much",
                holds=_unless_starved(measured.machine(f"{STRAIGHT}{best}"), times >= TIMES, slow=True),
                source=f"series/sink.jsonl, phase {STRAIGHT}{best}",
            )
        )
    return tuple(own), (
        Evidence(
            fact="cores that the bed used while postal sent to the sink",
            found=f"{machine.bed:.2f} of {machine.cpus}; {machine.idle:.0%} of the CPU was idle"
            if machine
            else "not measured",
            needed=f"at most {HALF:.0%} of them",
            holds=machine.bed / machine.cpus <= HALF if machine else None,
            source=f"series/stats.jsonl, results/{load}-cpus.json",
        ),
    )


def _unless_starved(machine: Machine | None, holds: bool | None, *, slow: bool) -> bool | None:  # noqa: FBT001
    """Return None instead of False for a slow result on a starved machine."""
    return None if holds is False and slow and _starved(machine) else holds


SCENARIO = GeneratorCeiling()
