"""One pass of drive() over the bed: look-ups and connections to every address, and mail while the table is full."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event
from typing import Any

from orchestrator.agents.contract import LoadOrder
from orchestrator.scenarios.neighbour_overflow.fixes import blocks
from orchestrator.scenarios.neighbour_overflow.params import Params
from orchestrator.services import Role
from orchestrator.up.bed import RecordedBed

TRIED_S = 20.0
"""Maximum time to keep the table full, in seconds; the time ends early once Postfix has tried every message."""
FILL_S = 0.5
"""Pause between fillings of the table; the kernel's garbage collection spares an entry for 5 s (arp(7))."""
SETTLE_S = 60.0
"""Time limit to deliver the deferred messages after the table has been emptied."""
PROBE_S, POLL_S = 30.0, 0.25
MESSAGE_B = 1024
OVERFLOW = r"neighbour: arp_cache: neighbor table overflow!"
SMTP = "25"

_QUEUES = (f"/var/spool/postfix/{queue}" for queue in ("incoming", "active"))
_UNTRIED = ("find", *_QUEUES, "-ignore_readdir_race", "-type", "f")
_FLUSH = "ip -4 neighbour flush all"

_Line = dict[str, Any]
"""A line that the agent prints."""


def make_pass(bed: RecordedBed, params: Params, name: str) -> None:
    """Make one pass over the bed, and save its results as results/<pass>-*.json."""
    relay, domain, count = bed.role(Role.RELAY), bed.plan.deliveries[0].domain, params.addresses
    servers, sinks = (block.first for block in blocks(bed))
    before = bed.kernel_log(OVERFLOW)
    for act, first, word in (("look-up", servers, domain), ("connect", sinks, SMTP)):
        _flush(bed)
        with bed.phase(f"{name}: {act}"):
            _save(bed, f"{name}-{act}", _probe(bed, act, first, count, word))
    _flush(bed)
    messages = min(params.messages, count)
    with bed.phase(f"{name}: mail"):
        # The nodes that carry mail get entries for each other before the table fills; the kernel keeps them for 5 s.
        _probe(bed, "connect", relay.plan.v4, 1, SMTP)
        relay.ask("getent", "hosts", f"{bed.role(Role.LOAD).name}.nodes.test")
        with _repeated(lambda: _probe(bed, "fill", servers, count - messages, domain)) as lines:
            sent = bed.send(name, LoadOrder(messages=messages, sizes=[MESSAGE_B], timeout=TRIED_S))
            bed.until(lambda: not relay.ask(*_UNTRIED), TRIED_S, POLL_S)
        _save(bed, f"{name}-mail", lines)
    _flush(bed)
    bed.relay.flush()
    sent.drain(SETTLE_S)
    newer = None if before is None else bed.kernel_log(OVERFLOW, after=before)
    bed.rundir.save_result(f"{name}-kernel", {"lines": None if newer is None else list(map(asdict, newer))})


@contextmanager
def _repeated(fill: Callable[[], list[_Line]]) -> Iterator[list[_Line]]:
    """Fill the table repeatedly while the block runs; after the block, the yielded list holds all agent lines."""
    lines, done = fill(), Event()

    def go_on() -> None:
        while not done.wait(FILL_S):
            lines.extend(fill())

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(go_on)
        try:
            yield lines
        finally:
            done.set()
        going.result()


def _probe(bed: RecordedBed, *words: object) -> list[_Line]:
    """Run ``agents.neighbours`` in the load generator's node; record its readings of the table and return its lines."""
    lines = list(bed.role(Role.LOAD).run_agent("neighbours", words, PROBE_S))
    for table in (line["table"] for line in lines if "table" in line):
        bed.keep("entries of the neighbour table", "all namespaces", table["entries"], at=table["t"])
        bed.keep("entries that found no room (table_fulls)", "all namespaces", table["fulls"], at=table["t"])
    return lines


def _save(bed: RecordedBed, name: str, lines: list[_Line]) -> None:
    report = next((line["report"] for line in lines if "report" in line), None)
    tables = [line["table"] for line in lines if "table" in line]
    bed.rundir.save_result(name, {"tables": tables, "report": report})


def _flush(bed: RecordedBed) -> None:
    """Drop the neighbour entries of every node, except permanent ones."""
    with ThreadPoolExecutor(len(bed.nodes)) as pool:
        list(pool.map(lambda node: node.change_network(_FLUSH), bed.nodes.values()))
