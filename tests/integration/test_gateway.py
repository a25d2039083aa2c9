"""A whole configuration as an administrator's server has it, through relay-throughput as it stands: ``gateway/``."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.contract import LoadReport
from orchestrator.bed import user_files
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from tests.integration.command import call

pytestmark = pytest.mark.docker

HERE = Path(__file__).parent
FILES = HERE / "gateway"
KNOWN = user_files.read_lines(HERE / "gateway.recipients")
STRANGER = "nobody@d3.test"
"""He is in no map."""


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gateway")
    recipients = folder / "recipients"
    recipients.write_text("\n".join([*KNOWN, STRANGER]))
    own = ("--relay-files", FILES, "--recipients", recipients)
    small = (
        "--seconds",
        "3",
        "--calibration",
        "1",
        "--probe",
        "1",
        "--connections",
        "20",
        "--runs",
        folder,
        "--format",
        "json",
    )
    done = call("run", "relay-throughput", *own, *small)
    assert done.returncode in {0, 3}, done.stderr  # 3: a busy machine may leave the instrument too little
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def through_the_relay(summary: dict[str, Any]) -> list[LoadReport]:
    """Return the report of the load and of each short one before it."""
    loads = Measurements.read(RunDir(Path(summary["run"]))).loads
    return [load for load in loads.values() if load.to == "relay"]


def test_every_message_to_a_known_recipient_arrives_and_no_other_is_accepted(summary: dict[str, Any]) -> None:
    account = summary["accounting"]["relay"]
    wrong = ("unresolved", "lost", "duplicated", "corrupted", "misrouted", "unaccepted", "foreign")
    assert {fate: account[fate] for fate in wrong} == dict.fromkeys(wrong, 0)
    assert account["accepted"] == account["delivered"] > 0
    assert account["refused"] == account["offered"] - account["accepted"] > 0
    measured = Measurements.read(RunDir(Path(summary["run"])))
    assert set(measured.loads["relay"].failed) == {"550 5.1.1"}
    assert {e["fact"]: e["holds"] for e in summary["verdict"]["evidence"]}["lost"] is True


def test_the_policy_service_was_asked_about_each_message_that_was_accepted(summary: dict[str, Any]) -> None:
    log = RunDir(Path(summary["run"])).log("relay")
    asked = Counter(found[1] for _, line in log if (found := re.search(r"policy was asked about (\S+);", line)))
    assert asked.keys() == set(KNOWN)
    first = 3  # the readiness probe: one message to the first and the last domain, and one between
    assert 0 <= asked.total() - sum(load.accepted or 0 for load in through_the_relay(summary)) <= first


def test_the_plan_and_the_verdict_name_what_the_bed_changed(summary: dict[str, Any]) -> None:
    plan = RunDir(Path(summary["run"])).load()["plan"]
    relay = next(node for node in plan["nodes"] if node["name"] == "relay")
    old = {change["setting"].partition(" of ")[0]: change["old"] for change in relay["changes"]}
    assert old == {
        "maillog_file": "/var/log/mail.log",
        "delay_logging_resolution_limit": None,
        "inet_interfaces": "192.0.2.25, localhost",
        "smtp_bind_address": "192.0.2.25",
        "/etc/postfix/master.cf 192.0.2.25:smtp/inet": "192.0.2.25:smtp",
        "/etc/postfix/master.cf chroot": "y",
        "/etc/postfix/master.cf postlog": None,
    }
    said = "\n".join(summary["verdict"]["marks"])
    assert all(f"{setting}: " in said for setting in old if "chroot" not in setting)
    policy = "smtpd_recipient_restrictions = check_policy_service unix:private/policy"
    assert f"can route mail elsewhere: {policy}; header_checks = pcre:" in said


def test_what_went_wrong_is_said_with_its_reason(summary: dict[str, Any]) -> None:
    counts = {trouble["reason"]: trouble["count"] for trouble in summary["troubles"]}
    refused = "smtpd: reject: RCPT from HOST: 550 5.1.1 <ADDRESS>: Recipient address rejected: "
    (unknown,) = (reason for reason in counts if reason.startswith(refused))
    assert "unknown in relay recipient table" in unknown
    assert counts[unknown] == sum(load.failed["550 5.1.1"] for load in through_the_relay(summary))
    assert any("unused parameter: maps=" in reason for reason in counts), "a warning, as on the server"
