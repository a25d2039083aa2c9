"""What is rendered for BIND."""

from typing import Any

import pytest

from orchestrator.bed.model import parse_bed
from orchestrator.plan import NodePlan, make_plan

CONF = "/etc/bind/testbed/named.conf"


def rendered(**settings: Any) -> tuple[NodePlan, str]:
    """Return the node and its configuration."""
    node = {"service": "bind", "addresses": 100, "settings": settings}
    bed = parse_bed({"name": "x", "domains": 1, "subnet": "198.18.0.0/24", "nodes": {"dns": node}}, "bed")
    (planned,) = make_plan(bed, cpus=2).nodes
    return planned, planned.files[CONF].decode()


@pytest.mark.parametrize(
    ("settings", "four", "six", "open_files"),
    [
        ({}, "198.18.0.", "2001:2:", 2 * 4 + 29),
        ({"listen": "all"}, "any", "any", 2 * 102 * 4 + 29),
        ({"listen": "lab"}, "198.18.0.0/24", "2001:2::c612:0/120", 2 * 100 * 4 + 29),
        ({"listen": "lab", "listen_v6": "none"}, "198.18.0.0/24", "none", 100 * 4 + 29),
        ({"listen": "service", "listen_v6": "lab", "workers": 3}, "198.18.0.", "2001:2::c612:0/120", 101 * 6 + 40),
    ],
)
def test_it_listens_where_it_is_told(settings: dict[str, Any], four: str, six: str, open_files: int) -> None:
    node, conf = rendered(**settings)
    assert f"listen-on {{ {four}" in conf
    assert f"listen-on-v6 {{ {six}" in conf
    assert 0 <= node.fds - open_files <= 64


def test_by_default_it_is_authoritative_for_everything() -> None:
    node, conf = rendered()
    assert 'zone "." {' in conf
    assert "recursion no;" in conf
    assert "dnssec-validation no;" in conf
    assert b" -S " not in node.files["/testbed/enter"]


def test_recursion_keeps_the_root_of_the_bed() -> None:
    _, conf = rendered(recursion=True)
    assert 'zone "." {' in conf
    assert "recursion yes; allow-recursion { any; };" in conf
    assert "dnssec-validation no;" in conf


def test_a_resolver_has_no_root_of_its_own() -> None:
    node, conf = rendered(resolver=True, max_sockets=4096)
    assert 'zone "." {' not in conf
    assert 'zone "test." {' in conf
    assert "/etc/bind/testbed/_root.zone" not in node.files
    assert "recursion yes; allow-recursion { any; };" in conf
    assert "dnssec-validation auto;" in conf
    assert b" -S 4096 " in node.files["/testbed/enter"]
