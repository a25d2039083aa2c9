"""judge(), its evidence, figures and quotes: did look-ups fail because the table was full, and did the fix help?"""

from collections.abc import Iterator, Mapping

from orchestrator.measurements import Measurements
from orchestrator.measurements.verdict import Cell, Evidence, Outcome, Quote, Table, Verdict
from orchestrator.scenarios.neighbour_overflow.params import CONNECT_TIMEOUT_S, FIXED, REPORTED, Params
from orchestrator.scenarios.neighbour_overflow.readings import PassReadings

AMONG_THEMSELVES = 6
"""Number of entries that the nodes need for each other while mail is sent."""


def judge(measured: Measurements, params: Params) -> Verdict:
    """Judge one run: did look-ups or connections fail because the table was full, and did the fix avoid that?"""
    again = measured.phase(f"fix {params.fix}")
    messages = min(params.messages, params.addresses)
    reported = PassReadings.read(measured, REPORTED, messages, again.start if again else float("inf"))
    fixed = PassReadings.read(measured, FIXED, messages, float("inf")) if params.fix else None
    outcome, reason = _outcome(reported, fixed, params.fix)
    passes = {name: r for name, r in (("as reported", reported), (f"with the fix {params.fix}", fixed)) if r}
    limit = f", which holds {reported.limit:,} entries" if reported else ""
    return Verdict(
        outcome=outcome,
        claim=f"A node that talks to {params.addresses:,} addresses of its link overflows the kernel's neighbour table"
        f"{limit}: look-ups, connections or deliveries fail"
        + (f"; with the fix {params.fix} none does." if params.fix else "."),
        reason=reason,
        evidence=tuple(e for name, r in passes.items() for e in _evidence(name, r, wanted=r is reported)),
        marks=(f"scaled: smtp_connect_timeout is {CONNECT_TIMEOUT_S} s here, and 30 s by default",),
        figures=_figures(reported, fixed),
        tables=(
            Table.across("What failed", {name: _failures(r) for name, r in passes.items()}),
            Table.across("Errors that programs get", {name: _errors(r) for name, r in passes.items()}, "call"),
        )
        if passes
        else (),
        quotes=tuple(quote for r in passes.values() for quote in _quotes(r)),
    )


def _outcome(reported: PassReadings | None, fixed: PassReadings | None, fix: str | None) -> tuple[Outcome, str]:
    if reported is None:
        return Outcome.INCONCLUSIVE, "The pass as reported is incomplete, so there is no answer."
    full = f"{reported.fulls:,} times there was no room in the table"
    if reported.clean:
        return Outcome.REFUTED, f"No look-up, connection or message failed; {full}, with {reported.most:,} entries."
    if not reported.fulls:
        return Outcome.INCONCLUSIVE, f"{_failed(reported)}; but the table was never full, so there is another cause."
    shown = f"{_failed(reported)}; {full}."
    if not fix:
        return Outcome.CONFIRMED, shown
    if fixed is None:
        return Outcome.INCONCLUSIVE, f"{shown} The pass with the fix {fix} is incomplete."
    outcome = Outcome.CONFIRMED if fixed.clean else Outcome.REFUTED
    return outcome, f"{shown} With the fix {fix}: {_failed(fixed)}; {fixed.fulls:,} times there was no room."


def _failed(readings: PassReadings) -> str:
    return ", ".join(f"{failed:,} of {tried:,} {outcome}" for outcome, (failed, tried) in readings.failures.items())


def _evidence(name: str, readings: PassReadings, *, wanted: bool) -> Iterator[Evidence]:
    """Yield the evidence of one pass: some failures if ``wanted`` (the pass as reported), else no failures."""
    check = Evidence.some if wanted else Evidence.none
    results = f"results/{readings.name}"
    sources = (f"{results}-look-up.json", f"{results}-connect.json", f"logs/{readings.relay}.log.gz")
    for (fact, (failed, tried)), source in zip(readings.failures.items(), sources, strict=True):
        yield check(f"{name}: {fact}", failed, source, f" of {tried:,}")
    yield check(f"{name}: entries that found no room (table_fulls)", readings.fulls, "series/readings.jsonl")
    lines = None if readings.kernel is None else len(readings.kernel)
    yield check(f"{name}: lines of the kernel on the overflow", lines, f"{results}-kernel.json")


def _figures(reported: PassReadings | None, fixed: PassReadings | None) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for prefix, readings in (("", reported), ("fixed_", fixed)):
        if readings:
            names = ("look_ups_failed", "connections_failed", "messages_not_delivered_at_once")
            failures = zip(names, readings.failures.values(), strict=True)
            figures |= {f"{prefix}{name}": failed for name, (failed, _) in failures}
            figures |= {f"{prefix}table_fulls": readings.fulls, f"{prefix}entries_at_most": readings.most}
    if reported:
        figures["predicted_threshold_addresses"] = reported.limit - AMONG_THEMSELVES + 1
    return figures


def _failures(readings: PassReadings) -> dict[str, Cell]:
    return {
        **{fact: f"{failed:,} of {tried:,}" for fact, (failed, tried) in readings.failures.items()},
        "messages delivered in the end": readings.delivered,
        "entries of the table at most": readings.most,
        "entries that it holds (gc_thresh3)": readings.tables[-1].limit,
        "entries that found no room (table_fulls)": readings.fulls,
    }


def _errors(readings: PassReadings) -> dict[str, Cell]:
    """Return system call -> names and counts of the errors that programs get from this call."""
    return {
        "connect(2)": _names(readings.connect.errors),
        "sendto(2)": _names(readings.look_up.errors),
        "sendto(2) with IP_RECVERR": _names(readings.look_up.told),
        "datagrams dropped in silence": readings.look_up.dropped,
    }


def _names(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,} times" for name, count in sorted(errors.items())) or "no error"


def _quotes(readings: PassReadings) -> Iterator[Quote]:
    """Yield one line of the kernel's log, and one of the relay's log for each kind of reason."""
    for line in (readings.kernel or ())[:1]:
        yield Quote(source="the kernel's log", t=line.t, text=f"[{line.stamp}] {line.text}")
    kinds: dict[str, Quote] = {}
    for t, text in readings.deferred.values():
        kind = "connect" if "(connect to " in text else "name" if "Name service error" in text else "other"
        kinds.setdefault(kind, Quote(source=f"log of {readings.relay}", t=t, text=text))
    yield from kinds.values()
