"""The walls of a bed that is up: a flush of its rules is named by `ps` and `doctor`, and mended by `up`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.errors import ExitCode
from orchestrator.hosts import Host
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.command import answer, call
from tests.integration.traces import on_the_host

pytestmark = [pytest.mark.docker, pytest.mark.alone]

LIST = ("nft", "--stateless", "list", "table", "inet", "bed")


def _open(bed: Up) -> list[dict[str, str]]:
    """Return what `ps` says of the walls of a bed."""
    (found,) = (b["open"] for b in answer("ps") if b["id"] == bed.id)
    return list(found)


def test_a_flush_of_the_rules_is_named_and_up_mends_it(real_engine: Host, relay_bed: Up) -> None:
    table, relay, sink = f"tb{relay_bed.id}", relay_bed.container("relay"), relay_bed.container("sink")
    host = on_the_host(real_engine, "nft", "list", "table", "netdev", table)
    node = real_engine.node(relay).exec(LIST)
    assert node.status == 0
    assert _open(relay_bed) == []
    assert [b["not_looked_at"] for b in answer("ps") if b["id"] == relay_bed.id] == [[]]

    on_the_host(real_engine, "nft", "delete", "table", "netdev", table)
    assert real_engine.node(relay).exec(("nft", "flush", "ruleset")).status == 0
    assert real_engine.node(sink).exec(("nft", "flush", "chain", "inet", "bed", "output")).status == 0
    said = {gap["needed"].partition(", which")[0]: gap["found"] for gap in _open(relay_bed)}
    assert said == {
        f"table netdev {table} in the host's nftables": "no rule that drops every frame",
        "table inet bed in the nftables of node relay": "none",
        "table inet bed in the nftables of node sink": "different rules in it",
    }
    shown = call("ps").stdout
    assert shown.count("  open: needed table ") == 3
    (check,) = (c for c in answer("doctor", "relay", "--domains", "40") if c["name"] == "walls of the beds that are up")
    assert (check["state"], relay_bed.id in check["found"]) == ("warn", True)
    assert "`testbed up`" in check["do"]

    again = answer("up", "relay", "--domains", "40", "--name", relay_bed.facts["bed"])
    assert again["id"] == relay_bed.id
    assert _open(relay_bed) == []
    assert on_the_host(real_engine, "nft", "list", "table", "netdev", table) == host
    assert real_engine.node(relay).exec(LIST) == node


def test_a_bed_that_lost_a_container_stays_and_is_named(real_engine: Host, tmp_path: Path) -> None:
    path = tmp_path / "pair.yaml"
    path.write_text("name: x\ndomains: 2\nnodes: {dns: {service: bind}, ns2: {service: bind}}\n", encoding="utf-8")
    bed = bring_up(path, "--for", "1d")
    name = ("--name", str(bed.facts["bed"]))
    try:
        again = answer("up", path, *name)
        assert again == bed.facts
        assert datetime.fromisoformat(again["expires"]) - datetime.now(UTC) < timedelta(days=1)

        real_engine.node(bed.container("ns2")).remove()
        cleaned = answer("clean")
        assert bed.id in {kept["id"] for kept in cleaned["kept"]}
        shown = call("ps").stdout
        assert "  not looked at: node ns2: it is removed; do: " in shown
        (check,) = (c for c in answer("doctor", path) if c["name"] == "walls of the beds that are up")
        assert f"{bed.facts['bed']} {bed.id} (host, node dns)" in check["found"]
        assert f"{bed.facts['bed']} {bed.id} (node ns2: it is removed)" in check["found"]
        refused = call("up", path, *name)
        assert (refused.returncode, "node ns2: it is removed" in refused.stderr) == (ExitCode.ENGINE, True)
    finally:
        bring_down(real_engine, bed)
