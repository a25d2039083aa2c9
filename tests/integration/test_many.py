"""Many runs on the real engine: a search for a threshold, a sweep over releases, a capsule run in another checkout."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.hosts import Host
from orchestrator.hosts.ownership import OWNER
from orchestrator.runs.forecast import OWN_LIMIT
from tests.integration.command import POLL_S, TESTBED, answer, call

pytestmark = pytest.mark.docker

CHECKOUT = Path(__file__).parents[2]
TESTBED_HERE = (sys.executable, "-c", "from orchestrator.cli import main; main()")
"""The command of whatever checkout PYTHONPATH names."""
SMALL = ("bind-fd-limit", "--max-sockets", "1024")
"""BIND 9.16 with 2 workers is over -S 1024 from about 248 addresses on: 4 sockets each, and 32 further files."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(runs: Path) -> dict[str, Any]:
    facts: dict[str, Any] = answer(
        *("bisect", *SMALL, "--over", "addresses=245..249", "--repeat", "1", "--runs", runs), timeout=250
    )
    return facts


def test_bisect_finds_the_number_of_addresses_and_it_agrees_with_the_arithmetic(found: dict[str, Any]) -> None:
    assert found["status"] == "found"
    assert found["absent"] == found["threshold"] - 1
    assert abs(found["threshold"] - found["predicted"]) <= 3
    by_value = {run["value"]: run for run in found["runs"]}
    assert by_value[found["absent"]]["outcome"] == "REFUTED"
    assert "socket: file descriptor exceeds limit (" in by_value[found["threshold"]]["quotes"][0]
    assert all(Path(run["run"], "run.json").is_file() for run in found["runs"])


def test_one_table_says_which_releases_show_it(found: dict[str, Any], runs: Path) -> None:
    threshold = str(found["threshold"])
    swept = answer(
        *("run", *SMALL, "--addresses", threshold, "--vary", "dns.release=bullseye,bookworm", "--runs", runs),
        timeout=250,
    )
    assert {run["values"]["dns_release"]: run["outcome"] for run in swept["runs"]} == {
        "bullseye": "CONFIRMED",
        "bookworm": "REFUTED",
    }
    (report,) = runs.glob("*-sweep-bind-fd-limit/report.html")
    assert "socket: file descriptor exceeds limit (" in report.read_text()


def test_a_search_that_is_interrupted_keeps_its_runs_and_leaves_no_bed(real_engine: Host, tmp_path: Path) -> None:
    search = subprocess.Popen(
        [TESTBED, "bisect", *SMALL, "--over", "addresses=10..20", "--runs", tmp_path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def kept() -> dict[str, Any]:
        facts = [json.loads(path.read_text()) for path in tmp_path.glob("*/bisect.json")]
        return facts[0] if facts else {"runs": []}

    def beds() -> list[str]:
        return [f.id for f in real_engine.find({OWNER: None}) if f.labels[OWNER].split("/")[3] == str(search.pid)]

    deadline = time.monotonic() + 60
    while not (kept()["runs"] and beds()):  # the second run has begun
        assert search.poll() is None
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
    search.send_signal(signal.SIGINT)
    _, said = search.communicate(timeout=60)
    assert search.returncode == 130
    assert "bisect.json, with 1 runs so far" in said
    assert (kept()["status"], kept()["runs"][0]["outcome"]) == ("interrupted", "REFUTED")
    assert beds() == []


def test_a_capsule_of_one_checkout_runs_in_another_which_names_what_differs(tmp_path: Path) -> None:
    done = call("run", *SMALL, "--addresses", "10", "--runs", tmp_path, "--format", "json")
    assert done.returncode == 1, done.stderr
    made = call("capsule", json.loads(done.stdout)["run"], "-o", tmp_path / "a.capsule.json")
    assert made.returncode == 0, made.stderr

    other = tmp_path / "other"
    for folder in ("orchestrator", "images"):
        shutil.copytree(CHECKOUT / folder, other / folder, ignore=shutil.ignore_patterns("__pycache__"))
    bind = other / "orchestrator/services/bind.py"
    bind.write_text(bind.read_text().replace("    notify no;\n", "    notify explicit;\n"))
    again = subprocess.run(
        [*TESTBED_HERE, "run", tmp_path / "a.capsule.json", "--runs", tmp_path, "--format", "json"],
        env={**os.environ, "PYTHONPATH": str(other)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    compared = json.loads(again.stdout)
    assert compared["outcome"] == ["REFUTED", "REFUTED"]
    assert [name for name, _, _ in compared["environment"]] == ["source"]
    (conf,) = compared["config"]
    assert "-    notify no;\n+    notify explicit;" in conf["diff"]
    assert {name: ratio for name, _, _, ratio in compared["figures"]}["open_files_measured"] == pytest.approx(1, 0.05)


def test_doctor_says_what_a_scenario_will_need_and_what_binds_first() -> None:
    said = answer("doctor", "bind-fd-limit")
    assert said["first_to_bind"]["name"] == OWN_LIMIT
    assert said["first_to_bind"]["state"] == "wanted"
    assert said["nodes"][0]["fds"] > 10_000
