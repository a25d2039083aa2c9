"""How much can each load generator send at most, and does the relay or the generator set the pace?

Each generator sends straight to the sink; this rate is the generator's ceiling. Then each generator sends through the
relay. A rate near the ceiling measures the generator, not the relay. postal's ceiling is 24,576 messages a minute:
postal sends 2,048 messages every 5 s, and waits in between while most of the CPU is idle.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from orchestrator import services
from orchestrator.agents.contract import TICK_S, LoadOrder
from orchestrator.bed import builtin
from orchestrator.bed.model import MAX_DOMAINS, Bed, NodeSpec
from orchestrator.measurements import Machine, Measurements
from orchestrator.measurements.verdict import Evidence, Outcome, Table, Verdict, sentence, unknown, unmet
from orchestrator.scenarios import OverIPv4, Scenario
from orchestrator.scenarios.relay_load.cpu import Cpu, cpu_of
from orchestrator.scenarios.relay_load.evidence import BUSY, NEAR_CEILING
from orchestrator.scenarios.relay_load.params import OURS, require
from orchestrator.services import Purpose, Role
from orchestrator.up.bed import RecordedBed
from orchestrator.up.load import SentLoad

PER_MINUTE = "{:,.0f} messages a minute"
TOLERANCE = 0.03
"""Relative tolerance when a measured ceiling is compared with a generator's own limit, such as postal's."""
TIMES = 10
"""The sink does not set a generator's limit if another generator's ceiling is at least this multiple of the limit."""
HALF = 0.5
"""If the bed uses at most this share of the machine's CPU, CPU is not the limit."""


class Params(OverIPv4):
    """Parameters of the scenario."""

    engines: str = f"{OURS},smtp-source,postal"
    """Load generators, separated by commas."""
    domains: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] = 2560
    """Domains that receive mail; smtp-source sends to the first one only."""
    seconds: Annotated[float, Field(ge=5, le=600)] = 8.0
    """Minimum time of each load straight to the sink, in seconds."""
    portions: Annotated[int, Field(ge=4, le=100)] = 8
    """Minimum number of bursts sent straight to the sink, for a generator that sends in bursts (postal: every 5 s)."""
    relay_seconds: Annotated[float, Field(ge=0, le=3600)] = 12.0
    """Minimum time of each load through the relay, in seconds, rounded up to whole bursts; 0: no such loads."""
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
        """Names of the generators, in the order of sending."""
        return list(dict.fromkeys(name.strip() for name in self.engines.split(",")))


class GeneratorCeiling(Scenario[Params]):
    """The scenario."""

    name = "generator-ceiling"
    question = "How much can each load generator send at most, and when does that set a relay's pace?"
    params = Params

    def bed(self, params: Params) -> Bed:
        """Return the built-in relay bed with a node for each generator."""
        require(Role.LOAD, *params.names)
        base = builtin.bed("relay", domains=params.domains, families=params.families)
        sink = NodeSpec(service="blackhole", settings={"data_delay_ms": params.data_delay_ms})
        others = {name: NodeSpec(service=name) for name in params.names if name != OURS}
        return base.model_copy(update={"nodes": {**base.nodes, "sink": sink, **others}})

    def drive(self, bed: RecordedBed, params: Params) -> None:
        """Send with each generator straight to the sink, then through the relay; drain the relay after each load."""
        for name in params.names:
            _send(bed, params, name, Role.SINK)
        for name in params.names if params.relay_seconds else ():
            _send(bed, params, name, Role.RELAY).drain(params.drain)

    def judge(self, measured: Measurements, params: Params) -> Verdict:
        """Judge one run: is every generator's ceiling known, and does the generator set this ceiling, not the sink?"""
        generators = [Generator.read(measured, name) for name in params.names]
        limits = {name: limit for name in params.names if (limit := services.most_per_minute(name))}
        known = [
            Evidence.of(f"ceiling of {g.name}", g.ceiling or None, "a figure", bool, "series/sink.jsonl", PER_MINUTE)
            for g in generators
        ]
        own = [e for g in generators if g.name in limits for e in _own(g, limits[g.name], generators)]
        room = [_room(g) for g in generators if g.name in limits] or _sink(generators, params)
        evidence = (*known, *own, *room)
        missing = unknown(evidence)
        if wrong := unmet(own):
            outcome, reason = Outcome.REFUTED, wrong
        elif wrong := "; ".join(filter(None, [unmet(room), missing and f"not measured: {missing}"])):
            outcome, reason = Outcome.INCONCLUSIVE, wrong
        else:
            outcome = Outcome.CONFIRMED
            reason = "; ".join(f"{g.name} sends {g.ceiling:,.0f} a minute at most" for g in generators)
        own_limits = [f"{name}'s is a limit of its own: {limit:,.0f} a minute" for name, limit in limits.items()]
        return Verdict(
            outcome=outcome,
            claim=", and ".join(["Each generator's ceiling is known", *own_limits]) + ".",
            reason=sentence(reason),
            evidence=evidence,
            marks=tuple(mark for g in generators for mark in _marks(g)),
            figures={
                f"{g.name.replace('-', '_')}_{where}_messages_per_minute": rate
                for g in generators
                for where, rate in (("ceiling", g.ceiling), ("relay", g.through))
            },
            tables=(_table(generators),),
        )


def _send(bed: RecordedBed, params: Params, name: str, to: Role) -> SentLoad:
    straight = to is Role.SINK
    load = f"calibration-{name}" if straight else name
    burst_s = services.burst_s(name)
    least = params.seconds if straight else params.relay_seconds
    bursts = max(math.ceil(least / burst_s), params.portions if straight and burst_s > TICK_S else 1)
    order = LoadOrder(seconds=burst_s * bursts, connections=params.connections, per_connection=10, sizes=[params.size])
    purpose = Purpose.CALIBRATE if straight else Purpose.MEASURE
    with bed.record_cpus(load):
        return bed.send(load, order, to=to, by=None if name == OURS else name, purpose=purpose)


# --------------------------------------------------------------------------------------------------------- the verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """Results of one generator, in messages a minute; ``None``: not measured."""

    name: str
    ceiling: float | None
    """Rate straight to the sink, without the warm-up."""
    through: float | None
    """Rate through the relay, from the first message sent to the last delivery."""
    cpu_ms: float | None
    """CPU time of the generator for one message straight to the sink, in milliseconds."""
    sink_cores: float | None
    """CPU cores that the sink (one thread) used while the generator sent straight to the sink."""
    machine: Machine | None
    """CPU use of the machine while the generator sent to the sink."""
    spent: bool
    """Whether the CPU was used up while the generator sent to the relay."""

    @classmethod
    def read(cls, measured: Measurements, name: str) -> Self:
        """Read the results of one generator."""
        loads = {load.to: load_name for load_name, load in measured.loads.items() if load.generator == name}
        straight, through = loads.get(Role.SINK, ""), loads.get(Role.RELAY, "")
        ceiling, carried = measured.steady_per_s(straight, services.burst_s(name)), measured.delivered_per_s(through)
        load, span = measured.loads.get(straight), measured.span(straight)
        messages = load and (load.accepted if load.numbered else load.arrived)
        sink = measured.use(measured.name_of(Role.SINK), span) if span else None
        return cls(
            name=name,
            ceiling=None if ceiling is None else 60 * ceiling,
            through=None if carried is None else 60 * carried,
            cpu_ms=1000 * load.cpu_s / messages if load and messages else None,
            sink_cores=sink.cores if sink else None,
            machine=measured.machine(straight) if load else None,
            spent=cpu_of(measured, through) in {Cpu.SPENT, Cpu.TAKEN},
        )

    @property
    def share(self) -> float | None:
        """Rate through the relay, as a share of the ceiling."""
        return self.through / self.ceiling if self.through and self.ceiling else None

    @property
    def pace(self) -> str:
        """The part that limited the rate through the relay; if CPU was left, perhaps the number of connections."""
        if self.share is None:
            return "not known"
        if self.share > NEAR_CEILING:
            return "the generator"
        return "the relay" if self.spent else "not the generator"

    @property
    def starved(self) -> bool:
        """Whether processes outside the bed may have starved the generator; also True if CPU use was not recorded."""
        return self.machine is None or self.machine.starved


def _table(generators: Sequence[Generator]) -> Table:
    def percent(share: float | None) -> str:
        return "not measured" if share is None else f"{share:.0%}"

    return Table(
        title="Messages a minute, straight to the sink and through the relay",
        columns=("generator", "ceiling", "through the relay", "share", "CPU ms/message", "who set the pace"),
        rows=tuple((g.name, g.ceiling, g.through, percent(g.share), g.cpu_ms, g.pace) for g in generators),
        bars="ceiling",
    )


def _marks(generator: Generator) -> Iterator[str]:
    if generator.machine and generator.starved:
        share = f"the bed had {generator.machine.bed:.1f} of {generator.machine.cpus} cores"
        yield f"busy machine: while {generator.name} sent, {share}, and other processes had the rest"
    if generator.sink_cores and generator.sink_cores > BUSY:
        used = f"used {generator.sink_cores:.0%} of its core"
        yield f"the ceiling of {generator.name} may be that of the sink, which {used}"


def _own(generator: Generator, limit: float, generators: Sequence[Generator]) -> Iterator[Evidence]:
    """Yield the evidence that ``limit`` is the generator's own, and that the sink can take a higher rate."""
    yield Evidence.of(
        f"{generator.name}'s pace",
        generator.ceiling or None,
        f"{limit:,.0f}, within {TOLERANCE:.0%}",
        lambda pace: _unless_starved(generator, abs(pace / limit - 1) <= TOLERANCE, slow=pace < limit),
        "series/sink.jsonl",
        PER_MINUTE,
    )
    rival = max(generators, key=lambda other: (other is not generator, other.ceiling or 0.0))
    if rival is generator or not rival.ceiling or not generator.ceiling:
        return
    times = rival.ceiling / generator.ceiling
    yield Evidence(
        fact="rate of the same sink with another generator",
        found=f"{rival.ceiling:,.0f} a minute from {rival.name}, {times:.0f} times as much",
        needed=f"at least {TIMES} times as much",
        holds=_unless_starved(rival, times >= TIMES, slow=True),
        source="series/sink.jsonl",
    )


def _unless_starved(generator: Generator, holds: bool, *, slow: bool) -> bool | None:  # noqa: FBT001
    """Return ``holds``, but None instead of False for a slow result on a starved machine."""
    return holds or (None if slow and generator.starved else False)


def _room(generator: Generator) -> Evidence:
    """Return the evidence that CPU is not the limit of a generator."""
    return Evidence.of(
        f"cores that the bed used while {generator.name} sent to the sink",
        generator.machine,
        f"at most {HALF:.0%} of them",
        lambda machine: machine.bed / machine.cpus <= HALF,
        "series/stats.jsonl",
        "{0.bed:.2f} of {0.cpus}; {0.idle:.0%} of the CPU was idle",
    )


def _sink(generators: Sequence[Generator], params: Params) -> list[Evidence]:
    """Return the evidence that the sink limits no generator; needed if no generator has a limit of its own."""
    return [
        *(
            Evidence.at_most(
                f"CPU of the sink while {generator.name} sent (one thread)",
                generator.sink_cores,
                BUSY,
                "series/stats.jsonl",
            )
            for generator in generators
        ),
        Evidence.of(
            "delay of the sink's reply", params.data_delay_ms, "0 ms", lambda ms: ms == 0, "run.json", "{:g} ms"
        ),
    ]


SCENARIO = GeneratorCeiling()
