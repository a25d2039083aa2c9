"""Measurements of a run, read from its directory: rates, latencies, accounting, drain, CPU and memory use.

Missing data is ``None``, never zero. Times are Unix times, durations are in seconds.
A tick is the report that an agent prints every second.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar

from orchestrator.agents.contract import TICK_S, LoadReport, LoadTick, SinkReport, SinkTick
from orchestrator.measurements import hops, run_json
from orchestrator.measurements.accounting import Accounting
from orchestrator.measurements.hops import Hops
from orchestrator.measurements.kept import Kept
from orchestrator.measurements.latency import Latency
from orchestrator.measurements.machine import Machine, RecordedCpus
from orchestrator.measurements.run_json import Phase
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.series import Series, grown, growth, join, steady
from orchestrator.services import Purpose, Role

__all__ = ["Accounting", "Hops", "Latency", "Machine", "Measurements", "Phase", "Series", "Use"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """CPU and memory use of one node during a phase."""

    node: str
    cpu_s: float
    cores: float
    """Mean CPU cores in use."""
    memory_b: int | None
    """Peak memory, without inactive file cache."""
    throttled_s: float | None
    """Time for which the CPU limit stopped the node."""


class Drained(Kept):
    """results/<load>-queue.json: the relay's queue after a load."""

    left: int | None
    """Messages still queued at the end of the wait; ``None``: neither relay nor sink can count messages."""
    seconds: float
    """Time from the relay's last reply to the generator until the end of the wait."""


class _StatsPoint(Kept):
    t: float
    node: str
    cpu_s: float | None = None
    memory_b: int | None = None
    throttled_s: float | None = None


class _Reading(Kept):
    t: float
    name: str
    label: str
    value: float | None


_SHAPES: Mapping[str, Callable[[dict[str, Any]], object]] = {
    "load": LoadTick.from_dict,
    "sink": SinkTick.from_dict,
    "stats": _StatsPoint.model_validate,
    "readings": _Reading.model_validate,
}
"""Name of a time series -> check of its points."""


@dataclass(frozen=True)
class Measurements:
    """All measurements of one run, as ``read`` returns them."""

    rundir: RunDir
    facts: Mapping[str, Any]
    """run.json, checked by ``run_json.read``."""
    phases: tuple[Phase, ...]
    loads: Mapping[str, LoadReport]
    """Name of a load (``calibration``, ``relay``, ...) -> report of its generator; in the order of sending."""
    sinks: Mapping[str, SinkReport]
    """Name of a load -> report of the sink."""
    hops: Hops | None
    series: Mapping[str, list[dict[str, Any]]]
    """Name of a time series -> its points."""
    faults: tuple[str, ...]
    """Streams (logs, statistics, ...) whose recording broke; their files are incomplete."""

    @classmethod
    def read(cls, rundir: RunDir, *, recompute: bool = False, logs: bool = True) -> Self:
        """Read a run directory; with ``recompute``, read the relay's log itself, not its cache results/hops.json.

        After the call, ``rundir.left_out`` names the unreadable files. ``logs=False`` skips the relay's log, which is
        incomplete while the bed is up. Raises InvalidInput if run.json cannot be read.
        """
        known = run_json.read(rundir)
        loads = dict(sorted(_reports(rundir, "load", LoadReport.from_dict), key=lambda named: named[1].started))
        sinks = dict(_reports(rundir, "sink", SinkReport.from_dict))
        series = {name: rundir.series(name, _SHAPES.get(name)) for name in rundir.names("series", ".jsonl")}
        return cls(
            rundir=rundir,
            facts=known,
            phases=tuple(Phase.model_validate(phase) for phase in known["phases"]),
            loads=loads,
            sinks=sinks,
            hops=hops.read(rundir, (known.get("bed") or {}).get("nodes") or {}, recompute=recompute) if logs else None,
            series=series,
            faults=tuple(f"{fault.get('stream')}: {fault.get('error')}" for fault in series.get("recorder", ())),
        )

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the scenario."""
        return dict(self.facts.get("params") or {})

    @property
    def environment(self) -> dict[str, Any]:
        """The machine, the engine and the images."""
        return dict(self.facts.get("environment") or {})

    def planned(self, role: Role) -> Mapping[str, Any]:
        """Return the plan's entry of the first node with a role; empty if there is none."""
        nodes = (self.facts.get("plan") or {}).get("nodes") or []
        return next((node for node in nodes if node.get("role") == role), {})

    def name_of(self, role: Role) -> str:
        """Return the name of the first node with a role; an empty text if there is none."""
        return str(self.planned(role).get("name", ""))

    @property
    def subject(self) -> str | None:
        """The load under measurement; ``None`` if there are several, or none."""
        loads = self.sent(Purpose.MEASURE)
        return loads[0] if len(loads) == 1 else None

    def sent(self, purpose: Purpose) -> list[str]:
        """Return the names of the loads with this purpose, in the order of sending."""
        return [name for name, load in self.loads.items() if load.purpose == purpose]

    def phase(self, name: str) -> Phase | None:
        """Return the phase of this name; ``None`` if there is none."""
        return next((phase for phase in self.phases if phase.name == name), None)

    def span(self, load: str) -> Phase | None:
        """Return the time from the first due message of a load to its last reply or delivery, the drain included."""
        sent, got = self.loads.get(load), self.sinks.get(load)
        if sent is None:
            return None
        return Phase(name=load, start=sent.started, end=max(sent.ended, (got and got.last) or sent.ended))

    def accounting(self, load: str) -> Accounting | None:
        """Compare sent and delivered messages of a load; ``None`` if they have no numbers, or a report is missing."""
        sent, got = self.loads.get(load), self.sinks.get(load)
        return Accounting.check_off(sent, got) if sent and got else None

    def accepted_per_s(self, load: str) -> float | None:
        """Return messages accepted per second, from the time of the first due message to the last reply."""
        report = self.loads.get(load)
        return _rate(report.accepted, report.started, report.ended) if report else None

    def delivered_per_s(self, load: str, *, after: float = 0.0) -> float | None:
        """Return messages delivered per second, from the time of the first due message to the last delivery.

        ``after``: leave out this many seconds at the start; ignored for unnumbered messages.
        """
        sent, got = self.loads.get(load), self.sinks.get(load)
        if sent and not sent.numbered:  # from the sink's ticks, the last delivery is known to 1 s
            ticks = self._sink_ticks.get(load)
            return _rate(ticks[-1]["delivered"], sent.started, max(ticks[-1]["t"], sent.ended)) if ticks else None
        if sent is None or got is None:
            return None
        start = sent.started + after
        return _rate(got.delivered - (self.delivered_by(load, start) or 0.0), start, got.last)

    def delivered_by(self, load: str, t: float) -> float | None:
        """Return the number of messages delivered by Unix time ``t``, interpolated between ticks of the sink."""
        sent, got = self.loads.get(load), self.sinks.get(load)
        if sent is None or got is None or got.last is None:
            return None
        between = [p for p in self._sink_ticks.get(load, []) if sent.started < p["t"] < got.last]
        points = [{"t": sent.started, "delivered": 0}, *between, {"t": got.last, "delivered": got.delivered}]
        return grown(points, "delivered", sent.started, min(max(t, sent.started), got.last))

    def delivered_under_load_per_s(self, load: str) -> float | None:
        """Return messages delivered per second while the load was sent, without the drain."""
        report = self.loads.get(load)
        ticks = [p for p in self._sink_ticks.get(load, []) if report and p["t"] <= report.ended + 0.5]
        last = ticks[-1] if ticks else None
        return _rate(last["delivered"], report.started, last["t"]) if report and last else None

    def connections_at_most(self, load: str) -> int:
        """Return the largest number of connections that a load had open at once."""
        return max((int(tick["connections"]) for tick in self._load_ticks.get(load, [])), default=0)

    def steady_per_s(self, load: str, period: float) -> float | None:
        """Return messages delivered per second while a load was sent in bursts, one every ``period`` seconds."""
        sent = self.loads.get(load)
        if sent is None:
            return None
        points = [(tick["t"], float(tick["delivered"])) for tick in self._sink_ticks.get(load, [])]
        return steady(points, sent.started, sent.ended, period)

    def latency(self, load: str) -> dict[str, Latency]:
        """Return latencies by name: ``response``, ``service``, ``transit``, ``age``, ``connect`` (agents' contract)."""
        of = ((self.loads.get(load), ("response", "service", "connect")), (self.sinks.get(load), ("transit", "age")))
        texts = {name: getattr(report, name) for report, names in of if report for name in names}
        decoded = {name: Latency.decode(text) for name, text in texts.items() if text}
        return {name: latency for name, latency in decoded.items() if latency}

    def ticks_per_s(self, counter: str) -> Series:
        """Return a counter of the ticks as a rate in messages per second; gaps where no load was sent.

        The generator counts ``offered``, ``sent``, ``accepted`` and ``failed``; the sink counts the others.
        """
        ticks = self._load_ticks if counter in {"offered", "sent", "accepted", "failed"} else self._sink_ticks
        rates = []
        for load, points in ticks.items():
            report = self.loads.get(load)
            began = [(report.started, 0.0)] if report and report.started < points[0]["t"] else []
            rates.append(growth([*began, *((p["t"], p.get(counter)) for p in points)]))
        return join(rates)

    @cached_property
    def _load_ticks(self) -> dict[str, list[dict[str, Any]]]:
        return _by(self.series.get("load", ()), "phase")

    @cached_property
    def _sink_ticks(self) -> dict[str, list[dict[str, Any]]]:
        names = {report.run: name for name, report in self.loads.items() if report.numbered}
        points = self.series.get("sink", ())
        ticks = _by(({"phase": names[p["run"]], **p} for p in points if p.get("run") in names), "phase")
        for name, other in ((name, load) for name, load in self.loads.items() if not load.numbered):
            # Unnumbered messages do not name their load: all deliveries until the relay's queue is empty count.
            drained = self.drained(name)
            until = other.ended + (drained.seconds if drained else 0.0) + TICK_S
            own = [{**p, "delivered": p["foreign"]} for p in points if p.get("run") == other.run and p["t"] <= until]
            ticks |= {name: own} if own else {}
        return ticks

    @cached_property
    def _stats(self) -> dict[str, list[dict[str, Any]]]:
        return _by(self.series.get("stats", ()), "node")

    @property
    def nodes(self) -> list[str]:
        """Nodes with statistics, in the order of the bed."""
        order = list((self.facts.get("bed") or {}).get("nodes") or {})
        return sorted(self._stats, key=lambda n: (order.index(n) if n in order else len(order), n))

    def cores(self, node: str) -> Series:
        """Return the number of CPU cores in use by a node, over time."""
        return growth([(p["t"], p.get("cpu_s")) for p in self._stats.get(node, [])])

    def gauge(self, node: str, field: str) -> Series:
        """Return a field of a node's statistics over time, such as ``memory_b`` (see ``collect.stats.point``)."""
        points = self._stats.get(node, [])
        return Series([p["t"] for p in points], [p.get(field) for p in points])

    @cached_property
    def readings(self) -> Mapping[str, Mapping[str, Series]]:
        """Readings of the scenario during the run: quantity -> label -> values over time."""
        return {
            name: {
                label: Series([p["t"] for p in line], [p["value"] for p in line])
                for label, line in _by(points, "label").items()
            }
            for name, points in _by(self.series.get("readings", ()), "name").items()
        }

    def use(self, node: str, phase: Phase) -> Use | None:
        """Return CPU and memory use of a node in a phase; ``None``: fewer than two readings, or none for the phase."""
        points = [p for p in self._stats.get(node, []) if p.get("cpu_s") is not None]
        if len(points) < 2:
            return None
        start = max(phase.start, points[0]["t"])
        end = min(points[-1]["t"] if phase.end is None else phase.end, points[-1]["t"])
        if end <= start:
            return None
        cpu_s = grown(points, "cpu_s", start, end)
        inside = [p["memory_b"] for p in points if start - 1 <= p["t"] <= end + 1 and p.get("memory_b") is not None]
        throttled = all(p.get("throttled_s") is not None for p in points)
        return Use(
            node=node,
            cpu_s=cpu_s,
            cores=cpu_s / (end - start),
            memory_b=max(inside, default=None),
            throttled_s=grown(points, "throttled_s", start, end) if throttled else None,
        )

    def machine(self, load: str) -> Machine | None:
        """Return the CPU use of the machine during a load; ``None`` if the use of machine or nodes was not recorded."""
        read = self.cpus(load)
        if not read or not read.used or read.end <= read.start or read.cpus < 1:
            return None
        window = Phase(name=load, start=read.start, end=read.end)
        nodes = {node: use.cores for node in self.nodes if (use := self.use(node, window))}
        seconds = read.end - read.start
        return Machine(seconds=seconds, cpus=read.cpus, busy=read.used.busy_s / seconds, nodes=nodes) if nodes else None

    def cpus(self, load: str) -> RecordedCpus | None:
        """Return the readings of the machine's CPUs before and after a load."""
        return self.rundir.checked_result(f"{load}-cpus", RecordedCpus.from_dict)

    def drained(self, load: str) -> Drained | None:
        """Return the result of draining the relay's queue after a load."""
        return self.rundir.checked_result(f"{load}-queue", Drained.from_dict)


def _reports(rundir: RunDir, kind: str, read: Callable[[dict[str, Any]], R]) -> Iterator[tuple[str, R]]:
    """Yield the name of each load and its report of this kind; invalid reports are left out."""
    for load in rundir.names("results", f"-{kind}.json"):
        if (report := rundir.checked_result(f"{load}-{kind}", read)) is not None:
            yield load, report


def _rate(count: float | None, start: float, end: float | None) -> float | None:
    return count / (end - start) if count is not None and end is not None and end > start else None


def _by(points: Iterable[dict[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault(str(point.get(key)), []).append(point)
    return groups
