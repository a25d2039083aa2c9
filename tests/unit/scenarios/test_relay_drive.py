"""The search for the number of connections, with a bed whose relay may keep mail in its queue."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.scenarios.relay_load.drive import find_connections
from orchestrator.scenarios.relay_throughput.params import Params
from orchestrator.up.bed import RecordedBed
from tests.unit.factory import add_probes, make_run


class Bed:
    """A bed whose relay carries 100 messages a second, and keeps mail of the probes from ``keeps`` on."""

    def __init__(self, rundir: RunDir, keeps: int) -> None:
        self.rundir, self.keeps = rundir, keeps
        self.sink = SimpleNamespace(counts=True)
        self.sent: list[str] = []

    def record_cpus(self, *_: Any) -> Any:
        """Record nothing."""
        return nullcontext()

    def send(self, name: str, order: Any, **_: Any) -> Any:
        """Keep the reports of a load."""
        add_probes(self.rundir, {order.connections: 100.0}, used=20)
        self.sent.append(name)
        return SimpleNamespace(drain=lambda *_, **__: len(self.sent) < self.keeps)

    def measurements(self) -> Measurements:
        """Return the measurements so far."""
        return Measurements.read(self.rundir, logs=False)


@pytest.mark.parametrize(
    ("given", "keeps", "sent"),
    [
        (None, 1, ["probe-20"]),
        (None, 2, ["probe-20", "probe-40"]),
        (None, 9, ["probe-20", "probe-40", "probe-80"]),
        (20, 1, ["probe-20"]),
        (20, 9, ["probe-20", "probe-80", "probe-20-2", "probe-80-2"]),
    ],
)
def test_mail_that_the_relay_keeps_ends_the_search(
    tmp_path: Path, given: int | None, keeps: int, sent: list[str]
) -> None:
    bed = Bed(make_run(tmp_path, domains=10, carries=100.0, seconds=1.0), keeps)
    assert find_connections(cast("RecordedBed", bed), Params(connections=given)) == 20
    assert bed.sent == sent
