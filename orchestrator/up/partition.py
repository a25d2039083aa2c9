"""Partition of a bed: two nodes cannot reach each other, while all others can."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network

from orchestrator.bed.addressing import twin_network
from orchestrator.interrupts import shielded
from orchestrator.plan import Plan
from orchestrator.services import service
from orchestrator.up.node import RunningNode

_CUT = """
table=$1 four=$2 six=$3
nft --file - <<END
table inet $table {
    chain input {
        type filter hook input priority -10; policy accept;
        ip saddr { $four } drop
        ip6 saddr { $six } drop
    }
}
END
"""
_MEND = 'nft delete table inet "$1"'


@contextmanager
def partition(plan: Plan, one: RunningNode, other: RunningNode) -> Iterator[None]:
    """Drop the packets that two nodes receive from each other during the block, over IPv4 and IPv6.

    The sender gets no error, as in a broken network: connections hang until they time out. The end of the block removes
    the rules; a node that has ended has no rules left.
    """
    with ExitStack() as stack:
        for node, peer in ((one, other), (other, one)):
            table = f"cut_{secrets.token_hex(4)}"  # several processes may separate the same nodes
            with shielded():
                node.change_network(_CUT, table, *_prefixes(plan, peer))
                stack.callback(shielded()(node.change_network), _MEND, table)
        yield


def _prefixes(plan: Plan, node: RunningNode) -> tuple[str, str]:
    """Return two sets of nft(8): all IPv4 addresses and all IPv6 addresses of a node."""
    four = [IPv4Network(address) for address in node.plan.addresses]
    if service(node.plan.service).takes_mail:
        four.append(plan.mail)
    return ", ".join(map(str, four)), ", ".join(str(twin_network(one)) for one in four)
