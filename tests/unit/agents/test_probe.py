"""The readiness probe."""

import subprocess
import sys

from orchestrator.agents.ledger import SequenceSet
from tests.unit.agents.conftest import Sink


def probe(port: int, run: str, domains: str = "d0.test,d7.test") -> "subprocess.CompletedProcess[str]":
    """Run the probe as a node does."""
    words = ["--server", "127.0.0.1", "--port", str(port), "--run", run, "--domains", domains, "--timeout", "5"]
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.agents.probe", *words], capture_output=True, text=True, check=False
    )


def test_it_sends_one_stamped_message_to_each_domain(sink: Sink) -> None:
    run = sink.begin()
    done = probe(sink.port, run)
    assert (done.returncode, done.stdout) == (0, '{"accepted": 2}\n')
    report = sink.report(run)
    assert list(SequenceSet.decode(report.delivered_set)) == [0, 1]
    assert (report.corrupted, report.domains) == (0, 2)


def test_it_says_what_went_wrong(sink: Sink) -> None:
    refused = probe(1, sink.begin())
    assert refused.returncode == 1
    assert refused.stderr.startswith("127.0.0.1 port 1: SMTPConnectError")
    unsafe = probe(sink.port, sink.begin(), "d0.test,d1 test")
    assert unsafe.returncode == 1
    assert "needed names of lower-case letters" in unsafe.stderr
