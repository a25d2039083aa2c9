"""One pass over the bed: look-ups and connections to every address, and mail while the table is full."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event
from typing import Any

from orchestrator.agents.contract import LoadOrder
from orchestrator.scenarios.neighbour_overflow.fixes import blocks
from orchestrator.scenarios.neighbour_overflow.params import Params
from orchestrator.services import Role
from orchestrator.services.agents import PYTHON
from orchestrator.up.bed import RecordedBed

TRIED_S = 20.0
"""Most seconds that the table is kept full; it ends earlier if Postfix has tried every message once."""
FILL_S = 0.5
"""Pause between fillings of the table; the kernel's garbage collection spares an entry for 5 s (arp(7))."""
SETTLE_S = 60.0
"""Time limit to deliver the deferred messages afterwards."""
PROBE_S, POLL_S = 30.0, 0.25
MESSAGE_B = 1024
OVERFLOW = r"neighbour: arp_cache: neighbor table overflow!"
SMTP = "25"

_QUEUES = (f"/var/spool/postfix/{queue}" for queue in ("incoming", "active"))
_UNTRIED = ("find", *_QUEUES, "-ignore_readdir_race", "-type", "f")
_FLUSH = "ip -4 neighbour flush all"


def ask(bed: RecordedBed, params: Params, name: str) -> None:
    """Make one pass over the bed, and save its results as results/<pass>-*.json."""
    load, relay = bed.role(Role.LOAD), bed.role(Role.RELAY)
    servers, sinks = (block.first for block in blocks(bed))
    domain, count = bed.plan.deliveries[0].domain, params.addresses
    before = bed.kernel_log(OVERFLOW)
    for act, first, what in (("look-up", servers, domain), ("connect", sinks, SMTP)):
        _flush(bed)
        with bed.phase(f"{name}: {act}"):
            lines = [_keep(bed, one) for one in load.json_lines(_agent(act, first, count, what), PROBE_S)]
            bed.rundir.save_result(f"{name}-{act}", _joined(lines))
    _flush(bed)
    messages = min(params.messages, count)
    filling = _agent("fill", servers, count - messages, domain)
    with bed.phase(f"{name}: mail"):
        # The nodes that carry the mail get entries for each other before the table fills; these are kept for 5 s.
        load.ask(*_agent("connect", relay.plan.v4, 1, SMTP))
        relay.ask("getent", "hosts", f"{load.name}.nodes.test")
        with _kept_full(bed, filling) as lines:
            sent = bed.send(name, LoadOrder(messages=messages, sizes=[MESSAGE_B], timeout=TRIED_S))
            bed.until(lambda: not relay.ask(*_UNTRIED), TRIED_S, POLL_S)
        bed.rundir.save_result(f"{name}-mail", _joined(lines))
    _flush(bed)
    bed.relay.flush()
    sent.drain(SETTLE_S)
    newer = None if before is None else bed.kernel_log(OVERFLOW, after=before)
    kernel_lines = None if newer is None else [asdict(line) for line in newer]
    bed.rundir.save_result(f"{name}-kernel", {"lines": kernel_lines})


@contextmanager
def _kept_full(bed: RecordedBed, filling: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
    """Keep the table full while the block runs; the agent's lines are in the yielded list when it ends."""
    load, done = bed.role(Role.LOAD), Event()

    def fill() -> list[dict[str, Any]]:
        return [_keep(bed, one) for one in load.json_lines(filling, PROBE_S)]

    def go_on() -> None:
        while not done.wait(FILL_S):
            lines.extend(fill())

    lines = fill()
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(go_on)
        try:
            yield lines
        finally:
            done.set()
        going.result()


def _agent(*words: object) -> tuple[str, ...]:
    return (*PYTHON, "-m", "orchestrator.agents.neighbours", *map(str, words))


def _keep(bed: RecordedBed, line: dict[str, Any]) -> dict[str, Any]:
    """Save the reading of the table in a line of the agent, if it has one; return the line."""
    if table := line.get("table"):
        bed.keep("entries of the neighbour table", "all namespaces", table["entries"], at=table["t"])
        bed.keep("entries that found no room (table_fulls)", "all namespaces", table["fulls"], at=table["t"])
    return line


def _joined(lines: list[dict[str, Any]]) -> dict[str, Any]:
    reports = [line["report"] for line in lines if "report" in line]
    return {"tables": [line["table"] for line in lines if "table" in line], "report": reports[0] if reports else None}


def _flush(bed: RecordedBed) -> None:
    """Drop the neighbour entries of every node, except permanent ones."""
    with ThreadPoolExecutor(len(bed.nodes)) as pool:
        list(pool.map(lambda node: node.change_network(_FLUSH), bed.nodes.values()))
