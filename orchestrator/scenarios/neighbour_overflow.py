"""What happens when a node talks to more addresses of its link than the kernel's neighbour table holds?

Every address that is on the link costs an entry, of which the whole kernel has gc_thresh3, 1,024 by default. Over it
look-ups and connections fail, and mail is deferred. The question is asked of a bed whose servers are on the link and,
with a fix, of the same bed again with it. docs/neighbour-overflow.md tells the story.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Network
from threading import Event
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator import host
from orchestrator.addressing import prefix_for
from orchestrator.collect import kernel
from orchestrator.errors import EngineFailed, HostCannot
from orchestrator.host_settings import HostSettings
from orchestrator.live import Live
from orchestrator.measurements import Measurements
from orchestrator.model import Bed, Node, Strict
from orchestrator.plan import NodePlan
from orchestrator.scenarios import Evidence, Outcome, Quote, Table, Verdict
from orchestrator.services import Role
from orchestrator.services.agents import PYTHON

REPORTED, FIXED = "as-reported", "fixed"
"""The two passes over one bed."""
SETTING = "net.ipv4.neigh.default.gc_thresh"
CONNECT_TIMEOUT_S = 4
"""Postfix's smtp_connect_timeout in this bed: at the default of 30 s, mail that cannot go takes as long to say so."""
TRIED_S = 20.0
"""How long the table is kept full at most, until every message was tried once."""
FILL_S = 0.5
"""How soon the table is filled again: an entry is safe from the kernel's garbage collection for 5 s (arp(7))."""
_IPV4_ALONE = {"smtp_address_preference": "ipv4", "smtp_mx_address_limit": 1, "smtp_balance_inet_protocols": False}
"""A destination whose IPv4 address fails is not tried by IPv6, which has a table of its own (ndisc_cache)."""
SETTLE_S = 60.0
"""How long the relay may take to deliver afterwards what it had to defer."""
PROBE_S, POLL_S = 30.0, 0.25
MESSAGE_B = 1024
AMONG_THEMSELVES = ("load-relay", "relay-load", "relay-dns", "dns-relay", "dns-load", "sink-relay")
"""Entries that the nodes have for each other while mail is sent: who has it, and of whom."""
OVERFLOW = r"neighbour: arp_cache: neighbor table overflow!"
SMTP = "25"

_UNTRIED = ("find", *(f"/var/spool/postfix/{queue}" for queue in ("incoming", "active")), "-type", "f")
_FLUSH = "ip -4 neighbour flush all"
_LAB = "lab=$(ip -oneline -4 address show to \"$1\" | awk '{print $2}')"
"""Finds the device of the lab by the address of the node itself."""
_MAC = f'{_LAB}; cat "/sys/class/net/$lab/address"'
_ROUTE = f'{_LAB}; ip route replace "$2" via "$3" dev "$lab"'
_PERMANENT = f"""{_LAB}
n=$2; end=$(($2 + $3))
while [ $n -lt $end ]; do
    address=$((n >> 24)).$((n >> 16 & 255)).$((n >> 8 & 255)).$((n & 255))
    echo "neighbour replace $address lladdr $4 nud permanent dev $lab"
    n=$((n + 1))
done | ip -batch -
"""


class Params(Strict):
    """What can be varied."""

    addresses: Annotated[int, Field(ge=1, le=16_384)] = 2560
    """Addresses on the link: of the DNS server, asked over UDP, and as many of the sink, one for each domain."""
    messages: Annotated[int, Field(ge=1, le=16_384)] = 100
    """Messages to as many domains while the table is kept full; at most one for each address."""
    fix: Literal["gc-thresh", "route", "permanent"] | None = None
    """Prove a fix after the unfixed bed: a larger table, one route via each server, permanent entries."""
    allow_host_changes: bool = False
    """Consent to the fix gc-thresh: it raises gc_thresh1 to 3 of the whole machine, and puts them back."""


class NeighbourOverflow:
    """The scenario."""

    name = "neighbour-overflow"
    question = "Do look-ups and mail fail when there are more addresses on the link than the neighbour table holds?"
    params = Params
    provokes = frozenset({host.NEIGHBOURS})

    def bed(self, params: Params) -> Bed:
        """Return a relay bed whose sink is on the link with every domain, and whose DNS server has as many addresses.

        Raises:
            HostCannot: the fix changes the host, and nobody has consented to that.
        """
        if params.fix == "gc-thresh" and not params.allow_host_changes:
            raise HostCannot(
                f"consent to a change of {SETTING}1, 2 and 3, which the whole machine shares, until the run ends",
                "none",
                "add --allow-host-changes; --fix route and --fix permanent change nothing outside the bed",
            )
        listening = {"listen": "lab", "listen_v6": "service", "workers": 1}
        main_cf = {**_IPV4_ALONE, "smtp_connect_timeout": f"{CONNECT_TIMEOUT_S}s"}
        nodes = {
            "dns": Node(service="bind", addresses=params.addresses + 1, settings=listening),
            "sink": Node(service="blackhole"),
            "relay": Node(service="postfix", settings={"main_cf": main_cf}),
            "load": Node(service="smtp-load"),
        }
        return Bed(name=self.name, domains=params.addresses, on_link=True, nodes=nodes)

    def drive(self, live: Live, params: Params) -> None:
        """Ask, connect and send, as reported; then once more with the fix."""
        with ExitStack() as stack:
            settings = None
            if params.fix == "gc-thresh":
                settings = stack.enter_context(HostSettings(live.engine, thresholds(params.addresses)))
            _ask(live, params, REPORTED)
            if params.fix:
                with live.phase(f"fix {params.fix}"):
                    _fix(live, params.fix, settings)
                _ask(live, params, FIXED)

    def judge(self, measured: Measurements) -> Verdict:
        """Say whether they failed for want of entries, and whether the fix helps."""
        return judge(measured)


def thresholds(addresses: int) -> dict[str, str]:
    """Return settings for a table that holds the entries of this bed four times; the steps are the kernel's own."""
    limit = 1 << max(12, (4 * addresses - 1).bit_length())
    return {f"{SETTING}1": f"{limit // 4}", f"{SETTING}2": f"{limit // 2}", f"{SETTING}3": f"{limit}"}


# --------------------------------------------------------------------------------------------------------- it is asked


def _ask(live: Live, params: Params, name: str) -> None:
    """Make one pass over the bed, and keep what was seen as results/<pass>-*.json."""
    load, relay = live.plan.node(Role.LOAD), live.plan.node(Role.RELAY)
    servers, sinks = (block.first for block in _blocks(live))
    domain, count = live.plan.deliveries[0].domain, params.addresses
    before = _kernel_lines(live)
    for act, first, what in (("look-up", servers, domain), ("connect", sinks, SMTP)):
        _flush(live)
        with live.phase(f"{name}: {act}"):
            said = [_keep(live, one) for one in live.told(load, _agent(act, first, count, what), PROBE_S)]
            live.rundir.save_result(f"{name}-{act}", _joined(said))
    _flush(live)
    messages = min(params.messages, count)
    filling = _agent("fill", servers, count - messages, domain)
    with live.phase(f"{name}: mail"):
        # The three that carry the mail know each other when the table fills; their entries are safe for 5 s.
        live.exec(load, *_agent("connect", relay.v4, 1, SMTP))
        live.exec(relay, "getent", "hosts", f"{load.name}.nodes.test")
        with _kept_full(live, filling) as said:
            order = {"target": str(relay.v4), "messages": messages, "sizes": [MESSAGE_B], "timeout": TRIED_S}
            live.send(name, order)
            _await_first_try(live, relay)
        live.rundir.save_result(f"{name}-mail", _joined(said))
    _flush(live)
    live.exec(relay, "postqueue", "-f")
    live.drain(name, SETTLE_S)
    after = _kernel_lines(live)
    told = None if before is None or after is None else [asdict(line) for line in kernel.newer(after, before)]
    live.rundir.save_result(f"{name}-kernel", {"lines": told})


@contextmanager
def _kept_full(live: Live, filling: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
    """Fill the table before the block runs and while it does; the list holds what was said of it, at the end."""
    load, done = live.plan.node(Role.LOAD), Event()

    def fill() -> list[dict[str, Any]]:
        return [_keep(live, one) for one in live.told(load, filling, PROBE_S)]

    def go_on() -> None:
        while not done.wait(FILL_S):
            said.extend(fill())

    said = fill()
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(go_on)
        try:
            yield said
        finally:
            done.set()
        going.result()


def _await_first_try(live: Live, relay: NodePlan) -> None:
    """Wait until every message that the relay has was delivered or deferred, but not for ever."""
    deadline = time.monotonic() + TRIED_S
    while live.exec(relay, *_UNTRIED).stdout and time.monotonic() < deadline:
        live.recorder.died.wait(POLL_S)


def _agent(*words: object) -> tuple[str, ...]:
    return (*PYTHON, "-m", "orchestrator.agents.neighbours", *map(str, words))


def _keep(live: Live, said: dict[str, Any]) -> dict[str, Any]:
    """Put what the agent says of the table into the series, too."""
    if table := said.get("table"):
        live.keep("entries of the neighbour table", "all namespaces", table["entries"], at=table["t"])
        live.keep("entries that found no room (table_fulls)", "all namespaces", table["fulls"], at=table["t"])
    return said


def _joined(said: list[dict[str, Any]]) -> dict[str, Any]:
    reports = [line["report"] for line in said if "report" in line]
    return {"tables": [line["table"] for line in said if "table" in line], "report": reports[0] if reports else None}


def _flush(live: Live) -> None:
    """Drop the neighbour entries of every node, but for permanent ones."""
    with ThreadPoolExecutor(len(live.plan.nodes)) as pool:
        for done in [pool.submit(live.rewire, node, _FLUSH) for node in live.plan.nodes]:
            done.result()


def _kernel_lines(live: Live) -> list[kernel.KernelLine] | None:
    """Read the kernel's log; ``None`` where that is not allowed."""
    try:
        return kernel.lines(live.engine, OVERFLOW)
    except EngineFailed:
        return None


# --------------------------------------------------------------------------------------------------------- it is fixed


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Addresses of one server that are on the link."""

    owner: NodePlan
    first: IPv4Address
    count: int

    @property
    def prefix(self) -> IPv4Network:
        """The prefix that they fill, or begin."""
        return IPv4Network((int(self.first), prefix_for(self.count)))


def _blocks(live: Live) -> tuple[Block, Block]:
    """Return the addresses of the DNS server and of the sink."""
    dns, sink, count = live.plan.node(Role.DNS), live.plan.node(Role.SINK), len(live.plan.deliveries)
    return (
        Block(owner=dns, first=dns.addresses[1], count=count),
        Block(owner=sink, first=live.plan.mail.network_address, count=count),
    )


def _fix(live: Live, fix: str | None, settings: HostSettings | None) -> None:
    """Apply a fix to the host, or to the nodes that talk to many."""
    if settings:
        settings.apply()
        return
    for block in _blocks(live):
        mac = live.rewire(block.owner, _MAC, str(block.owner.v4)).strip()
        for node in (live.plan.node(Role.LOAD), live.plan.node(Role.RELAY)):
            if fix == "route":
                live.rewire(node, _ROUTE, str(node.v4), str(block.prefix), str(block.owner.v4))
            else:
                live.rewire(node, _PERMANENT, str(node.v4), str(int(block.first)), str(block.count), mac)


# --------------------------------------------------------------------------------------------------------- it is judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was measured in one pass."""

    name: str
    look_up: Mapping[str, Any]
    """``agents.neighbours.Report`` of the look-ups over UDP."""
    connect: Mapping[str, Any]
    """The same of the connections."""
    tables: list[dict[str, Any]]
    """``agents.neighbours.Table``, in the order in which they were read."""
    messages: int
    """Those that the relay should take and deliver at once."""
    accepted: int
    """Those that it took."""
    delivered: int
    """Those that the sink had at the end of the drain."""
    deferred: dict[str, tuple[float, str]]
    """Queue id of each message that was deferred -> when first, and the line of the log that says so."""
    kernel: list[dict[str, Any]] | None
    """Lines of the kernel (``collect.kernel.KernelLine``); ``None``: its log could not be read."""

    @property
    def fulls(self) -> int:
        """Entries that found no room."""
        return int(self.tables[-1]["fulls"] - self.tables[0]["fulls"])

    @property
    def most(self) -> int:
        """Entries at most, of all network namespaces."""
        return max(int(table["entries"]) for table in self.tables)

    @property
    def limit(self) -> int:
        """Entries that the table holds (gc_thresh3)."""
        return int(self.tables[0]["limit"])

    @property
    def failures(self) -> dict[str, tuple[int, int]]:
        """What was tried -> how many failed, of how many."""
        asked, opened = self.look_up, self.connect
        return {
            "look-ups failed": (asked["asked"] - asked["reached"], asked["asked"]),
            "connections failed": (opened["asked"] - opened["reached"], opened["asked"]),
            "messages were deferred": (self.messages - self.accepted + len(self.deferred), self.messages),
        }

    @property
    def clean(self) -> bool:
        """Nothing failed."""
        return not any(failed for failed, _ in self.failures.values())


def _seen(measured: Measurements, name: str, messages: int, until: float) -> Seen | None:
    """Read what a run directory says of one pass that ended before a time; ``None``: it did not come to its end."""
    parts = {act: measured.rundir.result(f"{name}-{act}") for act in ("look-up", "connect", "mail", "kernel")}
    sent, got, began = measured.loads.get(name), measured.sinks.get(name), measured.phase(f"{name}: mail")
    look_up, connect, mail, told = parts.values()
    if not (look_up and connect and mail and told and sent and got and began):
        return None
    deferred: dict[str, tuple[float, str]] = {}
    for t, text in measured.log_lines("relay", r"/smtp\[\d+\]: [0-9A-Za-z]+: to=.*, status=deferred "):
        if began.start <= t < until:
            deferred.setdefault(text.partition("]: ")[2].partition(":")[0], (t, text))
    return Seen(
        name=name,
        look_up=look_up["report"],
        connect=connect["report"],
        tables=[table for part in (look_up, connect, mail) for table in part["tables"]],
        messages=messages,
        accepted=sent.accepted,
        delivered=got.delivered,
        deferred=deferred,
        kernel=told["lines"],
    )


def judge(measured: Measurements) -> Verdict:
    """Judge one run: did they fail for want of entries, and not with the fix?"""
    params = Params.model_validate(measured.params)
    again = measured.phase(f"fix {params.fix}")
    messages = min(params.messages, params.addresses)
    reported = _seen(measured, REPORTED, messages, again.start if again else float("inf"))
    fixed = _seen(measured, FIXED, messages, float("inf")) if params.fix else None
    outcome, reason = _outcome(reported, fixed, params.fix)
    passes = {name: seen for name, seen in (("as reported", reported), (f"with the fix {params.fix}", fixed)) if seen}
    limit = f", which holds {reported.limit:,} entries" if reported else ""
    return Verdict(
        outcome=outcome,
        claim=f"A node that talks to {params.addresses:,} addresses of its link overflows the kernel's neighbour table"
        f"{limit}: look-ups or connections fail" + (f"; with the fix {params.fix} none does." if params.fix else "."),
        reason=reason,
        evidence=tuple(e for name, seen in passes.items() for e in _evidence(name, seen, wanted=seen is reported)),
        marks=(f"scaled: smtp_connect_timeout is {CONNECT_TIMEOUT_S} s here, and 30 s by default",),
        figures=_figures(reported, fixed),
        tables=(_failures_table(passes), _errors_table(passes)) if passes else (),
        quotes=tuple(quote for seen in passes.values() for quote in _quotes(seen)),
    )


def _outcome(reported: Seen | None, fixed: Seen | None, fix: str | None) -> tuple[Outcome, str]:
    if reported is None:
        return Outcome.INCONCLUSIVE, "The bed was not asked to the end, so there is no answer."
    full = f"{reported.fulls:,} times there was no room in the table"
    if reported.clean:
        return Outcome.REFUTED, f"No look-up, connection or message failed; {full}, with {reported.most:,} entries."
    if not reported.fulls:
        return Outcome.INCONCLUSIVE, f"{_failed(reported)}; but the table was never full, so there is another cause."
    shown = f"{_failed(reported)}; {full}."
    if not fix:
        return Outcome.CONFIRMED, shown
    if fixed is None:
        return Outcome.INCONCLUSIVE, f"{shown} The bed with the fix {fix} was not asked to the end."
    outcome = Outcome.CONFIRMED if fixed.clean else Outcome.REFUTED
    return outcome, f"{shown} With the fix {fix}: {_failed(fixed)}; {fixed.fulls:,} times there was no room."


def _failed(seen: Seen) -> str:
    return ", ".join(f"{failed:,} of {tried:,} {what}" for what, (failed, tried) in seen.failures.items())


def _evidence(name: str, seen: Seen, *, wanted: bool) -> Iterator[Evidence]:
    """Hold one pass against what it should show: failures as reported, none with a fix."""

    def count(fact: str, found: int | None, source: str, of: str = "") -> Evidence:
        return Evidence(
            fact=f"{name}: {fact}",
            found="could not be read" if found is None else f"{found:,}{of}",
            needed="at least 1" if wanted else "0",
            holds=None if found is None else bool(found) is wanted,
            source=source,
        )

    sources = (f"results/{seen.name}-look-up.json", f"results/{seen.name}-connect.json", "logs/relay.log.gz")
    for (fact, (failed, tried)), source in zip(seen.failures.items(), sources, strict=True):
        yield count(fact, failed, source, f" of {tried:,}")
    yield count("entries that found no room (table_fulls)", seen.fulls, "series/readings.jsonl")
    lines = None if seen.kernel is None else len(seen.kernel)
    yield count("lines of the kernel that say so", lines, f"results/{seen.name}-kernel.json")


def _figures(reported: Seen | None, fixed: Seen | None) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for prefix, seen in (("", reported), ("fixed_", fixed)):
        if seen:
            names = ("look_ups_failed", "connections_failed", "messages_not_delivered_at_once")
            figures |= {f"{prefix}{n}": failed for n, (failed, _) in zip(names, seen.failures.values(), strict=True)}
            figures |= {f"{prefix}table_fulls": seen.fulls, f"{prefix}entries_at_most": seen.most}
    if reported:
        figures["predicted_threshold_addresses"] = reported.limit - len(AMONG_THEMSELVES) + 1
    return figures


def _failures_table(passes: Mapping[str, Seen]) -> Table:
    rows: dict[str, list[str | float | None]] = {
        fact: [f"{seen.failures[fact][0]:,} of {seen.failures[fact][1]:,}" for seen in passes.values()]
        for fact in next(iter(passes.values())).failures
    }
    rows |= {
        "messages delivered in the end": [seen.delivered for seen in passes.values()],
        "entries of the table at most": [seen.most for seen in passes.values()],
        "entries that it holds (gc_thresh3)": [int(seen.tables[-1]["limit"]) for seen in passes.values()],
        "entries that found no room (table_fulls)": [seen.fulls for seen in passes.values()],
    }
    return Table(title="What failed", columns=("", *passes), rows=tuple((name, *cells) for name, cells in rows.items()))


def _errors_table(passes: Mapping[str, Seen]) -> Table:
    """Say what programs are told: an errno by its name, or nothing."""
    calls = {
        "connect(2)": ("connect", "errors"),
        "sendto(2)": ("look_up", "errors"),
        "sendto(2) with IP_RECVERR": ("look_up", "told"),
    }
    rows: list[tuple[str | float | None, ...]] = [
        (call, *(_names(getattr(seen, what)[kind]) for seen in passes.values())) for call, (what, kind) in calls.items()
    ]
    rows.append(("datagrams dropped in silence", *(seen.look_up["dropped"] for seen in passes.values())))
    return Table(title="What programs are told", columns=("call", *passes), rows=tuple(rows))


def _names(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,} times" for name, count in sorted(errors.items())) or "no error"


def _quotes(seen: Seen) -> Iterator[Quote]:
    """Quote the kernel once, and the relay once for each kind of reason."""
    for line in (seen.kernel or ())[:1]:
        yield Quote(source="the kernel's log", t=line["t"], text=f"[{line['stamp']}] {line['text']}")
    kinds: dict[str, Quote] = {}
    for t, text in seen.deferred.values():
        kind = "connect" if "(connect to " in text else "name" if "Name service error" in text else "other"
        kinds.setdefault(kind, Quote(source="log of relay", t=t, text=text))
    yield from kinds.values()


SCENARIO = NeighbourOverflow()
