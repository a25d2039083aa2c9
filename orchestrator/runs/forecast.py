"""Forecast from a bed's plan: the plan's needs, and the limit of this host that the bed would reach first."""

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from orchestrator.hosts.capacity import Check, Readings, check
from orchestrator.plan import NodePlan, Plan

TIME_WAIT_S = 60
"""Time until Linux frees the port of a closed connection (TCP_TIMEWAIT_LEN, net/tcp.h)."""
REUSE_S = 1
"""With tcp_tw_reuse, Linux reuses a port after one second, measured by TCP timestamps (RFC 6191)."""
OWN_LIMIT = "open files, by the daemon's own limit"


def forecast(
    readings: Readings,
    plan: Plan,
    *,
    connections: Mapping[str, float] | None = None,
    provoked: AbstractSet[str] = frozenset(),
) -> list[Check]:
    """Compare the needs of a plan with the limits of the host, its daemons and its nodes.

    ``connections``: node -> new connections a second to one address. ``provoked``: names of the checks that the
    scenario makes fail on purpose; a failure of these gets the state ``wanted``.
    """
    checks = [*check(readings, plan.needs), *_own_limits(plan)]
    checks += [_ports(plan.named(node), rate) for node, rate in (connections or {}).items()]
    return [replace(c, state="wanted", do="") if c.state != "ok" and c.name in provoked else c for c in checks]


def first_to_bind(checks: list[Check]) -> Check | None:
    """Return the check with the largest ``share``: the limit that the plan reaches first."""
    return max((c for c in checks if c.share is not None), key=lambda c: c.share or 0.0, default=None)


def _own_limits(plan: Plan) -> list[Check]:
    """Compare each node's open files with its daemon's limit or RLIMIT_NOFILE; return the tightest check."""
    checks = []
    for node in plan.nodes:
        limits = [limit for limit in (node.fd_limit, node.limits.nofile) if limit]
        if limits:
            do = "raise the limit or use fewer addresses"
            checks.append(Check.figure(OWN_LIMIT, node.fds, min(limits), do, short="warn", of=f" ({node.name})"))
    return sorted(checks, key=lambda c: c.share or 0.0)[-1:]


def _ports(node: NodePlan, rate: float) -> Check:
    """Compare the number of local ports that connections to one address occupy with the node's port range."""
    low, high = (int(port) for port in node.sysctls["net.ipv4.ip_local_port_range"].split())
    held = REUSE_S if node.sysctls.get("net.ipv4.tcp_tw_reuse") == "1" else TIME_WAIT_S
    return Check.figure(
        "local ports to one address",
        math.ceil(rate * held),
        high - low + 1,
        "send more messages over one connection, or fewer a second",
        short="warn",
        of=f" ({node.name}: {rate:,.0f} connections a second, each port kept {held} s in TIME-WAIT)",
    )
