"""Reading a run directory: accounting, rates, latencies, use, and what is missing."""

import gzip
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.measurements import Latency, Measurements, Phase
from orchestrator.measurements.accounting import bitmap, lowest
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.series import steady
from orchestrator.services import Purpose, Trouble
from tests.unit import factory


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return factory.make_run(tmp_path_factory.mktemp("kept"), domains=64, carries=200, seconds=4, lose={7, 300})


@pytest.fixture
def rundir(kept: RunDir, tmp_path: Path) -> RunDir:
    """Copy the run, so that a test may damage it."""
    return RunDir(Path(shutil.copytree(kept.path, tmp_path / "run")))


def write(rundir: RunDir, readings: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(reading) + "\n" for reading in readings)
    (rundir.path / "series" / "stats.jsonl").write_text(lines)


@given(st.sets(st.integers(min_value=0, max_value=5000)))
def test_a_set_of_numbers_survives_the_journey(numbers: set[int]) -> None:
    read = bitmap(factory.bitmap(numbers))
    assert read.bit_count() == len(numbers)
    assert lowest(read, 10) == sorted(numbers)[:10]


def test_a_damaged_set_is_refused() -> None:
    with pytest.raises(ValueError, match="set of numbers"):
        bitmap("aGFsbG8=")


@given(st.lists(st.floats(min_value=1e-6, max_value=60), min_size=1, max_size=50))
def test_percentiles_are_right_to_three_digits(values: list[float]) -> None:
    latency = Latency.decode(factory.histogram(values))
    assert latency is not None
    assert latency.count == len(values)
    assert latency.max == pytest.approx(max(values), rel=2e-3, abs=1.1e-6)
    library = latency.histogram.get_percentile_to_value_dict([50.0, 99.0, 99.9, 100.0])
    assert [latency.at(p) for p in library] == [value / 1e6 for value in library.values()]
    assert latency.mean == pytest.approx(sum(values) / len(values), rel=2e-3, abs=1.1e-6)
    assert latency.at(50) <= latency.at(99) <= latency.at(100)


def test_an_empty_histogram_is_no_latency() -> None:
    assert Latency.decode(factory.histogram([])) is None


def test_lost_messages_are_found_by_number(kept: RunDir) -> None:
    account = Measurements.read(kept).accounting("relay")
    assert account is not None
    assert (account.lost, account.lost_examples) == (2, (7, 300))
    assert account.delivered == account.accepted - 2
    assert account.unaccepted == account.duplicated == account.refused == 0


def test_unresolved_messages_are_neither_lost_nor_unaccepted(rundir: RunDir) -> None:
    load, sink = rundir.result("relay-load"), rundir.result("relay-sink")
    assert load
    assert sink
    load |= {"accepted": 3, "failed": {"timeout": 2, "554": 1}, "unresolved": 2, "offered": 6}
    load |= {"accepted_set": factory.bitmap({0, 1, 2}), "unresolved_set": factory.bitmap({3, 4})}
    rundir.save_result("relay-load", load)
    rundir.save_result("relay-sink", sink | {"delivered": 5, "delivered_set": factory.bitmap({0, 1, 2, 3, 5})})
    account = Measurements.read(rundir).accounting("relay")
    assert account is not None
    assert (account.refused, account.unresolved, account.lost, account.unaccepted) == (3, 2, 0, 1)


def test_the_subject_is_the_load_that_is_no_calibration(kept: RunDir) -> None:
    measured = Measurements.read(kept)
    assert measured.subject == "relay"
    assert measured.sent(Purpose.CALIBRATE) == ["calibration", "calibration-single"]
    assert [p.name for p in measured.phases] == ["calibration", "calibration-single", "relay", "drain"]


def test_rates_are_those_of_the_run(kept: RunDir) -> None:
    measured = Measurements.read(kept)
    assert measured.accepted_per_s("calibration") == pytest.approx(9400, rel=0.01)
    sent, got = kept.result("relay-load"), kept.result("relay-sink")
    assert sent
    assert got
    assert measured.delivered_per_s("relay") == pytest.approx(got["delivered"] / (got["last"] - sent["started"]))
    relay = measured.phase("relay")
    assert relay is not None
    assert relay.end is not None
    for counter, name in (("offered", "load"), ("accepted", "load"), ("delivered", "sink")):
        series = measured.ticks_per_s(counter)
        rates = dict(zip(series.t, series.values, strict=True))
        ticks = [tick for tick in kept.series(name) if tick["t"] > sent["started"]]
        assert len(ticks) > 3
        for before, now in pairwise(ticks[1:]):  # the first one may be too near to the start
            grown = (now[counter] - before[counter]) / (now["t"] - before["t"])
            assert rates[now["t"]] == pytest.approx(grown), counter
        assert None in series.values, "two loads are apart"


def test_the_first_second_of_a_load_is_counted_too(kept: RunDir) -> None:
    measured = Measurements.read(kept)
    report, series = measured.loads["relay"], measured.ticks_per_s("accepted")
    points = [(t, v) for t, v in zip(series.t, series.values, strict=True) if t > report.started and v is not None]
    starts = [report.started, *(t for t, _ in points)]
    total = sum(v * (t - s) for (t, v), s in zip(points, starts, strict=False))
    assert total == pytest.approx([p["accepted"] for p in kept.series("load") if p["phase"] == "relay"][-1])


def test_cpu_of_a_phase_is_the_growth_of_the_counter(kept: RunDir) -> None:
    measured = Measurements.read(kept)
    relay = measured.phase("relay")
    assert relay is not None
    use = measured.use("relay", relay)
    assert use is not None
    assert use.cores == pytest.approx(factory.LOADED["relay"], rel=0.05)
    assert use.cpu_s == pytest.approx(use.cores * ((relay.end or 0.0) - relay.start))
    whole = measured.use("relay", Phase(name="all", start=0, end=None))
    assert whole is not None
    last = [p["cpu_s"] for p in kept.series("stats") if p["node"] == "relay"]
    assert whole.cpu_s == pytest.approx(last[-1] - last[0])
    assert whole.memory_b == max(p["memory_b"] for p in kept.series("stats") if p["node"] == "relay")
    assert measured.nodes == ["dns", "relay", "sink", "load"], "in the order of the bed"


def test_a_phase_without_readings_has_no_use(kept: RunDir) -> None:
    measured = Measurements.read(kept)
    assert measured.use("relay", Phase(name="later", start=2e9, end=2e9 + 10)) is None
    assert measured.use("nobody", Phase(name="all", start=0, end=None)) is None


def test_a_counter_that_went_back_is_a_gap(rundir: RunDir) -> None:
    points: list[dict[str, Any]] = [
        {"t": float(t), "node": "relay", "cpu_s": cpu} for t, cpu in enumerate((1.0, 2.0, 0.5, None, 1.0, 1.5))
    ]
    write(rundir, points)
    assert list(Measurements.read(rundir).cores("relay").values) == [1.0, None, None, None, 0.5]


def test_readings_close_together_are_taken_as_one(rundir: RunDir) -> None:
    points = [{"t": t, "node": "relay", "cpu_s": t} for t in (0.0, 1.0, 1.001, 1.002, 2.0)]
    write(rundir, points)
    cores = Measurements.read(rundir).cores("relay")
    assert (list(cores.t), list(cores.values)) == ([1.0, 2.0], [1.0, 1.0])


def test_an_empty_run_measured_nothing_and_says_so(tmp_path: Path) -> None:
    measured = Measurements.read(RunDir.create(tmp_path, "relay-throughput"))
    assert measured.subject is None
    assert measured.sent(Purpose.CALIBRATE) == measured.nodes == []
    assert measured.accounting("relay") is None
    assert measured.span("relay") is None
    assert measured.phase("relay") is None
    assert measured.accepted_per_s("relay") is measured.delivered_per_s("relay") is None
    assert measured.hops is None
    assert measured.latency("relay") == {}
    assert not measured.ticks_per_s("offered")
    assert not measured.cores("relay")


@pytest.mark.parametrize("missing", ["relay-load", "relay-sink"])
def test_half_an_account_is_none(rundir: RunDir, missing: str) -> None:
    (rundir.path / "results" / f"{missing}.json").unlink()
    measured = Measurements.read(rundir)
    assert measured.accounting("relay") is None
    assert measured.delivered_per_s("relay") is None
    assert measured.subject == ("relay" if missing == "relay-sink" else None)


def test_streams_that_broke_are_named(rundir: RunDir) -> None:
    with rundir.write_series("recorder") as series:
        series.write(json.dumps({"t": 1.0, "stream": "logs of relay", "error": "ConnectionError: gone"}) + "\n")
    assert Measurements.read(rundir).faults == ("logs of relay: ConnectionError: gone",)


def test_the_relays_log_tells_its_hops(kept: RunDir) -> None:
    hops = Measurements.read(kept).hops
    assert hops is not None
    assert hops.node == "relay"
    accepted = Measurements.read(kept).loads["relay"].accepted
    assert {latency.count for latency in hops.latency.values()} == {accepted}
    assert [name[0] for name in hops.latency] == ["a", "b", "c", "d"]
    before = next(iter(hops.latency.values()))
    assert before.at(50) == pytest.approx(factory.BEFORE_QUEUE_S, rel=0.05)
    assert hops.statuses == {"sent": accepted}
    assert hops.queued.values[-1] == 0
    assert max(v or 0 for v in hops.queued.values) > 5


def test_troubles_in_the_relays_log_reach_the_measurements(rundir: RunDir) -> None:
    line = "Nov 26 12:00:00 relay postfix/smtp[7]: connect to mx.d0.test[198.18.16.0]:25: Connection refused"
    with gzip.open(rundir.path / "logs" / "relay.log.gz", "at") as log:
        log.write(f"{factory.BEGAN + 1} {line}\n")
    trouble = Trouble(reason="smtp: connect to HOST: Connection refused", count=1, example=line)
    for _ in ("from the log", "from its cache"):
        hops = Measurements.read(rundir).hops
        assert hops
        assert list(hops.troubles) == [trouble]


def test_the_relays_log_is_read_once(rundir: RunDir) -> None:
    first = Measurements.read(rundir, recompute=True).hops
    kept = rundir.result("hops")
    assert first
    assert kept
    rundir.save_result("hops", kept | {"statuses": {"from": 1}})
    again = Measurements.read(rundir).hops
    assert again
    assert again.statuses == {"from": 1}, "what was kept is used"
    assert {n: v.at(99) for n, v in again.latency.items()} == {n: v.at(99) for n, v in first.latency.items()}
    anew = Measurements.read(rundir, recompute=True).hops
    assert anew
    assert anew.statuses == first.statuses
    rundir.save_result("hops", kept | {"statuses": {"from": 1}, "log_b": 1})
    changed = Measurements.read(rundir).hops
    assert changed
    assert changed.statuses == first.statuses, "of another log, it is read again"


def test_a_run_of_an_unknown_relay_has_no_hops(rundir: RunDir) -> None:
    (rundir.path / "results" / "hops.json").unlink(missing_ok=True)
    facts = rundir.load()
    facts["bed"]["nodes"]["relay"]["service"] = "sendmail-8"
    rundir.save(facts)
    assert Measurements.read(rundir).hops is None


def test_a_run_directory_that_cannot_be_written_can_be_read(rundir: RunDir) -> None:
    shutil.rmtree(rundir.path / "results")
    (rundir.path / "results").symlink_to("/proc")
    assert Measurements.read(rundir).hops is not None


@pytest.mark.parametrize("phase", [0.0, 0.3, 1.7, 4.9])
def test_a_counter_that_grows_in_portions_is_steady_over_whole_periods(phase: float) -> None:
    """2,048 within 2 s, every 5 s; read once a second, and not at all while nothing is new."""

    def count(t: float) -> float:
        done, within = divmod(t - phase, 5.0)
        return 2048 * (done + min(1.0, within / 2.0)) if t >= phase else 0.0

    points = [(t + 0.4, count(t + 0.4)) for t in range(40) if count(t + 0.4) > count(t - 0.6)]
    assert steady(points, 0.0, 40.0, 5.0) == pytest.approx(409.6, rel=0.01)
    assert steady(points, 0.0, 19.0, 5.0) is None
    assert steady([], 0.0, 40.0, 5.0) is None
