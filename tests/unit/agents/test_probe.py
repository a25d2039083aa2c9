"""The readiness probe."""

import sys
from pathlib import Path

import pytest

from orchestrator.agents import probe
from tests.unit.agents.conftest import Sink, numbers


def send(monkeypatch: pytest.MonkeyPatch, port: int, run: str, domains: str = "d0.test,d7.test", *further: str) -> int:
    """Call the probe as a node does; return its exit code."""
    words = ["--server", "127.0.0.1", "--port", str(port), "--run", run, "--domains", domains, "--timeout", "5"]
    words += further
    monkeypatch.setattr(sys, "argv", ["probe", *words])
    return probe.main()


def test_it_sends_one_stamped_message_to_each_domain(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = sink.begin()
    assert send(monkeypatch, sink.port, run) == 0
    assert capfd.readouterr().out == '{"accepted": 2}\n'
    report = sink.report(run)
    assert numbers(report.delivered_set) == [0, 1]
    assert (report.corrupted, report.outside) == (0, 2)


def test_it_says_what_went_wrong(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert send(monkeypatch, 1, sink.begin()) == 1
    assert capfd.readouterr().err.startswith("127.0.0.1 port 1: SMTPConnectError")
    assert send(monkeypatch, sink.port, sink.begin(), "d0.test,d1 test") == 1
    assert "needed names of lower-case letters" in capfd.readouterr().err


def test_it_sends_to_recipients_of_the_file_and_asks_for_one_in_each_domain(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipients"
    file.write_text("a@d0.test\na@d3.test\nb@d7.test\n")
    run = sink.begin()
    assert send(monkeypatch, sink.port, run, "d0.test,d7.test", "--recipients", str(file)) == 0
    report = sink.report(run)
    assert numbers(report.delivered_set) == [0, 1]
    assert send(monkeypatch, sink.port, sink.begin(), "d0.test,d1.test", "--recipients", str(file)) == 1
    assert "a recipient in every domain; found none in 'd1.test'" in capfd.readouterr().err
