"""The real engine keeps the contract, and gives a container what it is asked for and no more."""
# ruff: noqa: D102  the name of a test is its sentence

import secrets
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import docker as sdk
import pytest

from orchestrator.bed.model import Limits
from orchestrator.errors import EngineFailed, TimedOut
from orchestrator.hosts import (
    LOG_FILES,
    ContainerSpec,
    Endpoint,
    Host,
    NetworkSpec,
    SubnetTaken,
    docker,
)
from orchestrator.hosts.docker import api
from tests.engine_contract import SUBNET, EngineContract

pytestmark = pytest.mark.docker

LISTEN = (
    "import socket; s = socket.create_server(('', 25)); print('listening', flush=True)\n"
    "while True: s.accept()[0].send(b'hello')"
)


@pytest.fixture(scope="module")
def shared() -> Host:
    return docker.connect()


class TestDockerEngine(EngineContract):
    """The contract, on the real engine."""

    @pytest.fixture
    def engine(self, shared: Host) -> Host:
        """Give the same to every test."""
        return shared

    def end(self, engine: Host, container: str) -> None:
        """Tell it to end."""
        assert engine.node(container).exec(("sh", "-c", "kill -TERM 1")).status in {0, 137}, (
            "the end of PID 1 may end it, too"
        )

    # --------------------------------------------------------------------------------- what a container is given

    def test_files_are_in_place_before_the_start(self, engine: Host, spec: ContainerSpec) -> None:
        files = {
            "/a/deep/place/data": b"\x00\xff",
            "/a/go": b"#!/bin/sh\nstat -c %a:%u /a/go /a/deep/place/data /a/deep\n",
        }
        done = engine.run(replace(spec, command=("/a/go",), files=files))
        assert done.stdout.split() == ["755:0", "644:0", "755:0"]

    def test_it_has_the_capabilities_that_are_named_and_gets_no_others(self, engine: Host, spec: ContainerSpec) -> None:
        show = replace(spec, command=("grep", "-E", "CapBnd|CapEff|NoNewPrivs", "/proc/self/status"))
        none, some = engine.run(show), engine.run(replace(show, capabilities=("NET_BIND_SERVICE",)))
        assert none.stdout.split() == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
        assert some.stdout.split()[1] == f"{1 << 10:016x}"

    def test_it_writes_settings_of_its_kernel_only_where_it_may(self, engine: Host, spec: ContainerSpec) -> None:
        ttl = "/proc/sys/net/ipv4/ip_default_ttl"  # of its own network namespace
        closed = "awk '$2 ~ /^.proc./ && $4 ~ /^ro/ {print $2}' /proc/mounts"
        write = replace(spec, command=("sh", "-c", f"{closed}; echo 77 > {ttl}; cat {ttl}"))
        by_default, allowed = engine.run(write), engine.run(replace(write, writes_sysctls=True))
        assert "Read-only file system" in by_default.stderr
        assert (allowed.stderr, allowed.stdout.split()[-1]) == ("", "77")
        assert set(by_default.stdout.split()) - set(allowed.stdout.split()) == {"/proc/sys", "64"}

    def test_all_its_processes_move_to_the_cpus_that_it_is_pinned_to(self, engine: Host, spec: ContainerSpec) -> None:
        made = engine.create(spec).id
        engine.node(made).start()
        last = str(engine.info().cpus - 1)
        for cpus in ("0", last):
            engine.node(made).pin(cpus)
            allowed = engine.node(made).exec(("grep", "-h", "Cpus_allowed_list", "/proc/1/status", "/proc/self/status"))
            assert allowed.stdout.split() == ["Cpus_allowed_list:", cpus] * 2

    def test_limits_and_settings_are_what_was_asked_for(self, engine: Host, spec: ContainerSpec) -> None:
        asked = Limits(cpus=0.5, cpuset="0", memory_mb=64, nofile=777, pids=33)
        show = (
            "ulimit -Sn; ulimit -Hn; nproc; cat /proc/sys/net/core/somaxconn; hostname;"
            "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null;"
            "cat pids.max pids/pids.max 2>/dev/null;"
            "cat cpu.max cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us 2>/dev/null | tr '\\n' ' '"
        )
        done = engine.run(
            replace(
                spec,
                command=("sh", "-c", show),
                limits=asked,
                sysctls={"net.core.somaxconn": "1234"},
                hostname="relay",
                networks=(),
            )
        )
        assert done.stdout.split() == ["777", "777", "1", "1234", "relay", str(64 << 20), "33", "50000", "100000"]

    def test_its_log_is_bounded_and_a_reader_that_keeps_up_loses_no_line(
        self, engine: Host, spec: ContainerSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api, "LOG_FILE_MB", 1)
        count, lines = 10, 2500  # of 150 octets in the engine's file: three and a half files in all
        script = 'mkfifo /tmp/go; while read -r n < /tmp/go; do seq -f "$n %0100.0f" 1 "$1"; done'
        made = engine.create(replace(spec, command=("sh", "-euc", script, "sh", str(lines)))).id
        with sdk.APIClient() as client:
            kept = client.inspect_container(made)["HostConfig"]["LogConfig"]
        assert kept["Type"] == "json-file"
        assert kept["Config"] == {"max-size": "1m", "max-file": str(LOG_FILES), "compress": "false"}
        engine.node(made).start()
        followed = engine.node(made).logs(follow=True)
        for n in range(count):
            assert (
                engine.node(made).exec(("sh", "-c", f"until [ -p /tmp/go ]; do :; done; echo {n} > /tmp/go")).status
                == 0
            )
            read = [tuple(map(int, next(followed).text.split())) for _ in range(lines)]
            assert read == [(n, k) for k in range(1, lines + 1)]
        left = sum(1 for _ in engine.node(made).logs(follow=False))
        assert lines < left < count * lines

    # ------------------------------------------------------------------------------------------------- networks

    @pytest.fixture
    def pair(
        self, engine: Host, spec: ContainerSpec, network: Callable[..., NetworkSpec]
    ) -> tuple[str, str, NetworkSpec]:
        """Start a listener and an idle container on the same bridge; the listener is on a second one, too."""
        control, lab = network("control"), network("lab", SUBNET)
        for made in (control, lab):
            engine.create_network(made)
        listener = engine.create(
            replace(
                spec,
                name=spec.name + "-listener",
                command=("python3", "-c", LISTEN),
                capabilities=("NET_BIND_SERVICE",),
                networks=(Endpoint(network=control.name), Endpoint(network=lab.name, v4="198.18.240.77")),
                publish=("25/tcp",),
            )
        ).id
        idle = engine.create(replace(spec, networks=(Endpoint(network=control.name),))).id
        for container in (listener, idle):
            engine.node(container).start()
        assert next(engine.node(listener).logs(follow=True)).text == "listening"
        return listener, idle, control

    def test_a_container_has_its_address_on_a_second_network(
        self, engine: Host, pair: tuple[str, str, NetworkSpec]
    ) -> None:
        listener, _, _ = pair
        addresses = engine.node(listener).exec(("ip", "-br", "-4", "address")).stdout
        assert "198.18.240.77/24" in addresses
        assert len(addresses.splitlines()) == 3

    def test_a_port_is_published_on_the_loopback_alone(
        self, engine: Host, pair: tuple[str, str, NetworkSpec], labels: Mapping[str, str]
    ) -> None:
        listener, _, _ = pair
        port = next(f.ports["25/tcp"] for f in engine.find({**labels}) if f.id == listener)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            assert client.recv(5) == b"hello"
        listening = [
            line.split()[1]
            for table in ("/proc/net/tcp", "/proc/net/tcp6")
            for line in Path(table).read_text().splitlines()
            if line.split()[1].endswith(f":{port:04X}")
        ]
        assert {address.partition(":")[0] for address in listening} <= {"0100007F"}

    def test_containers_of_a_control_network_do_not_reach_each_other(
        self, engine: Host, pair: tuple[str, str, NetworkSpec]
    ) -> None:
        listener, idle, _ = pair
        address = engine.node(listener).exec(("hostname", "-I")).stdout.split()[0]
        reach = "import socket, sys; socket.create_connection((sys.argv[1], 25), timeout=1)"
        assert engine.node(listener).exec(("python3", "-c", reach, address)).status == 0
        refused = engine.node(idle).exec(("python3", "-c", reach, address))
        assert refused.status != 0
        assert "timed out" in refused.stderr

    def test_of_two_that_want_a_subnet_one_gets_it(
        self, engine: Host, network: Callable[..., NetworkSpec], labels: Mapping[str, str]
    ) -> None:
        def want(part: str) -> bool:
            try:
                engine.create_network(network(part, SUBNET))
            except SubnetTaken:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(want, "abcdefgh")) == [False] * 7 + [True]
        assert len(engine.find({**labels})) == 1

    def test_a_container_that_fails_half_way_is_removed(
        self, engine: Host, spec: ContainerSpec, labels: Mapping[str, str]
    ) -> None:
        with pytest.raises(EngineFailed, match=spec.name):
            engine.create(replace(spec, files={"/etc/passwd/file": b"below what is no folder"}))
        assert engine.find({**labels}) == []

    # -------------------------------------------------------------------------------------------------- streams

    def test_long_lines_of_both_outputs_come_whole_and_in_their_order(self, engine: Host, spec: ContainerSpec) -> None:
        """The engine cuts lines at 16 KiB; here one output speaks while a line of the other is half told."""
        script = "printf %040000d 5; sleep 0.3; echo between >&2; echo 6; printf %020000d 7 >&2; echo >&2; echo é"
        made = engine.create(replace(spec, command=("bash", "-c", script))).id
        before = time.time()
        engine.node(made).start()
        lines = list(engine.node(made).logs(follow=True))
        assert sorted((len(line.text), line.text[-2:]) for line in lines) == [
            (1, "é"),
            (7, "en"),
            (20000, "07"),
            (40001, "56"),
        ]
        assert all(before - 1 <= line.t <= time.time() + 1 for line in lines)

    def test_a_last_line_without_an_end_is_read(self, engine: Host, spec: ContainerSpec) -> None:
        """Of a container that has ended: while it is followed, Engine 20.10 often leaves such a line out."""
        made = engine.create(replace(spec, command=("sh", "-c", "echo one; printf two"))).id
        engine.node(made).start()
        engine.node(made).wait()
        assert [line.text for line in engine.node(made).logs(follow=False)] == ["one", "two"]

    def test_bytes_that_are_no_text_are_no_stumbling_block(self, engine: Host, spec: ContainerSpec) -> None:
        done = engine.run(replace(spec, command=("printf", r"\377\n")))
        assert done.stdout == "\N{REPLACEMENT CHARACTER}\n"

    def test_lines_of_a_command_come_when_they_are_printed(self, engine: Host, spec: ContainerSpec) -> None:
        made = engine.create(spec).id
        engine.node(made).start()
        lines = engine.node(made).exec_lines(
            ("sh", "-c", "echo first; while [ ! -e /go ]; do sleep 0.05; done; echo last"), timeout=60
        )
        assert next(lines) == "first"
        engine.node(made).exec(("touch", "/go"))
        assert list(lines) == ["last"]

    def test_a_command_that_closes_its_outputs_has_its_status_at_its_end(
        self, engine: Host, spec: ContainerSpec
    ) -> None:
        made = engine.create(spec).id
        engine.node(made).start()
        with pytest.raises(EngineFailed, match="status 3"):
            list(engine.node(made).exec_lines(("sh", "-c", "exec >&- 2>&-; sleep 0.3; exit 3"), timeout=60))

    def test_statistics_come_about_once_a_second(self, engine: Host, spec: ContainerSpec) -> None:
        made = engine.create(spec).id
        engine.node(made).start()
        stats = engine.node(made).stats()
        readings = [next(stats) for _ in range(3)]
        assert len({reading["read"] for reading in readings}) == 3
        assert all(reading["memory_stats"]["usage"] > 0 for reading in readings)

    def test_time_runs_out_for_commands_and_one_shots(
        self, engine: Host, spec: ContainerSpec, labels: Mapping[str, str]
    ) -> None:
        with pytest.raises(EngineFailed, match="within 1 s"):
            engine.run(replace(spec, command=("sleep", "600")), timeout=1)
        assert engine.find({**labels}) == []
        made = engine.create(spec).id
        engine.node(made).start()
        with pytest.raises(EngineFailed, match=r"within 0\.2 s"):
            engine.node(made).exec(("sleep", "601"), timeout=0.2)
        noisy = "while :; do echo line; head -c 9000 /dev/zero >&2; sleep 0.01; done # 604"
        lines = engine.node(made).exec_lines(("sh", "-c", noisy), timeout=0.2)
        assert next(lines) == "line"
        with pytest.raises(TimedOut, match=r"within 0\.2 s"):
            list(lines)
        running = engine.node(made).exec(("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout
        assert "sleep 600" in running
        assert "sleep 601" not in running
        assert "# 604" not in running

    @pytest.mark.parametrize("end", ["trap '' TERM; sleep 602", "trap 'exit 3' TERM; sleep 603 & wait"])
    def test_time_runs_out_for_a_command_that_ignores_the_signal_or_ends_as_it_likes(
        self, engine: Host, spec: ContainerSpec, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        monkeypatch.setattr("orchestrator.hosts.docker.node._KILL_AFTER_S", 0.2)
        made = engine.create(spec).id
        engine.node(made).start()
        with pytest.raises(TimedOut, match=r"within 0\.2 s"):
            engine.node(made).exec(("sh", "-c", end), timeout=0.2)
        with pytest.raises(TimedOut, match=r"within 0\.2 s"):
            list(engine.node(made).exec_lines(("sh", "-c", end), timeout=0.2))
        running = engine.node(made).exec(("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout
        assert "sleep 60" in running
        assert "sleep 602" not in running

    def test_a_command_that_somebody_kills_was_not_out_of_time(self, engine: Host, spec: ContainerSpec) -> None:
        made = engine.create(spec).id
        engine.node(made).start()
        done = engine.node(made).exec(("sh", "-c", "echo out; kill -KILL $$"))
        assert (done.status, done.stdout, done.stderr) == (137, "out\n", "")


# ------------------------------------------------------------------------------------------------------- connecting


@pytest.mark.parametrize(
    ("host", "found"),
    [("tcp://127.0.0.1:1", "refused"), ("unix:///nowhere/engine.sock", "No such file"), ("nonsense", "nonsense")],
)
def test_an_engine_that_does_not_answer(host: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(EngineFailed) as refused:
        docker.connect()
    assert found in refused.value.found
    assert "testbed setup" in refused.value.do


def test_a_context_that_does_not_exist_is_not_silently_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONTEXT", f"nowhere-{secrets.token_hex(4)}")
    with pytest.raises(EngineFailed, match="no context has this name"):
        docker.connect()
