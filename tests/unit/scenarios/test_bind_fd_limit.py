"""The limit of BIND's sockets: what is predicted of it, and how a run directory is judged."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Output
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome, Verdict
from orchestrator.plan import make_plan
from orchestrator.scenarios.bind_fd_limit import SCENARIO, drive
from orchestrator.scenarios.bind_fd_limit.named import Params, servers
from tests.unit.up.test_bed import up

LOST = EngineFailed("an answer", "the engine did not answer", "see whether it runs")
HEALTHY = """\
starting BIND 9.16.50-Debian (Extended Support Version) <id:>
running
managed-keys-zone: Unable to fetch DNSKEY set '.': failure"""
OVER = """\
starting BIND 9.16.50-Debian (Extended Support Version) <id:>
socket: file descriptor exceeds limit (10272/4096)
couldn't add command channel ::1#953: not enough free resources
running
socket: file descriptor exceeds limit (10272/4096)
managed-keys-zone: Unable to fetch DNSKEY set '.': not enough free resources
accept: file descriptor exceeds limit (10272/4096)"""
MOMENTARY = """\
running
socket: file descriptor exceeds limit (4096/4096)
managed-keys-zone: Unable to fetch DNSKEY set '.': failure"""
ABORTED = """\
starting BIND 9.18.49-1~deb12u3-Debian (Extended Support Version) <id:>
netmgr/tcpdns.c:347:isc__nm_tcpdns_lb_socket(): fatal error:
exiting (due to fatal error in library)"""
STOPPED = [{"way": "rndc stop", "status": 0, "said": "", "ended": True, "s": 0.5}]
REFUSED = [
    {"way": "rndc stop", "status": 1, "said": "rndc: connection to remote host closed", "ended": False, "s": 8.1},
    {"way": "SIGTERM", "status": 0, "said": "", "ended": False, "s": 8.0},
]


def judged(tmp_path: Path, nodes: dict[str, dict[str, Any]], **params: Any) -> Verdict:
    """Judge a run: for each node its log, and what else was seen of it (``open``, ``stop``, ``end``)."""
    rundir = RunDir.create(tmp_path, SCENARIO.name)
    rundir.save({"scenario": SCENARIO.name, "params": Params(**params).model_dump()})
    for node, seen in nodes.items():
        with rundir.write_log(node) as log:
            log.writelines(
                f"{1e9 + n} 23-Nov-2026 04:41:53.463 {text}\n" for n, text in enumerate(seen["log"].split("\n"))
            )
        for result in seen.keys() - {"log"}:
            rundir.save_result(f"{node}-{result}", seen[result])
    measured = Measurements.read(rundir)
    return SCENARIO.judge(measured, Params(**measured.params))


def counted(open_files: int, addresses: int) -> dict[str, Any]:
    return {
        "fetched": True,
        "open_files": open_files,
        "sockets": 4 * addresses,
        "addresses": addresses,
        "memory_b": 700_000_000,
    }


SHOWN = {"log": OVER, "open": counted(10_272, 2560), "stop": {"tried": REFUSED, "status": None}}
GONE = {"log": HEALTHY, "open": counted(37, 1), "stop": {"tried": STOPPED, "status": 0}}


def test_the_symptom_is_confirmed_quoted_and_counted(tmp_path: Path) -> None:
    verdict = judged(tmp_path, {"dns": SHOWN})
    assert verdict.outcome is Outcome.CONFIRMED
    assert "9.16.50-Debian (bullseye) with 2,560 addresses" in verdict.claim
    assert "refuses to shut down" in verdict.claim
    assert verdict.quotes[0].text.endswith("socket: file descriptor exceeds limit (10272/4096)")
    assert verdict.quotes[0].t == 1e9 + 1
    assert verdict.figures["over_limit_lines"] == 2
    assert verdict.figures["ready_s"] == 3
    assert all(evidence.holds for evidence in verdict.evidence)
    assert "2,560 x 2 x 24 = 122,880" in verdict.marks[0]


def test_a_named_below_its_limit_refutes_it(tmp_path: Path) -> None:
    verdict = judged(tmp_path, {"dns": GONE | {"open": counted(73, 10)}}, addresses=10)
    assert verdict.outcome is Outcome.REFUTED
    assert verdict.figures["over_limit_lines"] == 0
    assert verdict.figures["stopped_after_s"] == 0.5
    assert not verdict.quotes


def test_a_limit_that_is_met_for_moments_only_refutes_it_and_is_quoted(tmp_path: Path) -> None:
    verdict = judged(tmp_path, {"dns": GONE | {"log": MOMENTARY}}, addresses=1014)
    assert verdict.outcome is Outcome.REFUTED
    assert "at once" in verdict.reason
    assert verdict.quotes[0].text.endswith("(4096/4096)")


def test_what_its_log_says_needs_no_fetch(tmp_path: Path) -> None:
    slow = SHOWN | {"open": counted(16_032, 4000) | {"fetched": False}}
    assert judged(tmp_path, {"dns": slow}, addresses=4000).outcome is Outcome.CONFIRMED


@pytest.mark.parametrize(
    "seen", [{"log": ""}, {"log": HEALTHY}, {"log": HEALTHY, "open": counted(73, 10) | {"fetched": False}}]
)
def test_what_was_not_put_to_the_test_is_inconclusive(tmp_path: Path, seen: dict[str, Any]) -> None:
    assert judged(tmp_path, {"dns": seen}).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("reported", "fixed", "outcome"),
    [
        (SHOWN, GONE, Outcome.CONFIRMED),
        (SHOWN, SHOWN, Outcome.REFUTED),
        (SHOWN, GONE | {"stop": {"tried": REFUSED, "status": None}}, Outcome.REFUTED),
        (SHOWN, GONE | {"log": MOMENTARY}, Outcome.REFUTED),
        (GONE, GONE, Outcome.REFUTED),
        (SHOWN, {"log": HEALTHY}, Outcome.INCONCLUSIVE),
        ({"log": ""}, GONE, Outcome.INCONCLUSIVE),
    ],
)
def test_a_fix_counts_when_it_is_shown_without_and_gone_with_it(
    tmp_path: Path, reported: dict[str, Any], fixed: dict[str, Any], outcome: Outcome
) -> None:
    assert judged(tmp_path, {"dns": reported, "fixed": fixed}, fix="listen-on").outcome is outcome


def test_a_named_that_the_kernel_stopped_while_it_started_is_confirmed(tmp_path: Path) -> None:
    verdict = judged(tmp_path, {"dns": {"log": ABORTED, "end": {"status": 139}}}, nofile=8000, dns_release="bookworm")
    assert verdict.outcome is Outcome.CONFIRMED
    assert "8,000" in verdict.reason
    assert verdict.quotes[0].text.endswith("fatal error:")
    assert "shut down" not in verdict.claim


def test_a_prediction_that_is_off_by_more_than_2_percent_is_said(tmp_path: Path) -> None:
    verdict = judged(tmp_path, {"dns": SHOWN | {"open": counted(10_500, 2560)}})
    (prediction,) = (e for e in verdict.evidence if "predicted" in e.needed)
    assert prediction.holds is False


@pytest.mark.parametrize(
    ("params", "open_files", "threshold"),
    [
        ({}, 10_273, 1016),
        ({"fix": "listen-on-v6"}, 6_433, 508),
        ({"workers": 1}, 5_141, 2038),
        ({"max_sockets": None}, 10_273, 5242),
        ({"dns_release": "bookworm"}, 10_269, None),
        ({"dns_release": "bookworm", "nofile": 8000}, 10_269, 1993),
        ({"full": True}, 123_177, 432),
    ],
)
def test_open_files_and_the_threshold_follow_from_the_parameters(
    params: dict[str, Any], open_files: int, threshold: int | None
) -> None:
    reported = servers(Params(**params))["dns"]
    assert (reported.open_files, reported.threshold) == (open_files, threshold)


@pytest.mark.parametrize("fix", ["listen-on", "maxsockets", "listen-on-v6"])
def test_every_fix_brings_the_open_files_below_the_limit(fix: str) -> None:
    named = servers(Params.model_validate({"fix": fix}))
    assert named["dns"].limit is not None
    assert named["fixed"].limit is not None
    assert named["dns"].open_files > named["dns"].limit
    assert named["fixed"].open_files < named["fixed"].limit


def test_the_bed_is_what_the_parameters_say() -> None:
    plan = make_plan(SCENARIO.bed(Params(addresses=300, fix="maxsockets", nofile=1000)), cpus=2)
    dns, fixed = plan.named("dns"), plan.named("fixed")
    assert (len(dns.addresses), dns.limits.nofile) == (300, 1000)
    assert b"named -g -u bind -n 2 -S 4096 -c " in dns.files["/testbed/enter"]
    assert b" -S 2000 -c " in fixed.files["/testbed/enter"]
    assert plan.bed.nodes["dns"].may_end
    conf = dns.files["/etc/bind/testbed/named.conf"].decode()
    assert f"listen-on {{ {plan.subnet}; }}" in conf
    assert "listen-on-v6 { none; }" in conf
    assert "dnssec-validation auto;" in conf


def test_a_host_that_cannot_is_told_the_small_recipe() -> None:
    assert "--workers 2 --max-sockets 4096" in (SCENARIO.smaller(Params(full=True)) or "")
    assert SCENARIO.smaller(Params()) is None


@pytest.mark.parametrize(
    ("error", "ends", "lost"),
    [(None, False, False), (LOST, True, False), (LOST, False, True)],
    ids=["no answer in time", "the end of the node", "the loss of the engine"],
)
def test_only_an_engine_that_is_lost_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: EngineFailed | None, *, ends: bool, lost: bool
) -> None:
    monkeypatch.setattr("orchestrator.up.node.NEWS_S", 0.0)
    with up(tmp_path) as (bed, engine):
        node = next(iter(bed.nodes.values()))
        node.expect_end()

        def fail(spec: ContainerSpec, command: tuple[str, ...]) -> Output:
            if ends:
                engine.end(bed.nodes[spec.name].container.id, 0)
                bed.nodes[spec.name].end(5)
            raise error or TimeoutError(command)

        engine.answer = fail
        with pytest.raises(EngineFailed, match="did not answer") if lost else nullcontext():
            assert drive._ask(bed, node, "rndc", "stop") is None
