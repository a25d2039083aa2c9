"""Loads: send messages into a bed that is up, wait for an empty queue, read the sink's report."""

import json
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator import services
from orchestrator.agents.contract import LoadOrder, LoadReport, SinkReport
from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.measurements.files import check_name
from orchestrator.services import GeneratesLoad, Purpose, Role

if TYPE_CHECKING:
    from orchestrator.up.bed import RecordedBed

UNBOUNDED_S = 86_400.0
"""Time limit of a load without a duration."""
OVERTIME_S = 120.0
"""Time after a load's planned end, in seconds, after which its generator counts as hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentLoad:
    """A load whose generator has ended."""

    bed: "RecordedBed"
    name: str
    report: LoadReport

    def account(self) -> SinkReport:
        """Return the sink's report of the load, and save it as results/<name>-sink.json."""
        report = self.bed.sink.report(self.report.run)
        self.bed.rundir.save_result(f"{self.name}-sink", report.to_dict())
        return report

    def drain(self, seconds: float, *, phase: str = "drain") -> bool:
        """Wait up to ``seconds`` for an empty relay queue; save the result as results/<name>-queue.json.

        Return whether the queue is known to be empty.
        """
        left: int | None = None
        arrived: int | None = None
        deadline = time.monotonic() + seconds

        def drained() -> bool:
            nonlocal left, arrived
            before, arrived = arrived, self.bed.sink.count(self.report.run) if self.bed.sink.counts else None
            accepted = self.report.accepted
            left = None if accepted is None or arrived is None else max(accepted - arrived, 0)
            # A long queue takes long to list: read its length only once no more messages arrive.
            if left == 0 or arrived == before or time.monotonic() > deadline:
                queued = self.bed.relay.queue_length()
                left = left if queued is None else queued
            return left == 0

        self.bed.until(drained, seconds)
        ended = time.time()
        self.bed.phases.append(
            {"name": phase, "start": self.report.ended, "end": ended, "purpose": self.report.purpose}
        )
        self.bed.rundir.save_result(f"{self.name}-queue", {"left": left, "seconds": ended - self.report.ended})
        if self.report.numbered and self.bed.sink.counts:
            self.account()
        return left == 0


def send(
    bed: "RecordedBed",
    name: str,
    order: LoadOrder,
    *,
    to: Role = Role.RELAY,
    by: str | None = None,
    purpose: Purpose = Purpose.MEASURE,
) -> SentLoad:
    """Let a load generator send a load; save the generator's report as results/<name>-load.json.

    Args:
        bed: the bed.
        name: name of the load; part of file names.
        order: the load; this function fills in run, target, domains and sender.
        to: role of the receiving node: the relay, or the sink (bypassing the relay).
        by: the sending node; by default the first load generator.
        purpose: the load's purpose.

    Raises:
        InvalidInput: the node is no load generator, or cannot send this load.
        EngineFailed: the generator failed, exceeded its time limit, or reported nothing.
    """
    check_name(name)
    node = bed.nodes[by] if by else bed.role(Role.LOAD)
    kind = services.service(node.plan.service)
    if not isinstance(kind, GeneratesLoad):
        raise InvalidInput("a load generator", f"node {node.name}, service {kind.name}", "name another node")
    domains = [delivery.domain for delivery in bed.plan.deliveries]
    straight = to is Role.SINK and kind.numbers
    full = replace(
        order,
        run=secrets.token_hex(4),
        target=str(bed.plan.destinations if straight else bed.role(to).address),
        domains=domains,
        sender=f"load@{domains[0]}",
    )
    if bed.sink.counts:
        bed.sink.begin(full.run, name)
    with bed.rundir.write_series("load") as series:

        def tick(reading: dict[str, object]) -> None:
            series.write(json.dumps({"phase": name, **reading}) + "\n")

        allowed = (full.seconds or UNBOUNDED_S) + full.timeout + OVERTIME_S
        report = kind.read(node.lines(kind.command(full), allowed), full, tick)
    if report is None:
        raise EngineFailed(f"a report of load {name}", "none", "read logs/ in the run directory")
    report = replace(
        report,
        purpose=purpose,
        generator=kind.name,
        node=node.name,
        to=to,
        connections_limit=order.connections,
        arrived=bed.sink.count(full.run) if bed.sink.counts and not report.numbered else None,
    )
    bed.phases.append({"name": name, "start": report.started, "end": report.ended, "purpose": purpose})
    bed.rundir.save_result(f"{name}-load", report.to_dict())
    sent = SentLoad(bed=bed, name=name, report=report)
    if bed.sink.counts and report.numbered:
        sent.account()
    return sent
