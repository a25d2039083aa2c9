"""How much mail does the relay carry on which CPUs, and does hyper-threading help?

The same load runs in one run over sets of CPUs worked out from the machine: the relay is pinned to each in turn, the
harness to other cores where there are some. Rounds go through the sets forth and back, so that a drift of the machine
falls on all of them alike.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Annotated

from pydantic import Field

from orchestrator.collect.cpus import COMMAND, CpuTimes
from orchestrator.live import Live
from orchestrator.measurements import Measurements, Phase
from orchestrator.model import Bed
from orchestrator.plan import NodePlan
from orchestrator.scenarios import Evidence, Outcome, Table, Verdict, relay_throughput
from orchestrator.services import Role
from orchestrator.topology import ALL, CORE, ONE_EACH, CpuSet, Topology, cpu_sets, parse, write

PLAN = "cpu-sets"
"""results/cpu-sets.json: the sets in the order of their size, and those that were left out."""
SAME = 0.9
"""The smallest set carries the same as the largest when it carries at least this share of it."""
HELD_BACK = 0.25
"""A relay that leaves more than this of its CPUs idle is not held back by them."""
OTHERS = 0.1
"""Work of others on the CPUs of a set, or time that the hypervisor took, above this share deserves a warning."""


class Params(relay_throughput.RelayLoad):
    """What can be varied."""

    seconds: Annotated[float, Field(ge=1, le=3600)] = 6.0
    """How long load is offered to each set."""
    repeat: Annotated[int, Field(ge=1, le=20)] = 3
    """Rounds through all the sets."""
    calibration: Annotated[float, Field(ge=1, le=600)] = 3.0
    """Seconds of load straight into the sink, before the run, for each of two shapes."""
    drain: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """Seconds that the relay may take to empty its queue on each set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one set carried in one round; ``None``: not measured."""

    load: str
    carried: float | None
    """Messages a second, delivered, the drain included."""
    per_cpu_s: float | None
    """Messages for each second of CPU that the relay used."""
    cores: float | None
    """CPUs that the relay used, on average."""
    idle: float | None
    """Share of the set's CPU time that was idle."""
    others: float | None
    """Share of it that went neither to the relay nor to a harness that was there, or that the hypervisor took."""
    allowed: str
    """Where the kernel let the relay run."""


class CpuTopology:
    """The scenario."""

    name = "cpu-topology"
    question = "How much mail does this relay carry on which CPUs, and does hyper-threading help?"
    params = Params

    def bed(self, params: Params) -> Bed:
        """Return the built-in relay bed with the relay that is asked for."""
        return relay_throughput.relay_bed(params)

    def drive(self, live: Live, params: Params) -> None:
        """Calibrate on the fewest CPUs that the harness will have; then send and drain on each set, in rounds."""
        sets, same = cpu_sets(Topology.from_dict(live.rundir.load()["environment"]["topology"]))
        described = [{"name": s.name, "cpus": write(s.cpus), "harness": write(s.harness)} for s in sets]
        live.rundir.save_result(PLAN, {"sets": described, "left_out": same})
        relay = live.plan.node(Role.RELAY)
        load = params.order(params.seconds)
        _pin(live, relay, min(sets, key=lambda s: len(s.harness)))
        relay_throughput.calibrate(live, load, params.calibration)
        for number in range(1, params.repeat + 1):
            for cpus in sets if number % 2 else reversed(sets):
                name = _load(cpus.name, number)
                _pin(live, relay, cpus)
                start, before = time.time(), _times(live, relay)
                live.send(name, load | {"target": str(relay.v4)})
                live.drain(name, params.drain)
                end, after = time.time(), _times(live, relay)
                live.rundir.save_result(
                    f"{name}-cpus",
                    {"start": start, "end": end, "allowed": after.allowed, "used": after.since(before, cpus.cpus)},
                )

    def judge(self, measured: Measurements) -> Verdict:
        """Say what each set carried, and whether it follows the CPUs."""
        return judge(measured)


def _load(name: str, number: int) -> str:
    return f"{name.replace(' ', '-')}-{number}"


def _pin(live: Live, relay: NodePlan, cpus: CpuSet) -> None:
    for node in live.plan.nodes:
        live.pin(node, write(cpus.cpus if node is relay else cpus.harness))


def _times(live: Live, relay: NodePlan) -> CpuTimes:
    return CpuTimes.parse(live.exec(relay, *COMMAND).stdout)


# --------------------------------------------------------------------------------------------------------- the verdict


def judge(measured: Measurements) -> Verdict:
    """Judge one run: what does each set carry, and does the smallest carry less than the largest?"""
    planned = measured.rundir.result(PLAN) or {"sets": [], "left_out": {}}
    sets = [CpuSet(name=s["name"], cpus=parse(s["cpus"]), harness=parse(s["harness"])) for s in planned["sets"]]
    rounds = range(1, int(measured.params.get("repeat", 1)) + 1)
    points = {s.name: [_point(measured, s, number) for number in rounds] for s in sets}
    carried = {name: median(rates) for name, line in points.items() if (rates := _known(p.carried for p in line))}
    loads = [p.load for line in points.values() for p in line]
    mail = _worst(e for name in loads for e in relay_throughput.accounting(measured, name))
    harness = _worst(e for name in loads for e in relay_throughput.instrument(measured, name))
    controls = [*mail, *harness, *_worst(_placed(sets, points))]
    largest, smallest = (sets[0].name, sets[-1].name) if len(sets) > 1 else (None, None)
    if largest in carried and smallest in carried:
        follows = _follows(points, str(largest), str(smallest))
        idle = _middle(p.idle for p in points[str(smallest)])
        full = any(map(_busy, points.values())) and (idle is None or idle <= HELD_BACK)
        outcome, reason = _outcome(controls, follows, full=full)
        reason += " " + _answers(measured, sets, points, carried)
        claim = (
            "The throughput of this relay follows its CPUs: "
            f"{carried[str(largest)]:,.0f} messages a second on {largest}, {carried[str(smallest)]:,.0f} on {smallest}."
        )
    else:
        follows = None
        outcome = Outcome.INCONCLUSIVE
        reason = "There is only one set of CPUs on this machine." if len(sets) == 1 else "Not every set was measured."
        claim = "The throughput of this relay follows its CPUs."
    return Verdict(
        outcome=outcome,
        claim=claim,
        reason=reason,
        evidence=(*([follows] if follows else []), *controls),
        marks=(
            *(["instrument-bound"] if any(e.holds is False for e in harness) else []),
            *_marks(sets, points, planned["left_out"]),
        ),
        figures=_figures(points, carried, largest, smallest),
        tables=(_table(sets, points),) if carried else (),
    )


def _point(measured: Measurements, cpus: CpuSet, number: int) -> Point:
    name = _load(cpus.name, number)
    read = measured.rundir.result(f"{name}-cpus")
    span, sink = measured.span(name), measured.sinks.get(name)
    # The relay is idle when a round begins and when it ends, so that its CPU time is known better than once a second.
    window = Phase(name=name, start=read["start"], end=read["end"]) if read else None
    uses = {node: measured.use(node, window) for node in measured.nodes} if window else {}
    relay = uses.pop("relay", None)
    seconds = span.end - span.start if span and span.end else 0.0
    idle = others = None
    if read and read["used"] and relay and seconds:
        ours = relay.cpu_s + sum(use.cpu_s for use in uses.values() if use and cpus.shared)
        # Others work all the time, before the load and after it, too.
        others = max(0.0, (read["used"]["busy_s"] - ours) / (read["end"] - read["start"]) / len(cpus.cpus))
        idle = max(0.0, 1 - ours / seconds / len(cpus.cpus) - others)
    return Point(
        load=name,
        carried=measured.delivered_per_s(name),
        per_cpu_s=sink.delivered / relay.cpu_s if sink and relay and relay.cpu_s else None,
        cores=relay.cpu_s / seconds if relay and seconds else None,
        idle=idle,
        others=others,
        allowed=read["allowed"] if read else "",
    )


def _follows(points: Mapping[str, list[Point]], largest: str, smallest: str) -> Evidence:
    """Hold the smallest set against the largest, round by round; ``holds`` is ``None`` when rounds contradict."""
    pairs = [
        (least.carried, most.carried)
        for least, most in zip(points[smallest], points[largest], strict=True)
        if least.carried and most.carried
    ]
    shares = [least / most for least, most in pairs]
    share = median(shares) if shares else None
    return Evidence(
        fact=f"throughput on {smallest}, as a share of {largest}",
        found="not measured"
        if share is None
        else f"{share:.0%} ({', '.join(f'{least:,.0f} of {most:,.0f}' for least, most in pairs)})",
        needed=f"less than {SAME:.0%}, and less in every round",
        holds=None if share is None else False if share >= SAME else True if max(shares) < 1 else None,
        source=f"results/{_load(smallest, 1)}-sink.json and its like",
    )


def _outcome(controls: Iterable[Evidence], follows: Evidence, *, full: bool) -> tuple[Outcome, str]:
    """Say how it ended; ``full``: others left the relay no idle CPU, so that it may be they who set the pace."""
    missing = [e.fact for e in controls if e.holds is None]
    broken = [f"{e.fact}: {e.found}, needed {e.needed}" for e in controls if e.holds is False]
    if broken or missing:
        return Outcome.INCONCLUSIVE, "; ".join([*broken, *(f"not measured: {fact}" for fact in missing)]) + "."
    if follows.holds is None:
        return Outcome.INCONCLUSIVE, "The rounds differ more than the sets: repeat it on a quieter machine."
    if follows.holds:
        return Outcome.CONFIRMED, "The smallest set carried less than the largest in every round."
    if full:
        return Outcome.INCONCLUSIVE, "The sets carry about the same, but others used their CPUs meanwhile."
    return Outcome.REFUTED, "The smallest set carries about as much as the largest: something else sets the pace."


def _answers(
    measured: Measurements, sets: list[CpuSet], points: Mapping[str, list[Point]], carried: Mapping[str, float]
) -> str:
    """Say how busy the smallest set was, and answer the question of hyper-threading."""
    idle = _middle(p.idle for p in points[sets[-1].name])
    held = ""
    if idle is not None:
        kept = "the relay was held back by them" if idle <= HELD_BACK else "the relay did not need more of them"
        held = f"The CPUs of {sets[-1].name} were {idle:.0%} idle: {kept}. "
    topology = measured.environment.get("topology")
    if not topology or not topology["known"]:
        return held + "Hyper-threading: this machine does not tell which CPUs are threads of one core."
    if not Topology.from_dict(topology).siblings:
        return held + "Hyper-threading: no core of this machine has a second thread to run on."
    pairs = [(ALL, ONE_EACH), (CORE, "one thread")]
    gains = [f"{carried[a] / carried[b] - 1:+.0%} ({a} against {b})" for a, b in pairs if a in carried and b in carried]
    return held + f"Hyper-threading: {', '.join(gains)}." if gains else held + "Hyper-threading: not measured."


def _placed(sets: list[CpuSet], points: Mapping[str, list[Point]]) -> Iterator[Evidence]:
    for cpus in sets:
        for point in points[cpus.name]:
            yield Evidence(
                fact="CPUs that the relay ran on",
                found=point.allowed or "not measured",
                needed=f"{write(cpus.cpus)}, {cpus.name}",
                holds=parse(point.allowed) == cpus.cpus if point.allowed else None,
                source=f"results/{point.load}-cpus.json",
            )


def _worst(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Return one of each fact: one that fails, else one that is unknown, else the first."""
    worst: dict[str, Evidence] = {}
    for e in sorted(evidence, key=lambda e: (False, None, True).index(e.holds)):
        worst.setdefault(e.fact, e)
    return list(worst.values())


def _marks(sets: list[CpuSet], points: Mapping[str, list[Point]], left_out: Mapping[str, str]) -> Iterator[str]:
    if left_out:
        same = "; ".join(f"{name} is {other}" for name, other in left_out.items())
        yield f"sets left out because their CPUs are the same on this machine: {same}"
    for cpus in sets:
        if cpus.shared:
            yield f"{cpus.name}: no core is left over for the harness, which shares these"
        if _busy(points[cpus.name]):
            others = 100 * (_middle(p.others for p in points[cpus.name]) or 0)
            yield f"{cpus.name}: {others:.0f}% of its CPU time went to others than this bed"


def _figures(
    points: Mapping[str, list[Point]], carried: Mapping[str, float], largest: str | None, smallest: str | None
) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for name, line in points.items():
        key = name.replace(" ", "_")
        figures[f"messages_on_{key}_per_s"] = carried.get(name)
        figures[f"messages_on_{key}_per_cpu_s"] = _middle(p.per_cpu_s for p in line)
    if largest in carried and smallest in carried:
        figures["share_of_the_largest_set"] = carried[str(smallest)] / carried[str(largest)]
    return figures


def _table(sets: list[CpuSet], points: Mapping[str, list[Point]]) -> Table:
    def row(cpus: CpuSet) -> tuple[str | float | None, ...]:
        line = points[cpus.name]
        rates = _known(p.carried for p in line)
        middle = _middle(rates)
        idle = _middle(p.idle for p in line)
        return (
            cpus.name,
            write(cpus.cpus),
            middle,
            100 * (max(rates) - min(rates)) / middle if middle and len(rates) > 1 else None,
            _middle(p.per_cpu_s for p in line),
            _middle(p.cores for p in line),
            None if idle is None else 100 * idle,
            write(cpus.harness),
        )

    return Table(
        title="Messages that the relay carries, by set of CPUs: medians of the rounds",
        columns=("set", "CPUs", "messages/s", "spread %", "per CPU s", "CPUs used", "idle %", "harness"),
        rows=tuple(map(row, sets)),
        bars="messages/s",
    )


def _busy(line: Iterable[Point]) -> bool:
    return (_middle(p.others for p in line) or 0) > OTHERS


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _middle(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return median(known) if known else None


SCENARIO = CpuTopology()
