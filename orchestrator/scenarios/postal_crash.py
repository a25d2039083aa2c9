"""Does postal survive a server that breaks a session off, and does our generator?

A sink resets the connection after MAIL, or closes it after RCPT. postal keeps writing, prints "Can't write to socket."
in a loop and dies of SIGSEGV. Our generator counts the errors by cause and completes. Debian's postal (0.76) has no
fix. The same run proves a workaround: another generator.
"""

from signal import Signals
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.agents.contract import LoadOrder
from orchestrator.bed.model import Bed, Families, NodeSpec, Release
from orchestrator.measurements import Measurements
from orchestrator.measurements.verdict import Evidence, Outcome, Quote, Table, Verdict, sentence, unknown, unmet
from orchestrator.scenarios import OverIPv4, Scenario
from orchestrator.services import Role
from orchestrator.up.bed import RecordedBed

POSTAL, OURS = "postal", "ours"
SIZE, PER_CONNECTION = 2048, 10
SIGSEGV = 139
"""Exit status after signal 11 (128 + 11)."""
MESSAGE = "Can't write to socket."
_RULES = {
    "reset-after-mail": {"on": "mail", "then": "reset"},
    "close-after-rcpt": {"on": "rcpt", "then": "disconnect"},
}
OVERTIME = 10.0
"""Seconds after the end of a load in which our generator may still receive replies."""


class Params(OverIPv4):
    """Parameters of the scenario."""

    fault: Literal["reset-after-mail", "close-after-rcpt", "none"] = "reset-after-mail"
    """Rule of the sink: reset the connection (RST) at MAIL, or close it at RCPT."""
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    """The sink applies the rule to every n-th MAIL (reset) or RCPT (close)."""
    seconds: Annotated[float, Field(ge=1, le=3600)] = 8.0
    """Duration of each generator's load, in seconds."""
    connections: Annotated[int, Field(ge=1, le=1000)] = 20
    """Maximum number of open connections of each generator."""
    release: Release = "bookworm"
    """Debian release of postal."""


class PostalCrash(Scenario[Params]):
    """The scenario."""

    name = "postal-crash"
    question = "Does postal survive a server that breaks a session off, and does our generator?"
    params = Params

    def bed(self, params: Params) -> Bed:
        """Return a bed of three nodes: a sink with the rule, and both generators."""
        rules = [{**_RULES[params.fault], "every": params.every}] if params.fault in _RULES else []
        return Bed(
            name="postal-crash",
            domains=16,
            families=Families(params.families),
            nodes={
                "sink": NodeSpec(service="blackhole", settings={"rules": rules}),
                "load": NodeSpec(service="smtp-load"),
                "postal": NodeSpec(service="postal", release=params.release),
            },
        )

    def drive(self, bed: RecordedBed, params: Params) -> None:
        """Send with postal, then with our generator, both straight to the sink."""
        order = LoadOrder(
            seconds=params.seconds, connections=params.connections, per_connection=PER_CONNECTION, sizes=[SIZE]
        )
        bed.send(POSTAL, order, to=Role.SINK, by=POSTAL)
        bed.send(OURS, order, to=Role.SINK)

    def judge(self, measured: Measurements, params: Params) -> Verdict:
        """Judge one run: did postal die of the fault, and did our generator account for every message?"""
        evidence = (*_postal(measured), *_ours(measured, params))
        crash, ours = measured.loads.get(POSTAL), measured.loads.get(OURS)
        sink = measured.sinks.get(OURS)
        if sink and not sink.broken and params.fault != "none":
            outcome = Outcome.INCONCLUSIVE
            reason = "the sink broke no session off: choose a smaller --every, or more --seconds"
        elif wrong := unmet(evidence):
            outcome, reason = Outcome.REFUTED, wrong
        elif (missing := unknown(evidence)) or crash is None or ours is None:
            outcome, reason = Outcome.INCONCLUSIVE, f"not measured: {missing}"
        else:
            outcome = Outcome.CONFIRMED
            reason = (
                f"postal died of SIGSEGV after {1000 * crash.seconds:,.0f} ms and {_failures(measured):,} times "
                f"{MESSAGE!r}; our generator counted {sum(ours.failed.values()):,} errors and went on for "
                f"{ours.seconds:.1f} s. Debian's postal has no fix: the fix is another generator"
            )
        return Verdict(
            outcome=outcome,
            claim=f"postal dies of a server that {_CAUSES[params.fault]}; our generator counts the errors and goes on.",
            reason=sentence(reason),
            evidence=evidence,
            figures={
                "postal_until_death_ms": 1000 * crash.seconds if crash and not crash.cut_off else None,
                "postal_cpu_ms": 1000 * crash.cpu_s if crash else None,
                "postal_cannot_write_lines": _failures(measured) if crash else None,
                "ours_errors": sum(ours.failed.values()) if ours else None,
            },
            tables=(_table(measured),),
            quotes=tuple(
                Quote(source=POSTAL if line.count == 1 else f"{POSTAL}, {line.count:,} times", t=line.t, text=line.text)
                for line in (crash.printed if crash else ())
            ),
        )


_CAUSES = {
    "reset-after-mail": "resets the connection after MAIL",
    "close-after-rcpt": "closes the connection after RCPT",
    "none": "breaks no session off",
}


def _failures(measured: Measurements) -> int:
    """Return the number of lines with postal's error message (``MESSAGE``)."""
    crash = measured.loads.get(POSTAL)
    return sum(line.count for line in crash.printed if line.text == MESSAGE) if crash else 0


def _ended(status: int) -> str:
    number = status - 128
    return f"status {status}" + (f" ({Signals(number).name})" if number in set(Signals) else "")


def _postal(measured: Measurements) -> tuple[Evidence, ...]:
    source, crash = f"results/{POSTAL}-load.json", measured.loads.get(POSTAL)
    return (
        Evidence.of(
            "how postal ended",
            crash.exit_status if crash else None,
            f"{_ended(SIGSEGV)}, before the end of its time",
            lambda status: status == SIGSEGV,
            source,
            "at the end of its time" if crash and crash.cut_off else _ended(crash.exit_status) if crash else "",
        ),
        Evidence.some(f"lines {MESSAGE!r}", _failures(measured) if crash else None, source),
    )


def _ours(measured: Measurements, params: Params) -> tuple[Evidence, ...]:
    source = f"results/{OURS}-load.json, results/{OURS}-sink.json"
    ours, sink, count = measured.loads.get(OURS), measured.sinks.get(OURS), measured.accounting(OURS)
    failed = sum(ours.failed.values()) if ours else 0
    connections = f" of {sink.connections:,}" if sink else ""
    allowed = params.seconds + OVERTIME
    return (
        Evidence.some("sessions that the sink broke off", sink.broken if sink else None, source, of=connections),
        Evidence.some("errors that our generator counted", failed if ours else None, source),
        Evidence.of(
            "seconds until our generator ended",
            ours.seconds if ours else None,
            f"at most {allowed:.0f}",
            lambda seconds: seconds <= allowed,
            source,
            "{:.1f}",
        ),
        Evidence.none(
            "messages of our generator without an outcome",
            count.offered - count.accepted - failed if count else None,
            source,
            of=f" of {count.offered:,}" if count else "",
        ),
        Evidence.none("messages of our generator accepted, but lost", count.lost if count else None, source),
    )


def _table(measured: Measurements) -> Table:
    """Return a table of both generators."""
    crash, ours = measured.loads.get(POSTAL), measured.loads.get(OURS)
    causes = ", ".join(f"{count:,} x {cause}" for cause, count in ours.failed.items()) if ours else ""
    rows: list[tuple[str | float | None, ...]] = []
    if crash:
        ended = "ended at its time" if crash.cut_off else _ended(crash.exit_status)
        rows.append((POSTAL, ended, crash.seconds, crash.cpu_s, crash.arrived, f"{_failures(measured):,} x {MESSAGE}"))
    if ours:
        rows.append((OURS, "ended at its time", ours.seconds, ours.cpu_s, ours.accepted, causes or "none"))
    return Table(
        title="The same sink, two generators",
        columns=("generator", "how it ended", "seconds", "CPU s", "messages accepted", "errors"),
        rows=tuple(rows),
    )


SCENARIO = PostalCrash()
