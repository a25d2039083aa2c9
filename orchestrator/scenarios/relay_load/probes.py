"""Search for the number of connections that a relay needs, by probes (short loads); judge()'s evidence from probes.

In a closed loop the number of connections may limit the throughput: a relay that waits 500 ms for a policy service
carries 40 messages a second over 20 connections. Only a load over more connections reveals this limit. The search
doubles the number of connections until the throughput stops growing. If ``--connections`` gives a number, the probes
compare this number with four times as many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from orchestrator.measurements import Measurements
from orchestrator.measurements.kept import Kept
from orchestrator.measurements.verdict import Evidence, Table
from orchestrator.scenarios.relay_load.cpu import Cpu, cpu_of
from orchestrator.services import Purpose

CONNECTIONS = "connections"
"""The file results/connections.json, which holds a ``Connections``."""
FEWEST, MOST = 20, 640
"""The first and the last number of connections that a search tries."""
TIMES = 4
"""A given number of connections is compared with this multiple of the number."""
MORE, MUCH = 1.1, 1.25
"""A throughput counts as larger from this ratio on: MORE if CPU was left, MUCH if no CPU was left (more noise)."""
UNCLEAR = 1.0, 1.4
"""A ratio between these bounds is unclear; both probes are then repeated once."""
ENOUGH = 0.95
"""The run takes the smallest number of connections with at least this share of the best throughput."""
WARM_UP_S = 1.0
"""Seconds left out at the start of a load, while the relay starts its processes; at most a third of the load."""
STEADY = 0.8
"""A load is steady if its throughput is at least this share of the throughput in the probe.

Probes are short, so the two throughputs differ: their ratio is 0.87 to 1.12 if nothing else runs on the machine. If
other processes start between probe and load, the ratio falls to 0.3 to 0.8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Throughput over one number of connections."""

    connections: int
    accepted: float | None
    """Messages a second."""
    carried: float | None
    """Messages delivered a second, the drain included: a relay may accept faster than it delivers."""
    idle: float | None
    """Idle share of the machine's CPU."""
    cpu: Cpu | None
    """CPU state during the probe; ``None``: not recorded."""


class Connections(Kept):
    """Content of results/connections.json."""

    connections: int
    """Number of connections of the run."""
    given: bool
    """Whether the user gave the number with ``--connections``."""


def _saved(measured: Measurements) -> Connections | None:
    return measured.rundir.checked_result(CONNECTIONS, Connections.from_dict)


def used(measured: Measurements) -> int | None:
    """Return the number of connections of the run."""
    saved = _saved(measured)
    return saved.connections if saved else None


def name(connections: int, number: int = 1) -> str:
    """Return the name of a probe's load; ``number`` counts the probes with this many connections, from 1."""
    return f"probe-{connections}" if number == 1 else f"probe-{connections}-{number}"


def read(measured: Measurements) -> tuple[Probe, ...]:
    """Return the probes of a run, fewest connections first; probes over equally many connections are averaged."""
    loads: dict[int, list[str]] = {}
    for load in measured.sent(Purpose.PROBE):
        if limit := measured.loads[load].connections_limit:
            loads.setdefault(limit, []).append(load)
    return tuple(_probe(measured, connections, loads[connections]) for connections in sorted(loads))


def _probe(measured: Measurements, connections: int, loads: Sequence[str]) -> Probe:
    machines = [machine for load in loads if (machine := measured.machine(load))]
    cpus = [cpu for load in loads if (cpu := cpu_of(measured, load))]
    return Probe(
        connections=connections,
        accepted=_mean(measured.accepted_per_s(load) for load in loads),
        carried=_mean(_warm(measured, load) for load in loads),
        idle=_mean(machine.idle for machine in machines),
        cpu=next((cpu for cpu in Cpu if cpu in cpus), None),
    )


def _warm(measured: Measurements, load: str) -> float | None:
    """Return messages delivered a second after the warm-up of the relay."""
    return measured.delivered_per_s(load, after=min(WARM_UP_S, measured.loads[load].seconds / 3))


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


# ------------------------------------------------------------------------------------------------------- the search


def following(tried: Sequence[Probe]) -> int | None:
    """Return the number of connections to try next; ``None`` ends the search.

    The search ends at ``MOST``, or after two probes in a row without a gain, or after one such probe if the bed
    used up the CPU.
    """
    if not tried:
        return FEWEST
    last = tried[-1]
    _, since = _last_gain(tried)
    if last.connections >= MOST or since >= (1 if last.cpu is Cpu.SPENT else 2):
        return None
    return 2 * last.connections


def _last_gain(tried: Sequence[Probe]) -> tuple[Probe, int]:
    """Return the last probe with a gain, and the number of probes after it.

    The first probe is a gain. Each later gain has at least ``MORE`` times the throughput of the gain before, so small
    steps add up: of 400, 436 and 475 messages a second, the third is a gain.
    """
    best, since = tried[0], 0
    for probe in tried[1:]:
        best, since = (probe, 0) if _ratio(best, probe) >= MORE else (best, since + 1)
    return best, since


def enough(tried: Sequence[Probe]) -> int:
    """Return the smallest number of connections with at least ``ENOUGH`` of the best throughput."""
    best = max(map(_carried, tried))
    return min(probe.connections for probe in tried if _carried(probe) >= ENOUGH * best)


def unclear(fewer: Probe, more: Probe) -> bool:
    """Return whether two probes are too close to decide if more connections carry more mail."""
    return UNCLEAR[0] <= _ratio(fewer, more) < UNCLEAR[1]


def _carried(probe: Probe) -> float:
    return probe.carried or 0.0


def _ratio(fewer: Probe, more: Probe) -> float:
    return _carried(more) / _carried(fewer) if fewer.carried else float("inf") if more.carried else 1.0


# ------------------------------------------------------------------------------------------------------ the verdict


def _other_generator(measured: Measurements, load: str) -> bool:
    """Return whether a load and the probes came from different generators, so that their rates are not comparable."""
    senders = {measured.loads[name].generator for name in measured.sent(Purpose.PROBE)}
    return bool(senders) and load in measured.loads and measured.loads[load].generator not in senders


def pace(measured: Measurements, load: str) -> tuple[Evidence, ...]:
    """Return the evidence that the number of connections did not limit a load; empty if another generator probed.

    Without two probes to compare, it is enough that the load used up the CPU.
    """
    if _other_generator(measured, load):
        return ()
    pair = _compared(read(measured), used(measured))
    if pair is None:
        limit, holds = MORE, True if cpu_of(measured, load) is Cpu.SPENT else None
        found = "the CPU was used up" if holds else "not measured"
    else:
        fewer, more, cpu = pair
        limit, ratio = MORE if cpu is Cpu.LEFT else MUCH, _ratio(fewer, more)
        holds = ratio < limit
        found = f"{_carried(more):,.0f} messages a second over {_connections(more)}, {_carried(fewer):,.0f} over "
        found += f"{_connections(fewer)}: {ratio:.2f} times as many"
        if fewer.idle is not None:
            found += f"; {fewer.idle:.0%} of the CPU was idle over {_connections(fewer)}"
    return (
        Evidence(
            fact="throughput over more connections",
            found=found,
            needed=f"less than {limit:.2f} times as many",
            holds=holds,
            source="results/probe-*.json",
        ),
    )


def steady(measured: Measurements, loads: Sequence[str]) -> tuple[Evidence, ...]:
    """Return the evidence that loads carry about as much as the probe over the same number of connections.

    The median of several loads counts. The result is empty without such a probe, or if another generator sent it.
    """
    own = next((probe for probe in read(measured) if probe.connections == used(measured)), None)
    if own is None or not loads or _other_generator(measured, loads[0]):
        return ()
    rates = [rate for load in loads if load in measured.loads and (rate := _warm(measured, load))]
    carried = median(rates) if rates else None
    taken = any(cpu_of(measured, load) is Cpu.TAKEN for load in loads)
    if carried is None or not own.carried:
        found, holds = "not measured", None
    else:
        over = f"the probe over the same {_connections(own)}"
        found = f"{carried:,.0f} messages a second, {own.carried:,.0f} in {over}: {carried / own.carried:.2f} times"
        found += "; other processes used this machine's CPU" if taken else ""
        holds = carried >= STEADY * own.carried
    return (
        Evidence(
            fact="throughput, as a share of its probe's",
            found=found,
            needed=f"at least {STEADY} times",
            holds=holds,
            source="results/probe-*.json",
        ),
    )


def _compared(tried: Sequence[Probe], taken: int | None) -> tuple[Probe, Probe, Cpu | None] | None:
    """Return two probes to compare, and the CPU state of the run's own probe (the one over ``taken`` connections).

    The run's own probe is compared with the best probe over more connections; if there is none, with the last gain
    over fewer.
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


def advice(measured: Measurements) -> str:
    """Return advice for the user of a run whose number of connections set the pace."""
    saved = _saved(measured)
    if saved and saved.given:
        return "Omit --connections; the run then finds the number"
    most = max((probe.connections for probe in read(measured)), default=MOST)
    return f"No number up to {most:,} was enough: give a larger one with --connections"


def tables(measured: Measurements) -> tuple[Table, ...]:
    """Return a table of the probes."""
    tried, taken = read(measured), used(measured)
    rows = (
        (
            f"{probe.connections:,}",
            probe.accepted,
            probe.carried,
            None if probe.idle is None else 100 * probe.idle,
            "taken for the run" if probe.connections == taken else "",
        )
        for probe in tried
    )
    columns = ("connections", "accepted/s", "delivered/s", "CPU idle %", "")
    title = "Short loads through the relay, by number of connections"
    return (Table(title=title, columns=columns, rows=tuple(rows), bars="delivered/s"),) if tried else ()
