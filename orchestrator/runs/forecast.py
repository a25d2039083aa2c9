"""Forecast of a bed's needs, from its plan alone, and of the limit on this host that binds first."""

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from orchestrator.hosts.capacity import Check, Readings, check
from orchestrator.plan import NodePlan, Plan

TIME_WAIT_S = 60
"""How long Linux keeps the port of a closed connection (TCP_TIMEWAIT_LEN, net/tcp.h)."""
REUSE_S = 1
"""The same with tcp_tw_reuse: until the clock of the timestamps has gone on (RFC 6191)."""
OWN_LIMIT = "open files, by the daemon's own limit"


def forecast(
    readings: Readings,
    plan: Plan,
    *,
    connections: Mapping[str, float] | None = None,
    provoked: AbstractSet[str] = frozenset(),
) -> list[Check]:
    """Hold what a plan will need against what the host, its daemons and its nodes allow.

    ``connections`` are the new connections a second that nodes will make to one address, by name of the node.
    What is not enough is *wanted* where the question is what happens then: ``provoked`` are the names of those checks.
    """
    checks = [*check(readings, plan.needs), *_own_limits(plan)]
    checks += [_ports(plan.named(node), rate) for node, rate in (connections or {}).items()]
    return [
        replace(found, state="wanted", do="") if found.state != "ok" and found.name in provoked else found
        for found in checks
    ]


def first_to_bind(checks: list[Check]) -> Check | None:
    """Return the check of which the plan needs the greatest share."""
    return max((found for found in checks if found.share is not None), key=lambda c: c.share or 0.0, default=None)


def _own_limits(plan: Plan) -> list[Check]:
    """Hold the open files of nodes against the limit of their daemon, or their RLIMIT_NOFILE; the tightest stands."""
    found = []
    for node in plan.nodes:
        limits = [limit for limit in (node.fd_limit, node.limits.nofile) if limit]
        if limits:
            found.append(_share(OWN_LIMIT, node.fds, min(limits), node.name, "raise it, or ask for fewer addresses"))
    return sorted(found, key=lambda c: c.share or 0.0)[-1:]


def _ports(node: NodePlan, rate: float) -> Check:
    """Hold the ports that connections to one address will keep against the range; each node has one of its own."""
    low, high = (int(port) for port in node.sysctls["net.ipv4.ip_local_port_range"].split())
    held = REUSE_S if node.sysctls.get("net.ipv4.tcp_tw_reuse") == "1" else TIME_WAIT_S
    return _share(
        "local ports to one address",
        math.ceil(rate * held),
        high - low + 1,
        f"{node.name}: {rate:,.0f} connections a second, each port kept {held} s in TIME-WAIT",
        "send more messages over one connection, or fewer",
    )


def _share(name: str, needed: int, found: int, what: str, do: str) -> Check:
    enough = needed <= found
    return Check(
        name=name,
        needed=f"{needed:,} ({what})",
        found=f"{found:,}",
        do="" if enough else do,
        state="ok" if enough else "warn",
        share=needed / found,
    )
