"""A run directory as a run leaves it, made in a moment and always the same: for tests, and to look at a report."""

import base64
import json
import math
import random
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hdrh.histogram import HdrHistogram

from orchestrator.agents.contract import LoadReport, LoadTick, SinkReport, SinkTick
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Evidence, Outcome, Quote, Table, Verdict
from orchestrator.services import Purpose

BEGAN = 1_763_860_000.0
CALIBRATION_S = 4.0
GAP_S = 1.5
IDLE = {"dns": 0.004, "relay": 0.01, "sink": 0.003, "load": 0.002}
CALIBRATING = {"dns": 0.0, "relay": 0.01, "sink": 0.93, "load": 0.98}
LOADED = {"dns": 0.09, "relay": 1.42, "sink": 0.11, "load": 0.10}
BEFORE_QUEUE_S = 0.011
MEMORY = {"dns": 96e6, "relay": 310e6, "sink": 64e6, "load": 58e6}


def histogram(seconds: Iterable[float]) -> str:
    """Encode durations as the agents do."""
    recorder = HdrHistogram(1, 3_600_000_000, 3)
    for value in seconds:
        recorder.record_value(max(1, round(value * 1e6)))
    encoded: bytes = recorder.encode()
    return encoded.decode()


def bitmap(numbers: Iterable[int]) -> str:
    """Encode a set of sequence numbers as the agents do."""
    bits = bytearray()
    for n in numbers:
        if n // 8 >= len(bits):
            bits.extend(bytes(n // 8 + 1 - len(bits)))
        bits[n // 8] |= 1 << n % 8
    return base64.b64encode(zlib.compress(bytes(bits))).decode()


def make_run(
    parent: Path,
    *,
    domains: int = 2560,
    carries: float = 450.0,
    seconds: float = 30.0,
    messages: int | None = None,
    lose: Iterable[int] = (),
    refuse: Iterable[int] = (),
    outcome: Outcome = Outcome.CONFIRMED,
    hostile: str = "",
) -> RunDir:
    """Make the directory of a relay run whose queue is empty at the end.

    ``messages``: their number, instead of ``seconds``. ``lose``: sequence numbers that are accepted but never arrive.
    ``refuse``: sequence numbers that the relay answers with 451. ``hostile``: text put wherever a run can hold
    text that somebody else wrote.
    """
    rng = random.Random(2560)
    parent.mkdir(parents=True, exist_ok=True)
    path = parent / "20251123T010640Z-relay-throughput"
    for part in ("config/relay", "logs", "series", "results"):
        (path / part).mkdir(parents=True)
    rundir = RunDir(path)
    phases = _calibrations(rundir, rng, domains)
    started = phases[-1]["end"] + GAP_S
    sent, arrived = _schedule(rng, started, carries, seconds if messages is None else 2 * messages / carries)
    sent, arrived = sent[:messages], arrived[:messages]
    lost, refused = set(lose), set(refuse)
    kept = [n for n in range(len(sent)) if n not in lost | refused]
    _reports(rundir, rng, "relay", sent, [arrived[n] for n in kept], kept, domains, refused=refused)
    drained = max(arrived)
    phases += [
        {"name": "relay", "start": started, "end": sent[-1]},
        {"name": "drain", "start": sent[-1], "end": drained + 0.4},
    ]
    rundir.save_result("relay-queue", {"left": 0, "seconds": 1.0})
    _ticks(rundir, "relay", sent, [arrived[n] for n in kept], 20)
    _stats(rundir, rng, phases, hostile)
    _readings(rundir, seconds, hostile)
    _logs(rundir, rng, sent, arrived, domains, hostile)
    rate = len(kept) / (drained - started)
    _facts(rundir, phases, domains, seconds, outcome, rate, len(lost), hostile)
    return rundir


def _calibrations(rundir: RunDir, rng: random.Random, domains: int) -> list[dict[str, Any]]:
    phases = []
    t = BEGAN + 6.0
    for name, rate in (("calibration", 9_400.0), ("calibration-single", 3_100.0)):
        count = int(rate * CALIBRATION_S)
        sent = [t + i / rate for i in range(count)]
        arrived = [s + 0.0012 for s in sent]
        _reports(rundir, rng, name, sent, arrived, range(count), domains, sample=2_000)
        _ticks(rundir, name, sent, arrived, 20)
        phases.append({"name": name, "start": t, "end": sent[-1], "purpose": Purpose.CALIBRATE})
        t = sent[-1] + GAP_S
    return phases


def add_probes(
    rundir: RunDir, carries: Mapping[int, float], *, used: int, idle: float = 0.02, given: bool = False, cpus: int = 2
) -> None:
    """Add the short loads before the run: number of connections -> messages a second; ``used``: that of the run."""
    rng, start, seconds = random.Random(20), BEGAN + 0.5, 3.0
    for number, rate in carries.items():
        name = f"probe-{number}"
        sent = [start + i / rate for i in range(int(seconds * rate))]
        _reports(rundir, rng, name, sent, [t + 0.005 for t in sent], range(len(sent)), 20)
        busy = {"busy_s": (1 - idle) * cpus * seconds, "steal_s": 0.0}
        rundir.save_result(f"{name}-cpus", {"start": start, "end": start + seconds, "cpus": cpus, "used": busy})
        rundir.save_result(f"{name}-queue", {"left": 0, "seconds": 0.5})
    rundir.save_result("connections", {"connections": used, "given": given})


def _schedule(rng: random.Random, started: float, carries: float, seconds: float) -> tuple[list[float], list[float]]:
    """Accept a little faster than the relay delivers, so that a queue builds up and drains."""
    sent, arrived = [], []
    t = free = started
    while t < started + seconds:
        t += rng.expovariate(carries * 1.06)
        free = max(free, t + 0.02) + rng.uniform(0.7, 1.3) / carries
        sent.append(t)
        arrived.append(free + rng.lognormvariate(-5.5, 0.5))
    return sent, arrived


def _reports(
    rundir: RunDir,
    rng: random.Random,
    name: str,
    sent: list[float],
    arrived: list[float],
    numbers: Iterable[int],
    domains: int,
    sample: int = 0,
    refused: Iterable[int] = (),
) -> None:
    calibrating = name.startswith("calibration")
    probing = name.startswith("probe-")
    purpose = Purpose.CALIBRATE if calibrating else Purpose.PROBE if probing else Purpose.MEASURE
    service = [rng.lognormvariate(-6.6 if calibrating else -3.3, 0.45) for _ in range(sample or len(sent))]
    transit = (
        [0.001 + s for s in service] if calibrating else [a - sent[n] for n, a in zip(numbers, arrived, strict=True)]
    )
    run = _run_id(name)
    accepted = sorted({*range(len(sent))} - {*refused})
    failed = len(sent) - len(accepted)
    rundir.save_result(
        f"{name}-load",
        LoadReport(
            run=run, started=sent[0], ended=sent[-1] + 0.03, offered=len(sent), accepted=len(accepted),
            domains=len({n % domains for n in accepted}), failed={"451 4.3.0": failed} if failed else {},
            unresolved=0, connections=len(sent) // 10, late=0, cpu_s=0.2e-3 * len(sent), stalled_s=0.004,
            response=histogram(s * 1.05 for s in service), service=histogram(service),
            connect=histogram(s / 3 for s in service[::10]), accepted_set=bitmap(accepted),
            unresolved_set=bitmap(()), purpose=purpose, generator="smtp-load", node="load",
            connections_limit=int(name.split("-")[1]) if probing else 20,
        ).to_dict(),
    )  # fmt: skip
    rundir.save_result(
        f"{name}-sink",
        SinkReport(
            run=run, delivered=len(arrived), duplicated=0, corrupted=0, misrouted=0, foreign=1,
            bytes=2310 * len(arrived), connections=len(arrived), domains=len({n % domains for n in numbers}),
            first=min(arrived), last=max(arrived),
            cpu_s=0.2e-3 * len(arrived), memory_b=61_000_000, transit=histogram(transit),
            age=histogram(t * 1.01 for t in transit), delivered_set=bitmap(numbers),
        ).to_dict(),
    )  # fmt: skip


def _run_id(name: str) -> str:
    return f"{zlib.crc32(name.encode()):08x}"


def _ticks(rundir: RunDir, name: str, sent: list[float], arrived: list[float], connections: int) -> None:
    arrived = sorted(arrived)
    with (
        (rundir.path / "series" / "load.jsonl").open("a") as load,
        (rundir.path / "series" / "sink.jsonl").open("a") as sink,
    ):
        t, done, got = sent[0], 0, 0
        while got < len(arrived) or done < len(sent):
            while done < len(sent) and sent[done] <= t:
                done += 1
            while got < len(arrived) and arrived[got] <= t:
                got += 1
            tick = LoadTick(
                t=t, offered=done, sent=done, accepted=max(0, done - connections if done < len(sent) else done),
                failed=0, connections=connections, behind_s=0.0,
            )  # fmt: skip
            if t <= sent[-1]:
                load.write(json.dumps({"phase": name, **tick.to_dict()}) + "\n")
            report = SinkTick(
                run=_run_id(name),
                t=t + 0.2,
                delivered=got,
                duplicated=0,
                corrupted=0,
                foreign=0,
                bytes=got * 2310,
                connections=18,
            )
            sink.write(json.dumps(report.to_dict()) + "\n")
            t += 1.0


def _stats(rundir: RunDir, rng: random.Random, phases: list[dict[str, Any]], hostile: str) -> None:
    cpu = dict.fromkeys(IDLE, 0.0)
    end = phases[-1]["end"] + 2
    with (rundir.path / "series" / "stats.jsonl").open("w") as stats:
        t = BEGAN
        while t < end:
            at = next((p["name"] for p in phases if p["start"] <= t < p["end"]), "")
            cores = CALIBRATING if at.startswith("calibration") else LOADED if at in {"relay", "drain"} else IDLE
            for i, node in enumerate(IDLE):
                cpu[node] += cores[node] * rng.uniform(0.95, 1.05)
                point = {
                    "t": t + 0.21 * i, "node": node + hostile, "cpu_s": round(cpu[node], 6),
                    "cpu_user_s": cpu[node] * 0.6,
                    "cpu_system_s": cpu[node] * 0.4, "throttled_s": 0.0,
                    "memory_b": int(MEMORY[node] * (0.55 + 0.45 * min(1, (t - BEGAN) / 30))),
                    "memory_max_b": None, "rx_b": 1000, "rx_packets": 10, "rx_errors": 0, "rx_drops": 0,
                    "tx_b": 1000, "tx_packets": 10, "tx_errors": 0, "tx_drops": 0, "read_b": None, "write_b": None,
                    "pids": 120 if node == "relay" else 4,
                }  # fmt: skip
                stats.write(json.dumps(point) + "\n")
            t += 1.0


def _readings(rundir: RunDir, seconds: float, hostile: str) -> None:
    with rundir.write_series("readings") as series:
        for second in range(int(seconds)):
            reading = {"t": BEGAN + 18 + second, "name": "open files" + hostile, "label": "dns" + hostile}
            series.write(json.dumps(reading | {"value": 115 + 7 * second}) + "\n")


def _logs(
    rundir: RunDir, rng: random.Random, sent: list[float], arrived: list[float], domains: int, hostile: str
) -> None:
    lines: list[tuple[float, str]] = [(BEGAN + 1, "postfix/master[1]: daemon started -- version 3.7.11")]
    for n, (s, a) in enumerate(zip(sent, arrived, strict=True)):
        queue_id = f"4X{n:06X}z"
        before, setup, transmit = (
            rng.lognormvariate(math.log(BEFORE_QUEUE_S), 0.3),
            rng.lognormvariate(-5.5, 0.5),
            rng.lognormvariate(-5.2, 0.4),
        )
        queued = max(0.0, a - s - before - setup - transmit)
        domain = f"d{n % domains}.test"
        delays = f"{before:.6f}/{queued:.6f}/{setup:.6f}/{transmit:.6f}"
        lines += [
            (s, f"postfix/smtpd[{200 + n % 20}]: {queue_id}: client=load.lab.test[198.18.0.5]"),
            (s + before / 2, f"postfix/cleanup[{300 + n % 9}]: {queue_id}: message-id=<{n}.5eed0002@load.test>"),
            (s + before, f"postfix/qmgr[101]: {queue_id}: from=<load@d0.test>, size=2310, nrcpt=1 (queue active)"),
            (
                a,
                (
                    f"postfix/smtp[{400 + n % 99}]: {queue_id}: to=<user@{domain}>, "
                    f"relay=mx.{domain}[198.18.16.{n % 250}]:25, delay={a - s:.6f}, delays={delays}, dsn=2.0.0, "
                    f"status=sent (250 2.0.0 ok {hostile})"
                ),
            ),
            (a + 0.001, f"postfix/qmgr[101]: {queue_id}: removed"),
        ]
    with rundir.write_log("relay") as log:
        log.writelines(f"{t:.6f} Nov 23 01:06:40 relay {text}\n" for t, text in sorted(lines))
    with rundir.write_log("dns") as log:
        log.write(f"{BEGAN + 0.4:.6f} 23-Nov-2025 01:06:40.400 running {hostile}\n")


def _facts(
    rundir: RunDir,
    phases: list[dict[str, Any]],
    domains: int,
    seconds: float,
    outcome: Outcome,
    rate: float,
    lost: int,
    hostile: str,
) -> None:
    verdict = Verdict(
        outcome=outcome,
        claim=f"The relay carries {rate:.0f} messages a second to {domains:,} domains, and none is lost." + hostile,
        reason="Every accepted message arrived once and whole; the instrument could have done 6.9 times as much.",
        evidence=(
            Evidence(
                fact="lost", found=f"{lost}{hostile}", needed="0", holds=lost == 0, source="results/relay-sink.json"
            ),
            Evidence(fact="duplicated", found="0", needed="0", holds=True, source="results/relay-sink.json"),
            Evidence(
                fact="relay queue after the drain", found="empty after 4.1 s", needed="empty within 300 s", holds=True,
                source="logs/relay.log.gz",
            ),
            Evidence(
                fact="share of the instrument's ceiling", found="15 % of 3,100 a second", needed="at most 70 %",
                holds=True, source="results/calibration-single-load.json",
            ),
            Evidence(
                fact="CPU of the sink", found="not measured", needed="at most 0.9 of a core", holds=None,
                source="series/stats.jsonl",
            ),
        ),
        tables=(
            Table(
                title="Carried by set" + hostile,
                columns=("set" + hostile, "CPUs", "messages/s"),
                rows=(("all threads" + hostile, "0-1", rate), ("one core", "0", None)),
                bars="messages/s",
            ),
        ),
        quotes=(Quote(source="dns" + hostile, t=BEGAN + 3, text="socket: file descriptor exceeds limit" + hostile),),
        marks=() if outcome is Outcome.CONFIRMED else ("instrument-bound",),
        figures={
            "relay_messages_per_s": rate,
            "ceiling_messages_per_s": 3100.0,
            "share_of_ceiling": rate / 3100.0,
            "relay_cpu_ms_per_message": 1420 / rate,
            "harness_cpu_ms_per_message": None,
        },
    )  # fmt: skip
    nodes = {node: {"service": node, "release": "bookworm"} for node in IDLE}
    nodes |= {"relay": {"service": "postfix", "release": "bookworm"}}
    rundir.save(
        {
            "scenario": "relay-throughput",
            "question": "How many messages a second does this relay carry, and was it the relay that was measured?",
            "status": "finished",
            "params": {
                "domains": domains, "seconds": seconds, "rate": None, "size": 2048, "relay": "postfix" + hostile,
            },
            "bed": {"name": "relay", "domains": domains, "nodes": nodes},
            "plan": {"subnet": "198.18.0.0/19", "nodes": [{"name": "relay", "role": "relay"}]},
            "environment": {
                "engine": {
                    "version": "20.10.24", "api": "1.41", "kernel": "6.18.44", "operating_system": "Debian 12",
                    "cpus": 2, "memory_b": 25276514304, "cgroup": "1", "storage": "overlay2", "architecture": "x86_64",
                },
                "cpu": "AMD EPYC 9R14" + hostile, "topology": {"cores": ["0", "1"], "sockets": ["0-1"], "known": True},
                "memory_available_b": 21276514304,
                "nofile": 20000, "neighbour_limit": 1024, "neighbours": 9,
                "sysctls": {"net.ipv4.neigh.default.gc_thresh3": "1024"},
                "versions": {"testbed": "0.1.0", "docker": "7.2.0"},
            },
            "command": ["testbed", "run", "relay-throughput", f"--domains={domains}", f"--relay=postfix{hostile}"],
            "phases": phases,
            "steps": [{"name": "start the bed", "seconds": 3.2}, {"name": "calibrate", "seconds": 9.1}],
            "error": None,
            "verdict": verdict.model_dump(),
            "version": "0.1.0",
        }
    )  # fmt: skip
