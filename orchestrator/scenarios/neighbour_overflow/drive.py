"""One pass over the bed: look-ups and connections to every address, and mail while the table is full."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event
from typing import Any

from orchestrator.errors import EngineFailed
from orchestrator.plan import NodePlan
from orchestrator.scenarios.neighbour_overflow.link import blocks
from orchestrator.scenarios.neighbour_overflow.params import Params
from orchestrator.services import Role
from orchestrator.services.agents import PYTHON
from orchestrator.up.collect import kernel
from orchestrator.up.live import Live

TRIED_S = 20.0
"""How long the table is kept full at most, until every message was tried once."""
FILL_S = 0.5
"""How soon the table is filled again: an entry is safe from the kernel's garbage collection for 5 s (arp(7))."""
SETTLE_S = 60.0
"""How long the relay may take to deliver afterwards what it had to defer."""
PROBE_S, POLL_S = 30.0, 0.25
MESSAGE_B = 1024
OVERFLOW = r"neighbour: arp_cache: neighbor table overflow!"
SMTP = "25"

_QUEUES = (f"/var/spool/postfix/{queue}" for queue in ("incoming", "active"))
_UNTRIED = ("find", *_QUEUES, "-ignore_readdir_race", "-type", "f")
_FLUSH = "ip -4 neighbour flush all"


def ask(live: Live, params: Params, name: str) -> None:
    """Make one pass over the bed, and keep what was seen as results/<pass>-*.json."""
    load, relay = live.plan.node(Role.LOAD), live.plan.node(Role.RELAY)
    servers, sinks = (block.first for block in blocks(live))
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
        live.ask(load, *_agent("connect", relay.v4, 1, SMTP))
        live.ask(relay, "getent", "hosts", f"{load.name}.nodes.test")
        with _kept_full(live, filling) as said:
            order = {"target": str(relay.v4), "messages": messages, "sizes": [MESSAGE_B], "timeout": TRIED_S}
            live.send(name, order)
            _await_first_try(live, relay)
        live.rundir.save_result(f"{name}-mail", _joined(said))
    _flush(live)
    live.ask(relay, "postqueue", "-f")
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
    while live.ask(relay, *_UNTRIED) and time.monotonic() < deadline:
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
