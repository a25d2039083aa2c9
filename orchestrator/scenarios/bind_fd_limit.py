"""Does BIND with thousands of addresses run over its limit of sockets, and then refuse to shut down?

named listens with a UDP and a TCP socket for each address and worker. 9.16 refuses every outgoing socket whose number
is at or over ``-S``: it fetches no key, resolves nothing and accepts no rndc. The question is asked of a named as
reported (node ``dns``) and, with a fix, of a second one beside it (``fixed``). docs/bind-fd-limit.md tells the story.
"""

import re
import time
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.engine import Output
from orchestrator.errors import EngineFailed, NodeDied
from orchestrator.live import HEARTBEAT_S, Live
from orchestrator.measurements import Measurements
from orchestrator.model import MAX_DOMAINS, Bed, Limits, Node, Release, Strict
from orchestrator.plan import NodePlan
from orchestrator.scenarios import Evidence, Outcome, Quote, Table, Verdict
from orchestrator.services import bind

REPORTED, FIXED = "dns", "fixed"
ADDRESSES, FULL_WORKERS = 2560, 24
BOTH_FAMILIES = 800
"""Addresses of each family for the fix listen-on-v6: 6,432 open files are over -S 4096, and 3,232 of IPv4 are not."""
RESERVED = 512
"""File descriptors that 9.16 leaves to what is not a socket (``reserved-sockets``)."""
TOLERANCE, TOLERANCE_FILES = 0.02, 2
"""How far a prediction may be off: a share, and so many files where that is less than they come and go by."""
FETCH_S, SETTLE_S, STOP_S = 30.0, 5.0, 8.0
"""How long the fetch of the root's keys may take, its sockets until they are closed, and each way to stop it."""
SETTLING_S = 0.25
"""How long the number of open files has to stay the same."""
SIGKILL_STATUS = 137

FETCHED = r"managed-keys-zone: Unable to fetch DNSKEY set"
"""Nothing of a bed reaches a root server, so it fails in any case; by then the first outgoing sockets were tried."""
OVER = "socket: file descriptor exceeds limit (N/M)"
RNDC_REFUSED = "accept: file descriptor exceeds limit (N/M)"
"""The socket of a connection gets the lowest free number, so of an idle named this line tells whether it is over. Some
addresses short of that, the other one comes and goes with the number of outgoing sockets that are open at once."""
ABORT = "fatal error, and the end"
SIGNATURES = {
    OVER: r"socket: file descriptor exceeds limit \(\d+/\d+\)",
    "managed-keys-zone: ... not enough free resources": FETCHED + r" '\.': not enough free resources",
    "couldn't add command channel: ... not enough free resources": r"command channel \S+: not enough free resources",
    RNDC_REFUSED: r"accept: file descriptor exceeds limit \(\d+/\d+\)",
    "Accepting TCP connection failed: too many open files": r"Accepting TCP connection failed: too many open files",
    ABORT: r"\.c:\d+:.*fatal error",
}
"""What is looked for in the logs: what a report calls it -> pattern."""

_COUNT = r"""
ls /proc/1/fd | wc -l
cd /proc/net
awk '$2 ~ /:0035$/ {sockets++; all[$2]} END {for (a in all) n++; print sockets + 0, n + 0}' udp udp6 tcp tcp6
awk '/^VmRSS:/ {print $2 * 1024}' /proc/1/status
"""
"""What a named has open, its sockets of port 53 and on how many addresses, and its resident memory in bytes."""
_COUNTED = ("open_files", "sockets", "addresses", "memory_b")
_WAYS = {
    "rndc stop": ("rndc", "stop"),
    "SIGTERM": ("setpriv", "--reuid=bind", "--clear-groups", "sh", "-c", "kill -TERM 1"),  # root lacks CAP_KILL here
}


class Params(Strict):
    """What can be varied."""

    addresses: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] | None = None
    """IPv4 addresses that named listens on; unset: 2,560, and 800 of each family with the fix listen-on-v6."""
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    """Worker threads (-n)."""
    max_sockets: Annotated[int, Field(ge=1024, le=1 << 20)] | None = 4096
    """Where 9.16 stops to open sockets (-S); other releases take no notice."""
    nofile: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    """Open files that the kernel allows (RLIMIT_NOFILE); unset: what the engine gives."""
    dns_release: Release = "bullseye"
    """The Debian release that BIND comes from: 9.16 (bullseye), 9.18 (bookworm), 9.20 (trixie)."""
    fix: Literal["listen-on", "maxsockets", "listen-on-v6"] | None = None
    """Prove a fix beside the unfixed server: one address to listen on, a higher -S, no IPv6."""
    full: bool = False
    """Full size instead of addresses, workers, max-sockets and nofile: 2,560 addresses, 24 workers, Debian's own -S."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """How one named of the bed is set up."""

    addresses: int
    """That it has, of each family."""
    workers: int
    max_sockets: int | None
    nofile: int | None
    release: str
    listen: Literal["lab", "service"] = "lab"
    listen_v6: Literal["lab", "none"] = "none"

    def __str__(self) -> str:
        limits = [f"-S {self.max_sockets:,}"] if self.max_sockets else []
        limits += [f"{self.nofile:,} open files allowed"] if self.nofile else []
        return ", ".join([f"{self.listening:,} addresses", f"{self.workers} workers", *limits])

    @property
    def listening(self) -> int:
        """On how many addresses it listens, both families together."""
        return (self.addresses if self.listen == "lab" else 1) + (self.addresses if self.listen_v6 == "lab" else 0)

    @property
    def open_files(self) -> int:
        """The prediction."""
        return bind.open_files(self.listening, self.workers, self.release)

    @property
    def limit(self) -> int | None:
        """At how many open files the next one fails; ``None``: the engine's limit, which the host's check knows."""
        limits = [self.nofile, (self.max_sockets or bind.DEBIAN_MAX_SOCKETS) if self.release == "bullseye" else None]
        return min((limit for limit in limits if limit), default=None)

    @property
    def threshold(self) -> int | None:
        """The smallest number of addresses with which the open files reach the limit before anything is fetched."""
        if self.limit is None:
            return None
        each = 2 * self.workers * (2 if self.listen_v6 == "lab" else 1)
        return -(-(self.limit - bind.open_files(0, self.workers, self.release)) // each)

    def node(self) -> Node:
        """Return it as a node of a bed; it may end where the kernel's limit ends it while it starts."""
        settings = {
            "listen": self.listen,
            "listen_v6": self.listen_v6,
            "workers": self.workers,
            "max_sockets": self.max_sockets,
            "resolver": True,
        }
        return Node(
            service="bind",
            release=self.release,  # type: ignore[arg-type]  # one of them, as the parameters say
            addresses=self.addresses,
            limits=Limits(nofile=self.nofile),
            settings=settings,
            may_end=self.nofile is not None and self.nofile <= self.open_files,
        )


def enough(named: Named) -> int:
    """Return a limit that its open files stay well under, in thousands."""
    return -(-(named.open_files + RESERVED) // 1000) * 1000


def servers(params: Params) -> dict[str, Named]:
    """Return the nodes of the bed: as reported, and with the fix."""
    v6: Literal["lab", "none"] = "lab" if params.fix == "listen-on-v6" else "none"
    addresses = params.addresses or (BOTH_FAMILIES if v6 == "lab" else ADDRESSES)
    named = Named(
        addresses=addresses,
        workers=params.workers,
        max_sockets=params.max_sockets,
        nofile=params.nofile,
        release=params.dns_release,
        listen_v6=v6,
    )
    if params.full:
        named = replace(named, addresses=ADDRESSES, workers=FULL_WORKERS, max_sockets=None)
        named = replace(named, nofile=enough(named))
    fixes = {
        "listen-on": replace(named, listen="service", listen_v6="none"),
        "maxsockets": replace(named, max_sockets=enough(named)),
        "listen-on-v6": replace(named, listen_v6="none"),
    }
    return {REPORTED: named} | ({FIXED: fixes[params.fix]} if params.fix else {})


class BindFdLimit:
    """The scenario."""

    name = "bind-fd-limit"
    question = "Does BIND with this many addresses run over its limit of sockets, and then refuse to shut down?"
    params = Params
    provokes = frozenset({"open files, by the daemon's own limit"})

    def bed(self, params: Params) -> Bed:
        """Return a bed of name servers only: as reported, and with the fix beside it."""
        nodes = {name: named.node() for name, named in servers(params).items()}
        return Bed(name=self.name, domains=4, nodes=nodes)

    def smaller(self, params: Params) -> str | None:
        """Say what to ask of a host that cannot give this bed what it needs."""
        small = f"testbed run {self.name} --workers 2 --max-sockets 4096"
        return f"ask the same at a smaller scale: {small}" if params.full or params.workers > Params().workers else None

    def drive(self, live: Live, params: Params) -> None:  # noqa: ARG002 - the bed says it all
        """Wait for the first outgoing sockets, count what is open, and then ask each server to stop."""
        running = [node for node in live.plan.nodes if not _ended_at_start(live, node)]
        with live.phase("fetch keys"):
            for node in running:
                fetched = live.seen(node, rf"{FETCHED}|{SIGNATURES[OVER]}", FETCH_S)
                if counted := _settled(live, node):
                    live.rundir.save_result(f"{node.name}-open", {**counted, "fetched": fetched is not None})
        for node in running:
            _stop(live, node)

    def judge(self, measured: Measurements) -> Verdict:
        """Say whether the limit was met, and whether the fix keeps clear of it."""
        return judge(measured)


def _ended_at_start(live: Live, node: NodePlan) -> bool:
    """Keep how a node ended that could not get all its sockets.

    Raises:
        NodeDied: one ended that had no reason to.
    """
    live.recorder.check()
    if death := _end(live, node, 0):
        live.rundir.save_result(f"{node.name}-end", {"status": death.exit_status})
    return death is not None


def _stop(live: Live, node: NodePlan) -> None:
    """Ask a node to stop, in one way after the other, until it has.

    Raises:
        NodeDied: somebody else ended it.
    """
    live.recorder.check()
    live.recorder.expect_end(node.name)
    tried: list[dict[str, Any]] = []
    death = None
    for way, command in _WAYS.items():
        with live.phase(f"{way} of {node.name}"):
            began = time.monotonic()
            said = _ask(live, node, *command)
            death = _await_end(live, node, began + STOP_S)
            seconds = round(time.monotonic() - began, 3)
        answer = said.stderr.strip().partition("\n")[0] if said else ""
        tried.append({"way": way, "status": said and said.status, "said": answer, "ended": bool(death), "s": seconds})
        if death:
            break
    live.rundir.save_result(f"{node.name}-stop", {"tried": tried, "status": death and death.exit_status})


def _ask(live: Live, node: NodePlan, *command: str) -> Output | None:
    """Run a command in a node; ``None``: it ends just now, and may.

    Raises:
        NodeDied: it ended that had no reason to, or another one.
    """
    try:
        said = live.exec(node, *command, timeout=STOP_S)
    except NodeDied:
        raise
    except EngineFailed:
        return None
    if said.status != 0:  # of the command, or because it was ended with its container
        live.recorder.died.wait(HEARTBEAT_S)
        live.recorder.check()
    return said


def _await_end(live: Live, node: NodePlan, deadline: float) -> NodeDied | None:
    """Wait for the end of a node until a moment of the monotonic clock, and read its open files once a second."""
    while (left := deadline - time.monotonic()) > 0:
        if death := _end(live, node, min(left, 1.0)):
            return death
        _count(live, node)
    return _end(live, node, 0)


def _end(live: Live, node: NodePlan, seconds: float) -> NodeDied | None:
    """Wait so long for the end of a node; ``None``: it still runs.

    Raises:
        NodeDied: by SIGKILL, so it was not BIND that ended it.
    """
    death = live.recorder.await_end(node.name, seconds)
    if death and death.exit_status == SIGKILL_STATUS:
        raise death
    return death


def _settled(live: Live, node: NodePlan) -> dict[str, int] | None:
    """Count until nothing changes any more: outgoing sockets are closed with some delay."""
    deadline = time.monotonic() + SETTLE_S
    before, counted = None, _count(live, node)
    while counted and counted["open_files"] != before and time.monotonic() < deadline:
        live.recorder.died.wait(SETTLING_S)
        before, counted = counted["open_files"], _count(live, node)
    return counted


def _count(live: Live, node: NodePlan) -> dict[str, int] | None:
    """Read what a named has open, and keep it; ``None``: it ends just now, and may."""
    said = _ask(live, node, "sh", "-euc", _COUNT)
    figures = said.stdout.split() if said and said.status == 0 else []
    if len(figures) < len(_COUNTED):  # a process that is on its way out has no memory left
        return None
    counted = dict(zip(_COUNTED, map(int, figures), strict=True))
    live.keep("open files", node.name, counted["open_files"])
    return counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was measured of one named."""

    node: str
    setup: Named
    version: str | None
    ready_s: float | None
    """From its first line to the one that says it serves."""
    open_files: int | None
    sockets: int | None
    addresses: int | None
    """Addresses that it listens on."""
    memory_b: int | None
    """Resident (VmRSS, proc(5))."""
    fetched: bool
    """It was seen to ask for outgoing sockets: it tried to fetch the root's keys, or was refused one."""
    lines: dict[str, list[tuple[float, str]]]
    """Signature -> Unix time and text of each line."""
    stop: dict[str, Any] | None
    ended: int | None
    """The status with which it ended before it served."""

    @property
    def over(self) -> bool | None:
        """It is over its limit, even when idle; ``None``: that was not put to the test."""
        if self.ended is not None:
            return bool(self.lines[ABORT]) or None
        if self.stop is None:
            return None
        if self.lines[OVER] and self.lines[RNDC_REFUSED]:
            return True
        return False if self.fetched else None

    @property
    def stopped_s(self) -> float | None:
        """How long it took to stop from the first word; ``None``: it did not, or was not asked."""
        return sum(way["s"] for way in self.stop["tried"]) if self.stop and self.stop["tried"][-1]["ended"] else None

    @property
    def refused(self) -> bool | None:
        """Neither way to stop it ended it; ``None``: it was not asked."""
        return self.stopped_s is None if self.stop else None

    @property
    def end(self) -> str:
        """How its end went, in words."""
        if self.stop is None:
            return "not measured" if self.ended is None else f"ended with status {self.ended} before it served"
        ends = {True: "ended after {s:.1f} s", False: "still there after {s:.0f} s"}
        return "; ".join(
            f"{way['way']}: {ends[way['ended']].format(s=way['s'])}{way['said'] and ' (' + way['said'] + ')'}"
            for way in self.stop["tried"]
        )


def _seen(measured: Measurements, node: str, setup: Named) -> Seen:
    """Read what a run directory says of one named."""
    marks = {"starting BIND": r"starting BIND (\S+)", "running": r" running$"}
    lines: dict[str, list[tuple[float, str]]] = {name: [] for name in (*SIGNATURES, *marks)}
    patterns = {name: re.compile(pattern) for name, pattern in (SIGNATURES | marks).items()}
    for t, text in measured.rundir.log(node):
        for name, pattern in patterns.items():
            if pattern.search(text):
                lines[name].append((t, text))
    begun, serves = lines.pop("starting BIND"), lines.pop("running")
    found = patterns["starting BIND"].search(begun[0][1]) if begun else None
    counted = measured.rundir.result(f"{node}-open") or {}
    return Seen(
        node=node,
        setup=setup,
        version=found[1] if found else None,
        ready_s=serves[0][0] - begun[0][0] if begun and serves else None,
        open_files=counted.get("open_files"),
        sockets=counted.get("sockets"),
        addresses=counted.get("addresses"),
        memory_b=counted.get("memory_b"),
        fetched=bool(counted.get("fetched")),
        lines=lines,
        stop=measured.rundir.result(f"{node}-stop"),
        ended=(measured.rundir.result(f"{node}-end") or {}).get("status"),
    )


def judge(measured: Measurements) -> Verdict:
    """Judge one run: was the limit met as reported, and is it kept clear of with the fix?"""
    params = Params.model_validate(measured.params)
    seen = {name: _seen(measured, name, named) for name, named in servers(params).items()}
    reported, fixed = seen[REPORTED], seen.get(FIXED)
    outcome, reason = _outcome(reported, fixed, params.fix)
    return Verdict(
        outcome=outcome,
        claim=f"BIND {reported.version or ''} ({reported.setup.release}) with {reported.setup} runs over its limit"
        + (", and then refuses to shut down" if reported.refused or not reported.over else "")
        + (f"; the fix {params.fix} keeps clear of it." if params.fix else "."),
        reason=reason,
        evidence=(*_as_reported(reported), *(_with_fix(fixed) if fixed else ())),
        marks=tuple(_marks(reported.setup, params)),
        figures=_figures(reported, fixed),
        tables=(_servers_table(seen), _signatures_table(seen)),
        quotes=tuple(
            Quote(source=f"log of {one.node}", t=lines[0][0], text=lines[0][1])
            for one in seen.values()
            for lines in one.lines.values()
            if lines
        ),
    )


def _outcome(reported: Seen, fixed: Seen | None, fix: str | None) -> tuple[Outcome, str]:
    if reported.over is None:
        return Outcome.INCONCLUSIVE, "It was not seen to open an outgoing socket, so its limit was not put to the test."
    with_so_many = f"With {_number(reported.open_files)} open files it"
    if not reported.over:
        for_moments = "met its limit only while several outgoing sockets were open at once"
        how = for_moments if reported.lines[OVER] else "opened its outgoing sockets like any other"
        return Outcome.REFUTED, f"{with_so_many} {how}; {reported.end}."
    shown = f"{with_so_many} is over its limit; {reported.end}."
    if reported.ended is not None:
        needed, allowed = reported.setup.open_files, reported.setup.nofile
        shown = f"It needs {needed:,} open files, and may have {allowed:,}: {reported.end}."
    if fixed is None:
        return Outcome.CONFIRMED, shown
    if fixed.over is None or fixed.refused is None:
        return Outcome.INCONCLUSIVE, f"{shown} Of the fix {fix} too little was seen; {fixed.end}."
    outcome = Outcome.REFUTED if fixed.over or fixed.lines[OVER] or fixed.refused else Outcome.CONFIRMED
    return outcome, f"{shown} With the fix {fix} it has {_number(fixed.open_files)}; {fixed.end}."


def _as_reported(seen: Seen) -> tuple[Evidence, ...]:
    lines = seen.lines[ABORT] if seen.ended is not None else seen.lines[OVER]
    log = f"logs/{seen.node}.log.gz"
    listening = 2 * seen.setup.workers
    each = seen.sockets / seen.addresses if seen.sockets is not None and seen.addresses else None
    return (
        Evidence(
            fact=f"lines that say so in the log of {seen.node}",
            found=f"{len(lines)}" if seen.over is not None else "not measured",
            needed="at least 1",
            holds=None if seen.over is None else bool(lines),
            source=log,
        ),
        Evidence(
            fact=f"{seen.node} is over its limit even when idle: rndc is turned away",
            found="not measured" if seen.stop is None else f"{len(seen.lines[RNDC_REFUSED])} lines",
            needed="at least 1",
            holds=None if seen.stop is None else bool(seen.lines[RNDC_REFUSED]),
            source=log,
        ),
        Evidence(
            fact=f"{seen.node} refuses to shut down",
            found=seen.end,
            needed="still there after rndc stop and SIGTERM",
            holds=seen.refused,
            source=f"results/{seen.node}-stop.json",
        ),
        _predicted(seen),
        Evidence(
            fact=f"sockets for each address of {seen.node}",
            found=_number(each),
            needed=f"{listening}: UDP and TCP, {seen.setup.workers} workers",
            holds=None if each is None else each == listening,
            source=f"results/{seen.node}-open.json",
        ),
    )


def _with_fix(seen: Seen) -> tuple[Evidence, ...]:
    return (
        Evidence(
            fact="lines that say so with the fix",
            found="not measured" if seen.over is None else f"{len(seen.lines[OVER])}",
            needed="0",
            holds=None if seen.over is None else not seen.lines[OVER],
            source=f"logs/{seen.node}.log.gz",
        ),
        Evidence(
            fact="with the fix it shuts down",
            found=seen.end,
            needed="ended",
            holds=None if seen.refused is None else not seen.refused,
            source=f"results/{seen.node}-stop.json",
        ),
        _predicted(seen),
    )


def _predicted(seen: Seen) -> Evidence:
    predicted, found = seen.setup.open_files, seen.open_files
    return Evidence(
        fact=f"open files of {seen.node}",
        found=_number(found),
        needed=f"within {TOLERANCE:.0%} of the {predicted:,} predicted",
        holds=None if found is None else abs(found - predicted) <= max(TOLERANCE * predicted, TOLERANCE_FILES),
        source=f"results/{seen.node}-open.json",
    )


def _marks(setup: Named, params: Params) -> list[str]:
    marks = []
    full = replace(setup, addresses=ADDRESSES, workers=FULL_WORKERS, listen="lab", listen_v6="none")
    if not params.full:
        marks.append(
            f"scaled: {setup.listening:,} addresses x 2 x {setup.workers} workers = "
            f"{setup.listening * 2 * setup.workers:,} sockets; at full size {ADDRESSES:,} x 2 x {FULL_WORKERS} = "
            f"{full.listening * 2 * full.workers:,}, in all {full.open_files:,} open files, over Debian's -S "
            f"{bind.DEBIAN_MAX_SOCKETS:,}"
        )
    if setup.release != "bullseye" and setup.max_sockets:
        marks.append("-S has no effect since BIND 9.17.20: this release meets only the kernel's limit (--nofile)")
    return marks


def _figures(reported: Seen, fixed: Seen | None) -> dict[str, float | None]:
    setup = reported.setup
    figures: dict[str, float | None] = {
        "open_files_measured": reported.open_files,
        "open_files_predicted": setup.open_files,
        "over_limit_lines": len(reported.lines[OVER]),
        "ready_s": reported.ready_s,
        "memory_b": reported.memory_b,
    }
    if setup.threshold is not None:
        figures["predicted_threshold_addresses"] = setup.threshold
    if reported.stopped_s is not None:
        figures["stopped_after_s"] = reported.stopped_s
    if fixed:
        figures["fixed_open_files_measured"] = fixed.open_files
        figures["fixed_stopped_after_s"] = fixed.stopped_s
    return figures


def _servers_table(seen: dict[str, Seen]) -> Table:
    rows: dict[str, list[str | float | None]] = {
        "addresses that it listens on": [one.addresses for one in seen.values()],
        "listening sockets": [one.sockets for one in seen.values()],
        "open files, predicted": [one.setup.open_files for one in seen.values()],
        "open files, measured": [one.open_files for one in seen.values()],
        "-S": [one.setup.max_sockets for one in seen.values()],
        "ready after, s": [one.ready_s for one in seen.values()],
        "memory, MB": [one.memory_b and one.memory_b / 1e6 for one in seen.values()],
        "how it ends": [one.end for one in seen.values()],
    }
    return Table(
        title="named as reported" + (", and with the fix" if len(seen) > 1 else ""),
        columns=("", *seen),
        rows=tuple((name, *cells) for name, cells in rows.items()),
    )


def _signatures_table(seen: dict[str, Seen]) -> Table:
    return Table(
        title="Lines in the logs",
        columns=("what they say", *seen),
        rows=tuple((name, *(len(one.lines[name]) for one in seen.values())) for name in SIGNATURES),
    )


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,g}" if isinstance(value, float) else f"{value:,}"


SCENARIO = BindFdLimit()
