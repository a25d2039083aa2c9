"""The limit of BIND's sockets, with the real BIND: shown, gone with each fix, and neither where nothing can be said."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.hosts import Host
from orchestrator.hosts.docker import DockerHost
from tests.integration.command import Watched, call
from tests.integration.traces import traces

pytestmark = pytest.mark.docker

NAME = "bind-fd-limit"
LITERAL = "socket: file descriptor exceeds limit ("


def ask(runs: Path, *words: str, code: int) -> dict[str, Any]:
    """Ask, and return what is said when it ends with this exit code."""
    done = call("run", NAME, "--runs", runs, "--format", "json", *words, timeout=300)
    assert done.returncode == code, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def evidence(said: dict[str, Any]) -> dict[str, bool | None]:
    """Return fact -> whether it holds."""
    return {e["fact"]: e["holds"] for e in said["verdict"]["evidence"]}


@pytest.mark.parametrize(
    ("fix", "reported", "fixed"),
    [("maxsockets", 1100, 1100), pytest.param("listen-on-v6", 1600, 800, marks=pytest.mark.long)],
)
def test_the_symptom_is_shown_and_a_fix_removes_it(tmp_path: Path, fix: str, reported: int, fixed: int) -> None:
    said = ask(tmp_path, "--fix", fix, *(["--addresses", "1100"] if fix == "maxsockets" else []), code=0)
    verdict = said["verdict"]
    assert verdict["outcome"] == "CONFIRMED"
    assert set(evidence(said).values()) == {True}, verdict["evidence"]
    quotes = [quote["text"] for quote in verdict["quotes"]]
    assert any(LITERAL in text and text.endswith("/4096)") for text in quotes)
    assert any("not enough free resources" in text for text in quotes)
    assert all(quote["source"] == "log of dns" for quote in verdict["quotes"])
    rows = {row[0]: row[1:] for row in verdict["tables"][0]["rows"]}
    assert rows["addresses that it listens on"] == [reported, fixed]
    assert "file descriptor exceeds limit" in Path(said["report"]).read_text(encoding="utf-8")


def test_10_addresses_refute_it(tmp_path: Path) -> None:
    said = ask(tmp_path, "--addresses", "10", code=1)
    assert said["verdict"]["outcome"] == "REFUTED"
    assert said["verdict"]["quotes"] == []
    assert said["verdict"]["figures"]["open_files_measured"] == pytest.approx(73, rel=0.02)


def test_a_kernel_limit_ends_a_later_release_while_it_starts(tmp_path: Path) -> None:
    words = ("--dns-release", "bookworm", "--addresses", "300", "--nofile", "1024", "--fix", "listen-on")
    said = ask(tmp_path, *words, code=0)
    assert said["verdict"]["outcome"] == "CONFIRMED"
    assert "fatal error:" in said["verdict"]["quotes"][0]["text"]


def test_a_host_that_cannot_is_refused_with_the_small_recipe(tmp_path: Path) -> None:
    done = call("run", NAME, "--runs", tmp_path, "--workers", "256", "--addresses", "4000")  # two million open files
    assert done.returncode == 4, done.stderr
    assert "needed: open files of one process: 2,05" in done.stderr
    assert f"testbed run {NAME} --workers 2 --max-sockets 4096" in done.stderr


def asked(run: Watched) -> bool:
    """See that the question is being asked: open files have been counted."""
    return bool(run.rundir and run.rundir.series("readings"))


def test_a_named_that_is_killed_leaves_no_verdict(real_engine: Host, tmp_path: Path) -> None:
    run = Watched(real_engine, tmp_path, "--addresses", "1100", scenario=NAME)
    run.until(asked)
    cast("DockerHost", real_engine)._clients.here.kill(run.nodes["dns"].id)
    assert run.end() == 3, run.said
    assert "status 137" in run.output()
    assert run.rundir
    facts = run.rundir.load()
    assert facts["error"]["needed"] == "node dns running"
    assert (facts["status"], facts["verdict"]["outcome"]) == ("failed", "INCONCLUSIVE")
    assert traces(real_engine, run.ids) == []
