"""Tables of a report as plain text, for the terminal and for HTML."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.measurements.verdict import Table
from orchestrator.report.figures import figure, number
from orchestrator.report.summary import PERCENTILES, RunFigures

TOP_TROUBLES = 10
"""Maximum number of reasons in the table of trouble; results/hops.json and ``--format json`` hold all."""
FATES = (
    "offered", "accepted", "refused", "unresolved", "delivered", "lost", "duplicated", "corrupted", "misrouted",
    "outside", "unaccepted", "foreign",
)  # fmt: skip
_ALWAYS = {"offered", "accepted", "delivered", "lost", "duplicated", "corrupted"}
HOLDS = {True: "holds", False: "FAILS", None: "unknown"}
"""Whether a fact of the evidence holds -> its word in a report."""


def cells(table: Table) -> list[list[str]]:
    """Return the rows of a table as text."""
    return [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in table.rows]


def of_run(run: RunFigures) -> dict[str, Table]:
    """Return name -> table of a run, in the order in which a report shows them; a table without data has no rows."""
    verdict: Mapping[str, Any] = run["verdict"] or {}
    accounts, subject = run["accounting"], run["subject"]
    columns = fates(accounts.values())
    rates = [f"{way}_{unit}" for unit in ("per_s", "per_min") for way in ("accepted", "delivered")]
    hops = {f"in the relay, {hop}": values for hop, values in run["hops_ms"].items()}
    latencies = (run["latency_ms"].get(subject) or {}) | hops
    uses = ("cpu_cores", "cpu_s", "cpu_ms_per_message")
    return {
        **{f"verdict {n}": Table(**table) for n, table in enumerate(verdict.get("tables") or ())},
        "figures": Table(
            title="Figures",
            columns=("", "", ""),
            rows=[figure(name, value) for name, value in (verdict.get("figures") or {}).items()],
            align="lrl",
        ),
        "throughput": Table(
            title="Throughput, messages",
            columns=("", "accepted/s", "delivered/s", "accepted/min", "delivered/min"),
            rows=[(load, *(of_load[rate] for rate in rates)) for load, of_load in run["throughput"].items()],
            strong=subject,
        ),
        "latency": Table(
            title="Latency, milliseconds",
            columns=("", "p50", "p90", "p99", "p99.9", "max"),
            rows=[(name, *(values[p] for p in (*PERCENTILES, "max"))) for name, values in latencies.items()],
        ),
        "accounting": Table(
            title="Accounting, messages",
            columns=("", *columns),
            rows=[
                (load, *(f"{account[fate]:,}" if account else "unknown" for fate in columns))
                for load, account in accounts.items()
            ],
            strong=subject,
        ),
        "connections": Table(
            title="Connections that failed",
            columns=("", "cause", "connections"),
            rows=[(load, *failed) for load, causes in run["connections"].items() for failed in causes.items()],
            align="llr",
        ),
        "nodes": Table(
            title="Nodes, from the first message to the last delivery",
            columns=("", "CPU cores", "CPU s", "CPU ms/message", "peak MB"),
            rows=[
                (node, *(use[name] for name in uses), number(use["memory_b"], 1e-6))
                for node, use in run["nodes"].items()
            ],
        ),
        "troubles": Table(
            title=f"Trouble in the relay's log; delivery attempts: {attempts(run)}",
            columns=("reason", "lines"),
            rows=_troubles(run["troubles"]),
        ),
        "evidence": Table(
            title="Evidence",
            columns=("", "fact", "found", "needed"),
            rows=[
                (HOLDS[fact["holds"]], fact["fact"], fact["found"], fact["needed"])
                for fact in verdict.get("evidence") or ()
            ],
            align="l",
        ),
        "quotes": quotes((quote["source"], quote["text"]) for quote in verdict.get("quotes") or ()),
    }


def fates(accounts: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """Return the columns of an accounting table: the usual fates of messages, and each other fate that occurred."""
    known = [account for account in accounts if account]
    return [fate for fate in FATES if fate in _ALWAYS or any(account[fate] for account in known)]


def quotes(lines: Iterable[tuple[str, str]]) -> Table:
    """Return a table of verbatim log lines of programs and the kernel; ``lines``: (source, line)."""
    return Table(title="In their own words", columns=("source", "line"), rows=tuple(lines), align="l")


def attempts(run: RunFigures) -> str:
    """Return the relay's delivery attempts by outcome, as text: ``669 sent, 3 deferred``."""
    ordered = sorted(run["statuses"].items(), key=lambda entry: -entry[1])
    return ", ".join(f"{count:,} {status}" for status, count in ordered) or "none"


def _troubles(troubles: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    rest = troubles[TOP_TROUBLES:]
    rows = [(trouble["reason"], trouble["count"]) for trouble in troubles[:TOP_TROUBLES]]
    return rows + ([(f"{len(rest):,} other reasons", sum(trouble["count"] for trouble in rest))] if rest else [])
