"""The readiness probe."""

import sys

import pytest

from orchestrator.agents import probe
from orchestrator.agents.ledger import SequenceSet
from tests.unit.agents.conftest import Sink


def send(monkeypatch: pytest.MonkeyPatch, port: int, run: str, domains: str = "d0.test,d7.test") -> int:
    """Call the probe as a node does; return its exit code."""
    words = ["--server", "127.0.0.1", "--port", str(port), "--run", run, "--domains", domains, "--timeout", "5"]
    monkeypatch.setattr(sys, "argv", ["probe", *words])
    return probe.main()


def test_it_sends_one_stamped_message_to_each_domain(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = sink.begin()
    assert send(monkeypatch, sink.port, run) == 0
    assert capfd.readouterr().out == '{"accepted": 2}\n'
    report = sink.report(run)
    assert list(SequenceSet.decode(report.delivered_set)) == [0, 1]
    assert (report.corrupted, report.outside) == (0, 2)


def test_it_says_what_went_wrong(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert send(monkeypatch, 1, sink.begin()) == 1
    assert capfd.readouterr().err.startswith("127.0.0.1 port 1: SMTPConnectError")
    assert send(monkeypatch, sink.port, sink.begin(), "d0.test,d1 test") == 1
    assert "needed names of lower-case letters" in capfd.readouterr().err
