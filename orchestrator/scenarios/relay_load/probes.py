"""Search for the number of connections that a relay needs: short loads, each over another number.

The connections of a closed loop are busy whatever the relay could do, so the figure of one number alone may be the
number's: a relay that waits 500 ms for a policy service carries 40 messages a second over 20 connections. Only a
larger number shows it. Without ``--connections`` the numbers double until more of them carry no more; a given number
is held against four times as many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import Kept
from orchestrator.scenarios import Evidence, Table
from orchestrator.scenarios.relay_load.params import RelayLoad
from orchestrator.services import Purpose

FOUND = "connections"
"""results/connections.json: ``Found``."""
FEWEST, MOST = 20, 640
"""The first number that is tried, and the last."""
TIMES = 4
"""A given number is compared with this multiple of it."""
MORE, MUCH = 1.1, 1.25
"""Ratio of throughputs that counts as more: MORE with CPU left, MUCH with the CPU used up (noise is larger)."""
UNCLEAR = 1.0, 1.4
"""A ratio between these is measured a second time."""
ENOUGH = 0.95
"""The number for the run is the smallest that carries this share of the best."""
WARM_UP_S = 1.0
"""Left out at the start of each probe: the relay starts its processes."""
AT_ITS_LIMIT = 0.9
"""A relay that uses this share of the CPU time that it may use is at its limit."""


class Cpu(StrEnum):
    """CPU state during a load."""

    LEFT = "left"
    SPENT = "spent"
    """The bed used all of it, or the relay reached its CPU limit."""
    TAKEN = "taken"
    """Others used it up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What one number of connections carried."""

    connections: int
    accepted: float | None
    """Messages a second."""
    carried: float | None
    """Messages delivered a second, the drain included: a relay may take in faster than it delivers."""
    idle: float | None
    """Share of the machine's CPU."""
    cpu: Cpu | None
    """``None``: not recorded."""


class Found(Kept):
    """results/connections.json."""

    connections: int
    """Of the run."""
    given: bool
    """By the person who asked."""


def _found(measured: Measurements) -> Found | None:
    return measured.rundir.checked_result(FOUND, Found.model_validate)


def used(measured: Measurements) -> int | None:
    """Return the number of connections of the run."""
    found = _found(measured)
    return found.connections if found else None


def name(connections: int, number: int = 1) -> str:
    """Return the name of a probe's load; ``number`` counts the probes with this many connections, from 1."""
    return f"probe-{connections}" if number == 1 else f"probe-{connections}-{number}"


def read(measured: Measurements, params: RelayLoad) -> tuple[Probe, ...]:
    """Return the probes of a run by their number of connections; of a number tried twice, the means."""
    loads: dict[int, list[str]] = {}
    for load in measured.sent(Purpose.PROBE):
        if limit := measured.loads[load].connections_limit:
            loads.setdefault(limit, []).append(load)
    return tuple(_probe(measured, params, connections, loads[connections]) for connections in sorted(loads))


def _probe(measured: Measurements, params: RelayLoad, connections: int, loads: Sequence[str]) -> Probe:
    machines = [machine for load in loads if (machine := measured.machine(load))]
    cpus = [cpu for load in loads if (cpu := cpu_of(measured, load))]
    warm_up = min(WARM_UP_S, params.probe / 3)
    return Probe(
        connections=connections,
        accepted=_mean(measured.accepted_per_s(load) for load in loads),
        carried=_mean(measured.delivered_per_s(load, after=warm_up) for load in loads),
        idle=_mean(machine.idle for machine in machines),
        cpu=next((cpu for cpu in Cpu if cpu in cpus), None),
    )


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def cpu_of(measured: Measurements, load: str) -> Cpu | None:
    """Say what was left of the CPU while a load went on."""
    machine, span = measured.machine(load), measured.span(load)
    if machine is None or span is None:
        return None
    limits = ((measured.facts.get("bed") or {}).get("nodes") or {}).get("relay", {}).get("limits") or {}
    relay, allowed = measured.use("relay", span), limits.get("cpus")
    if relay and allowed and relay.cores >= AT_ITS_LIMIT * allowed:
        return Cpu.SPENT
    if not machine.full:
        return Cpu.LEFT
    return Cpu.TAKEN if machine.starved else Cpu.SPENT


# ------------------------------------------------------------------------------------------------------- the search


def following(tried: Sequence[Probe]) -> int | None:
    """Return the number of connections to try next; ``None``: more carry no more, or there are no more to try.

    One number that gains nothing is enough where the bed has used the CPU up; else two in a row.
    """
    if not tried:
        return FEWEST
    last = tried[-1]
    _, since = _last_gain(tried)
    if last.connections >= MOST or since >= (1 if last.cpu is Cpu.SPENT else 2):
        return None
    return 2 * last.connections


def _last_gain(tried: Sequence[Probe]) -> tuple[Probe, int]:
    """Return the last probe that gained on the one that gained before it, and how many came after it.

    Small gains add up: of 400, 436 and 475 messages a second the third is a gain on the first.
    """
    best, since = tried[0], 0
    for probe in tried[1:]:
        best, since = (probe, 0) if _ratio(best, probe) >= MORE else (best, since + 1)
    return best, since


def enough(tried: Sequence[Probe]) -> int:
    """Return the smallest number of connections that carries about as much as the best."""
    best = max(map(_carried, tried))
    return min(probe.connections for probe in tried if _carried(probe) >= ENOUGH * best)


def unclear(fewer: Probe, more: Probe) -> bool:
    """Say whether one measurement of both does not tell if the larger number carries more."""
    return UNCLEAR[0] <= _ratio(fewer, more) < UNCLEAR[1]


def _carried(probe: Probe) -> float:
    return probe.carried or 0.0


def _ratio(fewer: Probe, more: Probe) -> float:
    return _carried(more) / _carried(fewer) if fewer.carried else float("inf") if more.carried else 1.0


# ------------------------------------------------------------------------------------------------------ the verdict


def pace(measured: Measurements, load: str, params: RelayLoad) -> Evidence:
    """Say whether more connections than those of this load carry more: then their number has set the pace.

    Without a larger number that was tried, the CPU can tell: a load that used it up was not held up by its connections.
    """
    tried = read(measured, params)
    pair = _compared(tried, used(measured))
    if pair is None:
        spent = cpu_of(measured, load) is Cpu.SPENT
        return _evidence("the CPU was used up" if spent else "not measured", MORE, holds=True if spent else None)
    fewer, more, cpu = pair
    limit = MORE if cpu is Cpu.LEFT else MUCH
    ratio = _ratio(fewer, more)
    found = f"{_carried(more):,.0f} messages a second over {_connections(more)}, {_carried(fewer):,.0f} over "
    found += f"{_connections(fewer)}: {ratio:.2f} times as many"
    if fewer.idle is not None:
        found += f"; {fewer.idle:.0%} of the CPU was idle over {_connections(fewer)}"
    return _evidence(found, limit, holds=ratio < limit)


def _compared(tried: Sequence[Probe], taken: int | None) -> tuple[Probe, Probe, Cpu | None] | None:
    """Return the number that was used and the best larger one; of the largest that was tried, the last gain before it.

    The CPU is that of the number that was used.
    """
    own = next((probe for probe in tried if probe.connections == taken), None)
    if own is None or len(tried) < 2:
        return None
    larger = [probe for probe in tried if probe.connections > own.connections]
    if larger:
        return own, max(larger, key=_carried), own.cpu
    return _last_gain(tried[:-1])[0], own, own.cpu


def _connections(probe: Probe) -> str:
    return f"{probe.connections:,} connection{'s' if probe.connections > 1 else ''}"


def _evidence(found: str, limit: float, *, holds: bool | None) -> Evidence:
    return Evidence(
        fact="what more connections carry",
        found=found,
        needed=f"less than {limit:.2f} times as many",
        holds=holds,
        source="results/probe-*.json",
    )


def advice(measured: Measurements, params: RelayLoad) -> str:
    """Say what to do where the number of connections has set the pace."""
    found = _found(measured)
    if found and found.given:
        return "Leave --connections out, and the run finds their number"
    most = max((probe.connections for probe in read(measured, params)), default=MOST)
    return f"No number up to {most:,} was enough: give a larger one with --connections"


def tables(measured: Measurements, params: RelayLoad) -> tuple[Table, ...]:
    """Set the numbers that were tried side by side."""
    tried = read(measured, params)
    taken = used(measured)
    if not tried:
        return ()
    return (
        Table(
            title="Short loads through the relay, by number of connections",
            columns=("connections", "accepted/s", "delivered/s", "CPU idle %", ""),
            rows=tuple(
                (
                    f"{probe.connections:,}",
                    probe.accepted,
                    probe.carried,
                    None if probe.idle is None else 100 * probe.idle,
                    "taken for the run" if probe.connections == taken else "",
                )
                for probe in tried
            ),
            bars="delivered/s",
        ),
    )
