"""The judgement of a run: was it measured at all, was mail lost, and who set the pace?"""

from typing import Any

from orchestrator import services
from orchestrator.measurements import Machine, Measurements
from orchestrator.scenarios import Outcome, Verdict
from orchestrator.scenarios.relay_throughput.evidence import accounting, instrument, instrument_ceiling
from orchestrator.scenarios.relay_throughput.params import OURS, RUN
from orchestrator.services import Change

BACKLOG = 0.25
"""A relay that delivers less than it accepts by more than this share of it, while load is offered, builds a backlog."""


def judge(measured: Measurements) -> Verdict:
    """Judge one run."""
    carried = measured.delivered_per_s(RUN) or _sent_per_s(measured)
    ceiling = instrument_ceiling(measured)
    machine = measured.machine(RUN)
    mail, harness = accounting(measured, RUN), instrument(measured, RUN)
    evidence = (*mail, *harness)
    missing = [e.fact for e in evidence if e.holds is None]
    broken = [e for e in mail if e.holds is False]
    bound = [e for e in harness if e.holds is False]
    if broken:
        outcome, reason = Outcome.REFUTED, "; ".join(f"{e.fact}: {e.found}, needed {e.needed}" for e in broken)
    elif missing or carried is None or ceiling is None:
        outcome, reason = Outcome.INCONCLUSIVE, f"not measured{_why(measured)}: {', '.join(missing)}"
    elif bound:
        outcome = Outcome.INCONCLUSIVE
        reason = "the instrument may have set the pace: " + "; ".join(
            f"{e.fact} is {e.found}, needed {e.needed}" for e in bound
        )
    else:
        outcome = Outcome.CONFIRMED
        reason = (
            f"every accepted message arrived once and whole; without the relay the same load runs at {ceiling:,.0f} "
            f"messages a second, {ceiling / carried:.1f} times as fast"
        )
    return Verdict(
        outcome=outcome,
        claim="This relay carries every message it accepts"
        + (f", {carried:,.0f} messages a second ({carried * 60:,.0f} a minute)" if carried else "")
        + ", and it was the relay that was measured.",
        reason=reason[0].upper() + reason[1:] + ".",
        evidence=evidence,
        marks=(*(("instrument-bound",) if bound else ()), *_backlog(measured), *_full(machine), *_own(measured)),
        figures={
            "relay_messages_per_s": carried,
            "relay_messages_per_minute": carried * 60 if carried else None,
            "accepted_messages_per_s": measured.accepted_per_s(RUN),
            "delivered_under_load_per_s": measured.delivered_under_load_per_s(RUN),
            "instrument_messages_per_s": ceiling,
            "share_of_instrument": carried / ceiling if carried and ceiling else None,
            "harness_cpu_ms_per_message": _harness_cpu_ms(measured),
            "share_of_machine_cpu": 1 - machine.idle if machine else None,
        },
    )


def _why(measured: Measurements) -> str:
    """Say which service of those that were asked for cannot account for messages."""
    params = measured.params
    silent = [params[role] for role, ours in (("load", OURS), ("sink", "blackhole")) if params.get(role, ours) != ours]
    return f" (no message is accounted for by {' and '.join(silent)})" if silent else ""


def _sent_per_s(measured: Measurements) -> float | None:
    """Return messages a second that the relay's own log calls sent, from the start of the load to the last, to 1 s."""
    load = measured.loads.get(RUN) or measured.offers.get(RUN)
    service = str(measured.params.get("relay"))
    if load is None or service not in services.known():
        return None
    log = services.read_log(service, (line for line in measured.rundir.log("relay") if line[0] >= load.started))
    if log is None or not log.queue:
        return None
    return log.statuses.get("sent", 0) / (log.queue[-1][0] - load.started)


def _backlog(measured: Measurements) -> tuple[str, ...]:
    """Warn of a relay that takes in what it cannot deliver yet: its figure depends on how long that goes on."""
    accepted, delivered = measured.accepted_per_s(RUN), measured.delivered_under_load_per_s(RUN)
    if not accepted or delivered is None or delivered >= (1 - BACKLOG) * accepted:
        return ()
    said = f"the relay accepted {accepted:,.0f} messages a second and delivered {delivered:,.0f} while load was offered"
    return (f"a backlog grew: {said}; the rest went out in the drain, which the figure includes",)


def _full(machine: Machine | None) -> tuple[str, ...]:
    """Warn where the relay had to share all that there is: with CPUs of its own it would carry more."""
    if machine is None or not machine.full:
        return ()
    relay = machine.nodes.get("relay", 0.0)
    had = f"of {machine.cpus} CPUs, the relay had {relay:.2f}, the other nodes {machine.bed - relay:.2f}"
    others = f"the engine, testbed and others {machine.others:.2f}"
    return (f"{1 - machine.idle:.0%} of the machine's CPU was in use while load was offered: {had}, {others}",)


def _own(measured: Measurements) -> tuple[str, ...]:
    """Name what the bed changed in the relay's own files, and what in them can lead mail away."""
    nodes = (measured.facts.get("plan") or {}).get("nodes") or []
    relay: dict[str, Any] = next((node for node in nodes if node["name"] == "relay"), {})
    changes = [str(Change(**change)) for change in relay.get("changes") or ()]
    detours = list(relay.get("detours") or ())
    said = (
        ("the bed changed in the relay's own configuration", changes),
        ("in the relay's own configuration, this can lead mail another way", detours),
    )
    return tuple(f"{what}: {'; '.join(which)}" for what, which in said if which)


def _harness_cpu_ms(measured: Measurements) -> float | None:
    """Return the CPU time of generator and sink together for one delivered message, in milliseconds."""
    load, sink = measured.loads.get(RUN), measured.sinks.get(RUN)
    return 1000 * (load.cpu_s + sink.cpu_s) / sink.delivered if load and sink and sink.delivered else None
