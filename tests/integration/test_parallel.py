"""Beds side by side on one engine: neither disturbs the other."""

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from orchestrator.bed.addressing import candidates
from orchestrator.hosts import Host
from orchestrator.measurements import Measurements
from tests.integration.command import Watched, call, phase
from tests.integration.traces import traces

pytestmark = [pytest.mark.docker, pytest.mark.alone]

SIZES = (20, 300)


def test_two_runs_at_once_do_not_disturb_each_others_accounting(real_engine: Host, tmp_path: Path) -> None:
    options = ("--seconds", "5", "--calibration", "1", "--probe", "1", "--format", "json")
    runs = {n: Watched(real_engine, tmp_path / str(n), "--domains", str(n), *options) for n in SIZES}
    for run in runs.values():
        run.until(phase("probe-20"))
        assert len(run.nodes) == 4
    codes = {n: run.end() for n, run in runs.items()}

    measured = {n: Measurements.read(run.rundir) for n, run in runs.items() if run.rundir}
    for domains, of_run in measured.items():
        verdict = json.loads(runs[domains].output())["verdict"]
        # Each takes CPU from the other: the verdict says so.
        expected = (3, "INCONCLUSIVE") if "disturbed" in verdict["marks"] else (0, "CONFIRMED")
        assert (codes[domains], verdict["outcome"]) == expected, runs[domains].said
        for load in ("calibration", "calibration-single", "relay"):
            account, sink = of_run.accounting(load), of_run.sinks[load]
            assert account
            assert account.offered == account.accepted == account.delivered >= domains
            assert (account.lost, account.duplicated, account.corrupted) == (0, 0, 0)
            assert (account.misrouted, account.foreign, account.unaccepted) == (0, 0, 0)
            assert sink.domains == domains
    subnets = [IPv4Network(of_run.facts["plan"]["subnet"]) for of_run in measured.values()]
    assert not subnets[0].overlaps(subnets[1])
    spans = [of_run.phases for of_run in measured.values()]
    assert max(span[0].start for span in spans) < min(span[-1].end or 0 for span in spans), "they ran at once"
    assert traces(real_engine, {id_ for run in runs.values() for id_ in run.ids}) == []


def test_of_two_beds_that_wish_for_one_subnet_one_is_refused(real_engine: Host, tmp_path: Path) -> None:
    taken = [IPv4Network(f.subnet) for f in real_engine.find({}) if f.kind == "network" and f.subnet]
    wish = list(candidates(27, taken))[-1]
    path = tmp_path / "wish.yaml"
    path.write_text(f"name: wish\ndomains: 4\nsubnet: {wish}\nnodes: {{sink: {{service: blackhole}}}}\n")
    names = [f"wish-{secrets.token_hex(4)}" for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda name: call("up", path, "--name", name, "--format", "json"), names))
    up, refused = sorted(both, key=lambda done: done.returncode)
    assert (up.returncode, refused.returncode) == (0, 2), up.stderr + refused.stderr
    bed = json.loads(up.stdout)
    try:
        assert bed["subnet"] == str(wish)
        error = json.loads(refused.stderr.splitlines()[-1])
        assert error["needed"] == f"an unused subnet instead of {wish}"
        assert f"tb-{bed['id']}-lab" in error["found"]
        assert "Traceback" not in refused.stderr
        again = call("up", path, "--name", names[0] if bed["bed"] == names[1] else names[1])
        assert again.returncode == 2
        left = [b for b in json.loads(call("ps", "--format", "json").stdout) if b["bed"] in names]
        assert [b["id"] for b in left] == [bed["id"]]
    finally:
        assert call("down", bed["id"]).returncode == 0
    assert traces(real_engine, [bed["id"]]) == []
