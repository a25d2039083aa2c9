"""judge(), its evidence and outcomes: was the rate measured, was mail lost or uncounted, and what limited the rate?"""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator import services
from orchestrator.measurements import Latency, Machine, Measurements
from orchestrator.measurements.verdict import Evidence, Outcome, Verdict, sentence, unknown, unmet
from orchestrator.report.figures import number
from orchestrator.scenarios.relay_load import evidence, probes
from orchestrator.scenarios.relay_load.cpu import Cpu, cpu_of
from orchestrator.scenarios.relay_load.evidence import CONCURRENCY, DISTURBED, INSTRUMENT, UNSTEADY
from orchestrator.scenarios.relay_load.params import OURS
from orchestrator.scenarios.relay_throughput.params import RUN, Params
from orchestrator.services import Override, Purpose, Role

BACKLOG = 0.25
"""Largest share of the accepted rate that a relay may fail to deliver under load; above it, a backlog grows."""
TAKEN = 0.99
"""A relay keeps up only if it accepts at least this share of the offered messages."""
OUT = 0.95
"""Minimum share of accepted messages delivered within ``TAIL_S`` of the last reply; a long run needs a higher share."""
TAIL_S = 1.0
"""Largest queue of a relay that keeps up: as many messages as are offered in this time, in seconds."""
QUIET = "Repeat the run on a quiet machine"
LATE = 0.01
"""A generator is on time if it starts at most this share of its messages over 10 ms late."""


def judge(measured: Measurements, params: Params) -> Verdict:
    """Judge one run: how much mail did the relay carry, and which part limited the rate?"""
    rated = params.rate
    carried = measured.delivered_per_s(RUN) or _sent_per_s(measured, params)
    ceiling = evidence.instrument_ceiling(measured)
    machine = measured.machine(RUN)
    tried = [name for name in measured.sent(Purpose.PROBE) if measured.loads[name].accepted]
    load, sink = measured.loads.get(RUN), measured.sinks.get(RUN)
    late = load.late / load.offered if load and load.late is not None and load.offered else None
    on_time = Evidence.at_most("messages started over 10 ms late", late, LATE, f"results/{RUN}-load.json")
    facts = _Facts(
        mail=evidence.worst(e for name in (RUN, *tried) for e in evidence.accounting(measured, name)),
        harness=evidence.instrument(measured, RUN),
        pace=(on_time,) if rated else probes.pace(measured, RUN),
        steady=() if rated else probes.steady(measured, [RUN]),
        kept=_kept(measured, rated) if rated else (),
    )
    outcome, reason, marks = _outcome(measured, params, facts)
    if outcome is Outcome.CONFIRMED:
        reason = "every accepted message arrived once and whole; " + _room(carried, ceiling, rated)
    response = measured.latency(RUN).get("response") if rated else None
    harness_cpu_s = load.cpu_s + sink.cpu_s if load and sink else 0.0
    return Verdict(
        outcome=outcome,
        claim=_claim(outcome, carried, rated, response),
        reason=sentence(reason),
        evidence=(*facts.mail, *facts.kept, *facts.pace, *facts.steady, *facts.harness),
        marks=(*marks, *_marks(measured, machine)),
        figures={
            "relay_messages_per_s": carried,
            "relay_messages_per_minute": carried * 60 if carried else None,
            "accepted_messages_per_s": measured.accepted_per_s(RUN),
            "delivered_under_load_per_s": measured.delivered_under_load_per_s(RUN),
            **({"response_p50_ms": _ms(response, 50), "response_p99_ms": _ms(response, 99)} if rated else {}),
            "instrument_messages_per_s": ceiling,
            "share_of_instrument": carried / ceiling if carried and ceiling else None,
            "harness_cpu_ms_per_message": 1000 * harness_cpu_s / sink.delivered if sink and sink.delivered else None,
            "share_of_machine_cpu": 1 - machine.idle if machine else None,
        },
        tables=probes.tables(measured),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """Groups of evidence; the text below each group is the meaning of a failure in that group."""

    mail: tuple[Evidence, ...]
    """The relay loses or spoils mail."""
    harness: tuple[Evidence, ...]
    """The instrument set the pace."""
    pace: tuple[Evidence, ...]
    """The load set the pace: it had too few connections, or the generator was late."""
    steady: tuple[Evidence, ...]
    """The relay carried much more in the probe over the same number of connections."""
    kept: tuple[Evidence, ...]
    """The relay does not keep up with the rate."""


_Judged = tuple[Outcome, str, tuple[str, ...]]
"""(outcome, reason, marks); the reason is empty if CONFIRMED."""


def _outcome(measured: Measurements, params: Params, facts: _Facts) -> _Judged:
    """Judge the groups of evidence, the most serious failure first."""
    if broken := unmet(facts.mail):
        return Outcome.REFUTED, broken, ()
    everything = (*facts.mail, *facts.kept, *facts.pace, *facts.steady, *facts.harness)
    if missing := unknown(everything):
        return Outcome.INCONCLUSIVE, f"not measured{_why(params)}: {missing}", ()
    if bound := unmet(facts.harness):
        return Outcome.INCONCLUSIVE, f"the instrument may have set the pace: {bound}", (INSTRUMENT,)
    return _rated(measured, facts) if facts.kept else _closed(measured, facts)


def _closed(measured: Measurements, facts: _Facts) -> _Judged:
    """Judge a load without a given rate: CONFIRMED if neither connections nor other processes set the pace."""
    machine = measured.machine(RUN) if cpu_of(measured, RUN) is Cpu.TAKEN else None
    marks = (DISTURBED,) if machine else ()
    if few := [e.found for e in facts.pace if e.holds is False]:
        reason = f"the number of connections set the pace: {'; '.join(few)}. {probes.advice(measured)}"
        return Outcome.INCONCLUSIVE, reason, (CONCURRENCY, *marks)
    if machine:
        share = f"processes outside the bed used {machine.others:.2f} of {machine.cpus} CPUs, and hardly any was idle"
        return Outcome.INCONCLUSIVE, f"other processes set the pace: {share}. {QUIET}", marks
    if drop := [e.found for e in facts.steady if e.holds is False]:
        reason = f"the relay's rate was not steady between its probe and the run: {'; '.join(drop)}"
        return Outcome.INCONCLUSIVE, f"{reason}. {QUIET}, or with a longer --probe", (UNSTEADY,)
    return Outcome.CONFIRMED, "", ()


def _rated(measured: Measurements, facts: _Facts) -> _Judged:
    """Judge a load at a given rate: REFUTED if the relay itself fell behind."""
    late = unmet(facts.pace)
    connections = probes.used(measured)
    if not late or not connections or measured.connections_at_most(RUN) < connections:
        connections = None  # no message waited for a connection
    if late and connections is None:
        return Outcome.INCONCLUSIVE, f"the instrument may have set the pace: {late}", (INSTRUMENT,)
    behind = "; ".join(filter(None, (unmet(facts.kept), late)))
    if not behind:
        return Outcome.CONFIRMED, "", ()
    cpu = cpu_of(measured, RUN)
    if cpu is Cpu.TAKEN:
        return Outcome.INCONCLUSIVE, f"other processes used the CPU, and the relay fell behind: {behind}", (DISTURBED,)
    if connections and cpu is not Cpu.SPENT:
        reason = f"messages waited for one of {connections:,} connections, with CPU left: {behind}"
        return Outcome.INCONCLUSIVE, f"{reason}; give more with --connections", (CONCURRENCY,)
    return Outcome.REFUTED, f"the relay did not keep up: {behind}", ()


def _kept(measured: Measurements, rated: float) -> tuple[Evidence, ...]:
    """Return the evidence that the relay kept up with the rate: it accepts and delivers nearly all of the mail."""
    load = measured.loads.get(RUN)
    out = measured.delivered_by(RUN, load.ended + TAIL_S) if load else None
    accepted = load.accepted / load.offered if load and load.accepted is not None and load.offered else None
    delivered = out / load.accepted if load and load.accepted and out is not None else None
    least = max(OUT, 1 - rated * TAIL_S / load.accepted) if load and load.accepted else OUT
    return (
        _at_least("messages accepted, of those offered", accepted, TAKEN, f"results/{RUN}-load.json"),
        _at_least(
            f"messages delivered {TAIL_S:.0f} s after the last reply, of those accepted",
            delivered,
            least,
            f"results/{RUN}-sink.json, series/sink.jsonl",
        ),
    )


def _at_least(fact: str, found: float | None, least: float, source: str) -> Evidence:
    return Evidence.of(fact, found, f"at least {least:.2%}", lambda share: share >= least, source, "{:.2%}")


def _claim(outcome: Outcome, carried: float | None, rated: float | None, response: Latency | None) -> str:
    """Return the claim; without figures if the run is inconclusive."""
    known = outcome is not Outcome.INCONCLUSIVE
    if rated is None:
        figure = f", {carried:,.0f} messages a second ({carried * 60:,.0f} a minute)" if carried and known else ""
        return f"This relay carries every message it accepts{figure}, and it was the relay that was measured."
    times = ""
    if response and outcome is Outcome.CONFIRMED:
        half, most = (number(response.at(p), 1e3) for p in (50, 99))
        times = f": half of them are accepted within {half} ms of the time they are due, 99% within {most} ms"
    return f"This relay carries the offered {rated:,g} messages a second{times}."


def _room(carried: float | None, ceiling: float | None, rated: float | None) -> str:
    """Return a clause of the claim on the instrument's own ceiling, the rate without the relay."""
    if not carried or not ceiling:
        return "the instrument's own limit is not known"
    if rated:
        return f"without the relay the instrument reaches {ceiling:,.0f} messages a second"
    times = f"{ceiling / carried:.1f} times as fast"
    return f"without the relay the same load runs at {ceiling:,.0f} messages a second, {times}"


def _ms(latency: Latency | None, percentile: float) -> float | None:
    return 1000 * latency.at(percentile) if latency else None


def _why(params: Params) -> str:
    """Return a remark on the chosen services that do not account for every message; empty if all do."""
    silent = [name for name, ours in ((params.load, OURS), (params.sink, "blackhole")) if name != ours]
    return f" (no message is accounted for by {' and '.join(silent)})" if silent else ""


def _sent_per_s(measured: Measurements, params: Params) -> float | None:
    """Return messages per second that the relay sent since the start of the load, from its log (times to 1 s)."""
    load, relay = measured.loads.get(RUN), measured.name_of(Role.RELAY)
    service = services.known().get(params.relay)  # None: only another version has this service
    if load is None or not relay or service is None:
        return None
    log = service.read_log(line for line in measured.rundir.log(relay) if line[0] >= load.started)
    if log is None or not log.queue:
        return None
    return log.statuses.get("sent", 0) / (log.queue[-1][0] - load.started)


def _marks(measured: Measurements, machine: Machine | None) -> Iterator[str]:
    """Yield warnings: a backlog grew, the CPU was used up, the relay ran with a user's own files."""
    accepted, delivered = measured.accepted_per_s(RUN), measured.delivered_under_load_per_s(RUN)
    if accepted and delivered is not None and delivered < (1 - BACKLOG) * accepted:
        yield (
            f"a backlog grew: the relay accepted {accepted:,.0f} messages a second and delivered {delivered:,.0f} "
            "while load was offered; the rest went out in the drain, which the figure includes"
        )
    relay = measured.planned(Role.RELAY)
    if machine and machine.full:
        share = machine.nodes.get(measured.name_of(Role.RELAY), 0.0)
        had = f"of {machine.cpus} CPUs, the relay had {share:.2f}, the other nodes {machine.bed - share:.2f}"
        others = f"the engine, testbed and others {machine.others:.2f}"
        yield f"{1 - machine.idle:.0%} of the machine's CPU was in use while load was offered: {had}, {others}"
    if changes := [str(Override(**change)) for change in relay.get("changes") or ()]:
        yield f"the bed changed the relay's own configuration: {'; '.join(changes)}"
    if detours := relay.get("detours"):
        yield f"settings of the relay's own configuration that can route mail elsewhere: {'; '.join(detours)}"
