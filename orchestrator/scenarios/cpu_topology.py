"""How much mail does the relay carry on which CPUs, and does hyper-threading help?

One run sends the same load once for each set of the machine's CPUs. The relay is pinned to the set. The harness (all
other nodes) is pinned to the remaining cores, or to the same set if no core remains. Even rounds take the sets in
reverse order, so that a gradual change of the machine's speed affects all sets equally.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Annotated

from pydantic import Field

from orchestrator.bed.cpu_topology import ALL, CORE, CPUS, ONE_EACH, THREAD, CpuSet, Topology, cpu_sets, parse, write
from orchestrator.bed.model import Bed
from orchestrator.measurements import Measurements, Phase
from orchestrator.measurements.kept import Kept
from orchestrator.measurements.verdict import Evidence, Outcome, Table, Verdict, unknown, unmet
from orchestrator.scenarios import Scenario
from orchestrator.scenarios.relay_load import probes
from orchestrator.scenarios.relay_load.drive import calibrate, find_connections
from orchestrator.scenarios.relay_load.evidence import CONCURRENCY, INSTRUMENT, UNSTEADY, accounting, instrument, worst
from orchestrator.scenarios.relay_load.params import RelayLoad
from orchestrator.services import Role
from orchestrator.up.bed import RecordedBed

PLAN = "cpu-sets"
"""The file results/cpu-sets.json, which holds the sets of CPUs (``_Planned``)."""
SAME = 0.95
"""If the smallest set has at least this share of the largest set's throughput, the two count as equal."""
FULL = 0.05
"""CPUs with a smaller idle share count as saturated."""
OTHERS = 0.1
"""Warning if other processes and the hypervisor took more than this share of a set's CPU time."""
MOST_OTHERS = 0.95
"""The correction of the throughput assumes at most this share of CPU time for other processes."""


class Params(RelayLoad):
    """Parameters of the scenario."""

    seconds: Annotated[float, Field(ge=1, le=3600)] = 6.0
    """Duration of the load on each set, in seconds."""
    repeat: Annotated[int, Field(ge=1, le=20)] = 3
    """Number of rounds; each round loads every set once."""
    calibration: Annotated[float, Field(ge=1, le=600)] = 3.0
    """Duration of each of the two loads straight to the sink before the run, in seconds."""
    drain: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """Seconds that the relay may take to empty its queue on each set."""


class CpuTopology(Scenario[Params]):
    """The scenario."""

    name = "cpu-topology"
    question = "How much mail does this relay carry on which CPUs, and does hyper-threading help?"
    params = Params

    def bed(self, params: Params) -> Bed:
        """Return the built-in relay bed with the chosen relay."""
        return params.bed(params.seconds)

    def drive(self, bed: RecordedBed, params: Params) -> None:
        """Find the number of connections on the largest set, calibrate on the fewest harness CPUs, send the rounds.

        Mail left in the relay's queue ends the rounds, because each later drain would take the full ``--drain``.
        """
        sets, same = cpu_sets(bed.topology())
        described = [{"name": s.name, "cpus": write(s.cpus), "harness": write(s.harness)} for s in sets]
        bed.rundir.save_result(PLAN, {"sets": described, "left_out": same})
        _pin(bed, sets[0])
        connections = find_connections(bed, params, sets[0].cpus)
        load = params.order(params.seconds, connections)
        _pin(bed, min(sets, key=lambda s: len(s.harness)))
        calibrate(bed, params, connections)
        for number in range(1, params.repeat + 1):
            for cpus in sets if number % 2 else reversed(sets):
                name = _load(cpus.name, number)
                _pin(bed, cpus)
                with bed.record_cpus(name, cpus.cpus):
                    empty = bed.send(name, load).drain(params.drain)
                if not empty:
                    return

    def judge(self, measured: Measurements, params: Params) -> Verdict:
        """Judge one run: does the relay carry less mail on the smallest set of CPUs than on the largest?"""
        planned = measured.rundir.checked_result(PLAN, _Planned.from_dict)
        paced = params.rate is not None
        lines = []
        for described in planned.sets if planned else ():
            cpus = CpuSet(name=described.name, cpus=parse(described.cpus), harness=parse(described.harness))
            names = [_load(cpus.name, number) for number in range(1, params.repeat + 1)]
            points = tuple(_point(measured, cpus, name, paced=paced) for name in names)
            lines.append(MeasuredSet(cpus=cpus, points=points))
        loads = [point.load for line in lines for point in line.points]
        mail = worst(e for name in loads for e in accounting(measured, name))
        harness = worst(e for name in loads for e in instrument(measured, name))
        follows = [_share(lines[0], lines[-1], field) for field in ("carried", "undisturbed")] if len(lines) > 1 else []
        full = not paced and any(line.full for line in lines)
        # A rate that the number of connections limits is the same on every set of CPUs.
        few = () if paced or not loads else probes.pace(measured, loads[0])
        steady = () if paced or not lines else probes.steady(measured, [point.load for point in lines[0].points])
        evidence = [*mail, *harness, *worst(e for line in lines for e in _placed(line)), *few, *steady]
        alone = "There is only one set of CPUs on this machine." if lines else "Not measured: no set of CPUs."
        outcome, reason = _outcome(evidence, follows, full=full) if follows else (Outcome.INCONCLUSIVE, alone)
        known = [] if outcome is Outcome.INCONCLUSIVE else lines
        units = {"carried": "per_s", "undisturbed": "undisturbed_per_s", "per_cpu_s": "per_cpu_s"}
        return Verdict(
            outcome=outcome,
            claim=_claim(known),
            reason=" ".join([reason, *_answers(measured, known)]),
            evidence=(*follows, *evidence),
            marks=(
                *(
                    mark
                    for mark, facts in ((INSTRUMENT, harness), (CONCURRENCY, few), (UNSTEADY, steady))
                    if unmet(facts)
                ),
                *_marks(lines, planned.left_out if planned else {}),
            ),
            figures={
                f"messages_on_{line.cpus.name.replace(' ', '_')}_{unit}": line.middle(field)
                for line in lines
                for field, unit in units.items()
            },
            tables=(*((_carried(lines), _rounds(lines)) if lines else ()), *probes.tables(measured)),
        )


def _load(name: str, number: int) -> str:
    return f"{name.replace(' ', '-')}-{number}"


def _pin(bed: RecordedBed, cpus: CpuSet) -> None:
    """Pin the relay to the CPUs of a set, and every other node to the CPUs left for the harness."""
    relay = bed.relay.node
    for node in bed.nodes.values():
        node.pin(write(cpus.cpus if node is relay else cpus.harness))


# --------------------------------------------------------------------------------------------------------- the verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Result of one set in one round; ``None``: not measured."""

    load: str
    carried: float | None
    """Messages delivered a second, the drain included."""
    per_cpu_s: float | None
    """Messages for each CPU second of the relay."""
    used: float | None
    """Mean CPUs in use by the relay."""
    idle: float | None
    """Idle share of the set's CPU time."""
    others: float | None
    """Share of the set's CPU time used outside the bed, or stolen by the hypervisor."""
    undisturbed: float | None
    """``carried``, corrected for the share ``others``."""
    allowed: str
    """CPUs that the kernel allowed the relay."""


class _Set(Kept):
    name: str
    cpus: Annotated[str, Field(pattern=CPUS)]
    harness: Annotated[str, Field(pattern=CPUS)]


class _Planned(Kept):
    """The sets, largest first. ``left_out``: name of a set -> name of the kept set with the same CPUs."""

    sets: list[_Set]
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSet:
    """One set of CPUs, and its rounds."""

    cpus: CpuSet
    points: tuple[Point, ...]

    def middle(self, field: str) -> float | None:
        """Return the median of a field over the rounds in which it was measured."""
        known = [value for point in self.points if (value := getattr(point, field)) is not None]
        return median(known) if known else None

    @property
    def busy(self) -> bool:
        """Whether processes outside the bed used more than ``OTHERS`` of the set's CPU time."""
        return (self.middle("others") or 0) > OTHERS

    @property
    def full(self) -> bool:
        """Whether the set's CPUs were saturated, and partly by processes outside the bed (``busy``)."""
        return self.busy and (self.middle("idle") or 0) <= FULL


def _point(measured: Measurements, cpus: CpuSet, load: str, *, paced: bool) -> Point:
    read, machine = measured.cpus(load), measured.machine(load)
    span, sink = measured.span(load), measured.sinks.get(load)
    # The relay is idle at both ends of a round, so a reading of its CPU time may be a little early or late.
    reading = Phase(name=load, start=read.start, end=read.end) if read else None
    relay = measured.use(measured.name_of(Role.RELAY), reading) if reading else None
    seconds = span.end - span.start if span and span.end else 0.0
    idle = others = None
    if machine and relay and seconds:
        ours = machine.bed if cpus.shared else relay.cores
        # Other processes work during the whole reading, the bed only during the load.
        others = max(0.0, machine.busy - ours) / machine.cpus
        idle = max(0.0, 1 - ours * machine.seconds / seconds / machine.cpus - others)
    carried = undisturbed = measured.delivered_per_s(load)
    # At a given rate the load limits the throughput, so no correction applies.
    if carried and others and idle is not None and idle <= FULL and not paced:
        undisturbed = carried / (1 - min(others, MOST_OTHERS))
    return Point(
        load=load,
        carried=carried,
        undisturbed=undisturbed,
        per_cpu_s=sink.delivered / relay.cpu_s if sink and relay and relay.cpu_s else None,
        used=relay.cpu_s / seconds if relay and seconds else None,
        idle=idle,
        others=others,
        allowed=read.allowed if read else "",
    )


def _share(largest: MeasuredSet, smallest: MeasuredSet, field: str) -> Evidence:
    """Return the evidence that a field is lower for the smallest set than for the largest, round by round."""
    pairs = [
        (least, most)
        for a, b in zip(smallest.points, largest.points, strict=True)
        if (least := getattr(a, field)) and (most := getattr(b, field))
    ]
    shares = [least / most for least, most in pairs]
    rounds = ", ".join(f"{least:,.0f} of {most:,.0f}" for least, most in pairs)
    fact = f"throughput on {smallest.cpus.name}, as a share of that on {largest.cpus.name}"
    undisturbed = field == "undisturbed"
    return Evidence.of(
        fact + (", estimated without other processes" if undisturbed else ""),
        median(shares) if shares else None,
        f"less than {SAME:.0%}" + (", and less in every round" if undisturbed else ""),
        lambda middle: middle < SAME and (not undisturbed or max(shares) < 1),
        f"results/{smallest.points[0].load}-sink.json, -cpus.json, and those of the other rounds",
        f"{{:.0%}} ({rounds})",
    )


def _outcome(controls: list[Evidence], follows: list[Evidence], *, full: bool) -> tuple[Outcome, str]:
    """Return the outcome and its reason; ``full``: other processes left no CPU idle.

    CONFIRMED needs a lower throughput on the smallest set, both as measured and as corrected for other processes.
    """
    if missing := unknown([*controls, *follows]):
        missing = f"not measured: {missing}"
    if wrong := "; ".join(filter(None, [unmet(controls), missing])):
        return Outcome.INCONCLUSIVE, f"{wrong}."
    falls, falls_undisturbed = (e.holds for e in follows)
    if falls and falls_undisturbed:
        return Outcome.CONFIRMED, "The smallest set carries less than the largest."
    if falls or falls_undisturbed or full:
        disturbed = "Other processes used these CPUs, or the rounds disagree: repeat the run on a quieter machine."
        return Outcome.INCONCLUSIVE, disturbed
    return Outcome.REFUTED, "The smallest set carries about as much as the largest: something else sets the pace."


def _claim(lines: list[MeasuredSet]) -> str:
    says = "The throughput of this relay follows its CPUs"
    busy = any(line.busy for line in lines)
    rates = [line.middle("undisturbed" if busy else "carried") for line in (lines[:1] + lines[-1:])]
    if len(lines) < 2 or None in rates:
        return f"{says}."
    most, least = (f"{rate:,.0f}" for rate in rates)
    without = ", as estimated without other processes" if busy else ""
    return f"{says}: {most} messages a second on {lines[0].cpus.name}, {least} on {lines[-1].cpus.name}{without}."


def _answers(measured: Measurements, lines: list[MeasuredSet]) -> Iterator[str]:
    """Yield sentences on the idle share of the smallest set, and on the effect of hyper-threading."""
    idle = lines[-1].middle("idle") if lines else None
    if idle is not None:
        yield f"The CPUs of {lines[-1].cpus.name} were {idle:.0%} idle."
    topology = measured.environment.get("topology")
    if not topology or not topology["known"]:
        yield "Hyper-threading: this machine does not tell which CPUs are threads of one core."
    elif not Topology.from_dict(topology).siblings:
        yield "Hyper-threading: no core of this machine has a second thread to run on."
    else:
        rates = {line.cpus.name: line.middle("undisturbed") for line in lines}
        gains = [
            f"{a / b - 1:+.0%} ({both} against {single})"
            for both, single in ((ALL, ONE_EACH), (CORE, THREAD))
            if (a := rates.get(both)) and (b := rates.get(single))
        ]
        yield f"Hyper-threading: {', '.join(gains) or 'not measured'}."


def _placed(line: MeasuredSet) -> Iterator[Evidence]:
    for point in line.points:
        yield Evidence.of(
            "CPUs that the relay ran on",
            point.allowed or None,
            f"{write(line.cpus.cpus)}, {line.cpus.name}",
            lambda allowed: parse(allowed) == line.cpus.cpus,
            f"results/{point.load}-cpus.json",
            "{}",
        )


def _marks(lines: list[MeasuredSet], left_out: Mapping[str, str]) -> Iterator[str]:
    if left_out:
        same = "; ".join(f"{name} is {other}" for name, other in left_out.items())
        yield f"sets left out because their CPUs are the same on this machine: {same}"
    for line in lines:
        if line.cpus.shared:
            yield f"{line.cpus.name}: no core is left for the harness, which shares these CPUs"
    if busy := [f"{line.middle('others'):.0%} of {line.cpus.name}" for line in lines if line.busy]:
        yield f"processes outside the bed used these CPUs: {', '.join(busy)}"


def _carried(lines: list[MeasuredSet]) -> Table:
    def percent(share: float | None) -> float | None:
        return None if share is None else 100 * share

    return Table(
        title="Messages that the relay carries, by set of CPUs: medians of the rounds",
        columns=("set", "messages/s", "undisturbed/s", "per CPU s", "CPUs used", "idle %", "others %"),
        rows=tuple(
            (
                line.cpus.name,
                *(line.middle(field) for field in ("carried", "undisturbed", "per_cpu_s", "used")),
                *(percent(line.middle(field)) for field in ("idle", "others")),
            )
            for line in lines
        ),
        bars="undisturbed/s",
    )


def _rounds(lines: list[MeasuredSet]) -> Table:
    def rates(line: MeasuredSet, field: str) -> str:
        values = [getattr(point, field) for point in line.points]
        return ", ".join("-" if value is None else f"{value:,.0f}" for value in values)

    return Table(
        title="CPUs of each set, and throughput of each round",
        columns=("set", "CPUs", "harness on", "messages/s", "undisturbed/s"),
        rows=tuple(
            (s.cpus.name, write(s.cpus.cpus), write(s.cpus.harness), rates(s, "carried"), rates(s, "undisturbed"))
            for s in lines
        ),
    )


SCENARIO = CpuTopology()
