"""What every engine does, the one in memory and a real one: what is written against one holds for the other."""
# ruff: noqa: D102  the name of a test is its sentence

import secrets
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from threading import Thread

import pytest

from orchestrator.errors import EngineFailed, TimedOut
from orchestrator.hosts import ContainerSpec, Endpoint, Host, NetworkSpec, SubnetTaken

SERVE = "trap 'exit 3' TERM; echo one; echo two; while :; do sleep 600 & wait $!; done"
"""Prints two lines and goes on until it is told to end, with status 3."""
SUBNET = "198.18.240.0/24"


class EngineContract:
    """Inherit with ``engine`` (an engine with ``image``) and ``end``."""

    image = "testbed/agents:bookworm"

    @pytest.fixture
    @abstractmethod
    def engine(self) -> Host:
        """Give an engine."""

    @abstractmethod
    def end(self, engine: Host, container: str) -> None:
        """Let a container end by itself, with status 3."""

    @pytest.fixture
    def labels(self, engine: Host) -> Iterator[Mapping[str, str]]:
        """Give labels of one test; what carries them is removed after it."""
        labels = {"testbed.test": secrets.token_hex(4)}
        yield labels
        for found in engine.find({**labels}):
            engine.node(found.id).remove() if found.kind == "container" else engine.remove_network(found.id)

    @pytest.fixture
    def spec(self, labels: Mapping[str, str]) -> ContainerSpec:
        """Describe a container that prints two lines and goes on."""
        return ContainerSpec(
            name=f"tb-test-{labels['testbed.test']}", image=self.image, command=("sh", "-c", SERVE), labels=labels
        )

    @pytest.fixture
    def network(self, labels: Mapping[str, str]) -> Callable[..., NetworkSpec]:
        """Describe networks."""

        def describe(part: str, subnet: str | None = None) -> NetworkSpec:
            name = f"tb-test-{labels['testbed.test']}-{part}"
            return NetworkSpec(name=name, driver="bridge", labels=labels, subnet=subnet)

        return describe

    def test_it_says_what_it_is(self, engine: Host) -> None:
        info = engine.info()
        assert info.cpus >= 1
        assert info.memory_b > 1 << 20
        assert all((info.version, info.api, info.kernel, info.storage, info.cgroup))

    def test_an_image_that_is_not_there_is_none(self, engine: Host) -> None:
        assert engine.images.find(f"testbed/nowhere:{secrets.token_hex(4)}") is None
        assert engine.images.list(f"testbed.{secrets.token_hex(4)}") == []

    def test_a_container_is_created_runs_ends_and_goes(
        self, engine: Host, spec: ContainerSpec, labels: Mapping[str, str]
    ) -> None:
        made = engine.create(spec).id
        assert [(f.id, f.name, f.state, f.kind) for f in engine.find({**labels})] == [
            (made, spec.name, "created", "container")
        ]
        engine.node(made).start()
        assert [f.state for f in engine.find({**labels})] == ["running"]
        self.end(engine, made)
        assert engine.node(made).wait() == 3
        assert [f.state for f in engine.find({**labels})] == ["exited"]
        for _ in range(2):
            engine.node(made).remove()
        assert engine.find({**labels}) == []

    def test_a_log_is_followed_from_its_start_to_the_end_of_its_container(
        self, engine: Host, spec: ContainerSpec
    ) -> None:
        made = engine.create(spec).id
        engine.node(made).start()
        followed = engine.node(made).logs(follow=True)
        assert [next(followed).text, next(followed).text] == ["one", "two"]
        self.end(engine, made)
        assert list(followed) == []
        again = list(engine.node(made).logs(follow=False))
        assert [line.text for line in again] == ["one", "two"]
        assert again[0].t <= again[1].t

    @pytest.mark.parametrize("stream", ["logs", "stats", "wait"])
    def test_a_removal_ends_whoever_listens(self, engine: Host, spec: ContainerSpec, stream: str) -> None:
        made = engine.create(spec).id
        engine.node(made).start()

        def listen() -> None:
            with suppress(EngineFailed):
                if stream == "logs":
                    list(engine.node(made).logs(follow=True))
                elif stream == "stats":
                    list(engine.node(made).stats())
                else:
                    engine.node(made).wait()

        listener = Thread(target=listen, daemon=True)
        listener.start()
        engine.node(made).remove()
        listener.join(20)
        assert not listener.is_alive()

    def test_a_name_is_given_once(self, engine: Host, spec: ContainerSpec, labels: Mapping[str, str]) -> None:
        made = engine.create(spec).id
        with pytest.raises(EngineFailed):
            engine.create(spec)
        assert [f.id for f in engine.find({**labels})] == [made]

    def test_a_container_of_a_network_that_is_not_there_never_runs(
        self, engine: Host, spec: ContainerSpec, network: Callable[..., NetworkSpec], labels: Mapping[str, str]
    ) -> None:
        there = engine.create_network(network("there"))

        def bring_up() -> None:  # a real engine looks for the second network when it starts the container
            networks = (Endpoint(network=there), Endpoint(network="tb-test-nowhere"))
            engine.create(replace(spec, networks=networks)).start()

        with pytest.raises(EngineFailed):
            bring_up()
        assert "running" not in [f.state for f in engine.find({**labels})]

    def test_a_command_gives_its_status_and_both_its_outputs(self, engine: Host, spec: ContainerSpec) -> None:
        made = engine.create(spec).id
        with pytest.raises(EngineFailed):
            engine.node(made).exec(("true",))
        engine.node(made).start()
        done = engine.node(made).exec(("sh", "-c", "echo out; echo err >&2; exit 3"))
        assert (done.status, done.stdout, done.stderr) == (3, "out\n", "err\n")
        assert list(engine.node(made).exec_lines(("sh", "-c", "echo a; echo; printf b"), timeout=9)) == ["a", "", "b"]
        lines = engine.node(made).exec_lines(("sh", "-c", "echo a; echo why >&2; exit 1"), timeout=9)
        assert next(lines) == "a"
        with pytest.raises(EngineFailed, match="status 1: why"):
            next(lines)

    def test_every_status_of_a_command_is_its_own(self, engine: Host, spec: ContainerSpec) -> None:
        """None of them reads as the end of its time, whoever else gives it: timeout(1), a shell, SIGKILL."""
        made = engine.create(spec).id
        engine.node(made).start()
        for status in (124, 125, 126, 127, 137, 143):
            command = ("sh", "-c", f"timeout --verbose 0.01 sleep 9; echo ended; exit {status}")
            done = engine.node(made).exec(command)
            assert (done.status, done.stdout) == (status, "ended\n")
            lines = engine.node(made).exec_lines(command, timeout=60)
            assert next(lines) == "ended"
            with pytest.raises(EngineFailed, match=f"status {status}: "):
                next(lines)

    def test_a_command_that_outlives_its_time_fails(self, engine: Host, spec: ContainerSpec) -> None:
        made = engine.create(spec).id
        engine.node(made).start()
        with pytest.raises(TimedOut, match=r"needed sleep 0\.9 to end within 0\.1 s.*it did not"):
            engine.node(made).exec(("sleep", "0.9"), capabilities=("CHOWN",), timeout=0.1)
        with pytest.raises(TimedOut, match=r"needed sleep 0\.9 to end within 0\.1 s.*it did not"):
            list(engine.node(made).exec_lines(("sleep", "0.9"), capabilities=("CHOWN",), timeout=0.1))

    def test_a_file_is_read_whether_or_not_its_container_runs(self, engine: Host, spec: ContainerSpec) -> None:
        node = engine.create(replace(spec, files={"/etc/x": b"one"}))
        assert (node.read_file("/etc/x"), node.read_file("/etc/y")) == (b"one", None)
        node.start()
        assert (node.read_file("/etc/x"), node.read_file("/etc/y")) == (b"one", None)
        node.remove()
        with pytest.raises(EngineFailed):
            node.read_file("/etc/x")

    def test_a_running_container_is_pinned_to_cpus_that_are_there(self, engine: Host, spec: ContainerSpec) -> None:
        made = engine.create(spec).id
        engine.node(made).start()
        engine.node(made).pin("0")
        with pytest.raises(EngineFailed):
            engine.node(made).pin("0,4095")
        with pytest.raises(EngineFailed):
            engine.node(f"tb-test-{secrets.token_hex(4)}").pin("0")

    def test_a_paused_container_runs_nothing_until_it_continues(
        self, engine: Host, spec: ContainerSpec, labels: Mapping[str, str]
    ) -> None:
        node = engine.create(spec)
        with pytest.raises(EngineFailed):
            node.pause()
        node.start()
        node.unpause()
        node.pause()
        assert [f.state for f in engine.find({**labels})] == ["paused"]
        for refused in (node.pause, lambda: node.exec(("true",))):
            with pytest.raises(EngineFailed):
                refused()
        node.unpause()
        assert node.exec(("echo", "again")).stdout == "again\n"
        node.pause()
        node.remove()
        node.unpause()
        assert engine.find({**labels}) == []

    def test_a_one_shot_leaves_nothing(self, engine: Host, spec: ContainerSpec, labels: Mapping[str, str]) -> None:
        done = engine.run(replace(spec, command=("sh", "-c", "echo out; echo err >&2; exit 4")))
        assert (done.status, done.stdout, done.stderr) == (4, "out\n", "err\n")
        assert engine.find({**labels}) == []

    def test_ports_are_free_ones_of_the_host(self, engine: Host, spec: ContainerSpec, labels: Mapping[str, str],
                                             network: Callable[..., NetworkSpec]) -> None:  # fmt: skip
        there = engine.create_network(network("there"))
        made = engine.create(replace(spec, networks=(Endpoint(network=there),), publish=("25/tcp", "53/udp"))).id
        engine.node(made).start()
        found = next(f for f in engine.find({**labels}) if f.id == made)
        assert set(found.ports) == {"25/tcp", "53/udp"}
        assert all(port > 1023 for port in found.ports.values())

    def test_a_subnet_is_taken_as_a_whole_and_in_part(
        self, engine: Host, network: Callable[..., NetworkSpec], labels: Mapping[str, str]
    ) -> None:
        made = engine.create_network(network("first", SUBNET))
        for overlapping in (SUBNET, "198.18.240.0/20", "198.18.240.128/25"):
            with pytest.raises(SubnetTaken):
                engine.create_network(network("second", overlapping))
        assert [(f.kind, f.subnet) for f in engine.find({**labels})] == [("network", SUBNET)]
        engine.remove_network(made)
        engine.remove_network(engine.create_network(network("second", SUBNET)))

    def test_a_network_in_use_stays(self, engine: Host, spec: ContainerSpec,
                                    network: Callable[..., NetworkSpec]) -> None:  # fmt: skip
        there = engine.create_network(network("there"))
        made = engine.create(replace(spec, networks=(Endpoint(network=there),))).id
        engine.node(made).start()
        with pytest.raises(EngineFailed):
            engine.remove_network(there)
        engine.node(made).remove()
        for _ in range(2):
            engine.remove_network(there)

    def test_labels_choose_containers_first_then_networks(
        self, engine: Host, spec: ContainerSpec, network: Callable[..., NetworkSpec], labels: Mapping[str, str]
    ) -> None:
        engine.create_network(network("there"))
        engine.create(replace(spec, labels={**labels, "testbed.node": "relay"}))
        assert [f.kind for f in engine.find({**labels})] == ["container", "network"]
        assert [f.kind for f in engine.find({**labels, "testbed.node": None})] == ["container"]
        assert engine.find({**labels, "testbed.node": "sink"}) == []

    def test_what_is_not_there_cannot_be_started_or_read(self, engine: Host) -> None:
        nobody = f"tb-test-{secrets.token_hex(4)}"
        node = engine.node(nobody)
        for act in (node.start, node.wait, lambda: list(node.logs(follow=False))):
            with pytest.raises(EngineFailed) as refused:
                act()
            assert "Traceback" not in str(refused.value)
        node.remove()
        engine.remove_network(nobody)
