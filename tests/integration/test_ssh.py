"""An engine behind a real sshd on 127.0.0.1: DOCKER_HOST=ssh://, also as a Docker context."""

import hashlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker as sdk
import httpx
import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import Host, docker, images
from orchestrator.hosts.docker.api import archive
from tests.integration.beds import Up
from tests.integration.command import POLL_S, TESTBED, Watched, call, phase
from tests.integration.traces import traces

pytestmark = pytest.mark.docker

SOCKET = "/var/run/docker.sock"
START = """
groupadd --non-unique --gid "$(stat --format %g /var/run/docker.sock)" engine
for user in member forbidden; do useradd --create-home --groups engine --password '*' $user; done
useradd --create-home --password '*' stranger
mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e -f /testbed/config
"""
CONFIG = """
ListenAddress 127.0.0.1:{port}
AuthorizedKeysFile /testbed/key
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxSessions 1
MaxStartups 2
UsePAM no
Match User forbidden
    AllowStreamLocalForwarding no
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A machine to log in at, and the environment of somebody who may."""

    port: int
    folder: Path
    """Of the keys, the client's configuration, and TMPDIR."""
    environment: dict[str, str]

    def url(self, user: str, path: str = "") -> str:
        """Name its engine."""
        return f"ssh://{user}@127.0.0.1:{self.port}{path}"

    def call(self, *words: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command of testbed there."""
        return call(*words, timeout=timeout, **self.environment)

    @property
    def scratch(self) -> Path:
        """Where its forwards keep what they need."""
        return self.folder / "scratch"

    @property
    def left(self) -> list[str]:
        """What forwards have left on this machine: folders, processes."""
        found = [path.name for path in self.scratch.iterdir()]
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if any(str(self.scratch).encode() in word for word in words):
                found.append(b" ".join(words).decode())
        return found


def until(fact: Callable[[], object], seconds: float = 20) -> None:
    """Wait until a fact holds that nobody announces."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not seen in {seconds} s"
        time.sleep(POLL_S)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def host(real_engine: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """Run sshd in a container in this machine's network namespace, with the engine's socket, and three users."""
    folder, port = tmp_path_factory.mktemp("ssh"), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "catalogue", lambda: {"test-sshd": Path(__file__).with_name("sshd")})
        images.ensure(real_engine, [("test-sshd", images.DEFAULT_RELEASE)], print)
    for name in ("bin", "scratch"):
        (folder / name).mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    client = sdk.from_env()
    name = f"tb-test-sshd-{port}"
    container = client.containers.create(
        images.tag("test-sshd", images.DEFAULT_RELEASE),
        ["sh", "-euc", START],
        name=name,
        network_mode="host",
        volumes={SOCKET: {"bind": SOCKET}},
    )
    try:
        files = {
            "/testbed/config": CONFIG.format(port=port).encode(),
            "/testbed/key": (folder / "key.pub").read_bytes(),
        }
        container.put_archive("/", archive(files))
        container.start()
        for line in real_engine.node(name).logs(follow=True):
            if "Server listening" in line.text:
                break
        key = real_engine.node(name).exec(("cat", "/etc/ssh/ssh_host_ed25519_key.pub")).stdout
        (folder / "known").write_text(f"[127.0.0.1]:{port} {key}")
        (folder / "config").write_text(
            f"Host *\n IdentityFile {folder}/key\n IdentitiesOnly yes\n UserKnownHostsFile {folder}/known\n"
            f" GlobalKnownHostsFile none\n LocalForward 127.0.0.1:{port} 127.0.0.1:9\n ControlMaster auto\n"
            f" ControlPath {folder}/shared\n RemoteCommand false\n ClearAllForwardings yes\n"
        )
        program = folder / "bin" / "ssh"
        program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/config "$@"\n')
        program.chmod(0o755)
        environment = {
            "DOCKER_HOST": f"ssh://member@127.0.0.1:{port}",
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "TMPDIR": str(folder / "scratch"),
        }
        yield Login(port=port, folder=folder, environment=environment)
    finally:
        container.remove(force=True)


@pytest.fixture
def here(host: Login, monkeypatch: pytest.MonkeyPatch) -> Iterator[Login]:
    """Stand in the environment of somebody who may log in; nothing of a forward is left after the test."""
    for name, value in host.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", host.environment["TMPDIR"])
    yield host
    until(lambda: host.left == [])


@pytest.fixture(scope="module")
def bed(host: Login, real_engine: Host) -> Iterator[tuple[Up, str]]:
    """Bring a bed up over ssh; give it, and what `up` printed. `down` leaves nothing of it."""
    shown = host.call("up", "mail", "--name", "test-ssh")
    assert shown.returncode == 0, shown.stderr
    facts = json.loads(host.call("ps", "--format", "json").stdout)
    up = next(Up(facts=bed) for bed in facts if bed["id"] in shown.stdout)
    yield up, shown.stdout
    down = host.call("down", up.id)
    assert down.returncode == 0, down.stderr
    assert traces(real_engine, [up.id]) == []


# ---------------------------------------------------------------------------------------------------- beds and runs


def test_a_bed_is_used_over_ssh(host: Login, bed: tuple[Up, str]) -> None:
    up, _ = bed
    assert "daemon started" in host.call("logs", "--bed", up.id, "relay").stdout
    assert host.call("exec", "--bed", up.id, "relay", "--", "hostname").stdout == "relay\n"
    used = json.loads(host.call("stats", up.id, "--format", "json").stdout)
    assert used.keys() == {"dns", "gate", "inbox", "relay"}
    assert all(node["memory_b"] > 0 for node in used.values())
    until(lambda: host.left == [])


def test_the_printed_command_leads_to_the_relay_and_to_the_page_of_the_inbox(host: Login, bed: tuple[Up, str]) -> None:
    up, shown = bed
    (line,) = re.findall(r"127\.0\.0\.1 is 127\.0\.0\.1's; .*: (ssh -nNT .*)", shown)
    assert line in host.call("ps").stdout
    assert up.facts["forward"] == line
    assert line.endswith(f"-p {host.port} member@127.0.0.1")
    # The other machine is this one, where the ports are taken: they lead to others here.
    relay, page = free_port(), free_port()
    for port, ours in ((up.port("relay", "25/tcp"), relay), (up.port("inbox", "8025/tcp"), page)):
        assert f"-L {port}:127.0.0.1:{port} " in line
        line = line.replace(f"-L {port}:", f"-L {ours}:")
    with subprocess.Popen([host.folder / "bin" / "ssh", *shlex.split(line)[1:]], stderr=subprocess.DEVNULL) as way:
        try:

            def greeted() -> bool:
                try:
                    with socket.create_connection(("127.0.0.1", relay), timeout=5) as client:
                        return client.recv(3) == b"220"
                except ConnectionRefusedError:
                    return False

            until(greeted)
            assert "<html" in httpx.get(f"http://127.0.0.1:{page}/").text
        finally:
            way.kill()


def test_a_command_that_is_killed_leaves_no_forward(host: Login, bed: tuple[Up, str]) -> None:
    up, _ = bed
    follow = [str(TESTBED), "logs", "--bed", up.id, "relay", "--follow"]
    with subprocess.Popen(follow, env=os.environ | host.environment, stdout=subprocess.PIPE) as command:
        assert command.stdout
        assert command.stdout.readline()
        assert len(host.left) >= 2
        command.kill()
    until(lambda: host.left == [])


def test_as_many_connections_as_a_large_bed_needs_go_through_one_session(here: Login, bed: tuple[Up, str]) -> None:
    """Its sshd is told MaxSessions 1 and MaxStartups 2."""
    up, _ = bed
    together = threading.Barrier(40)

    def watch(engine: Host) -> str:
        stats = engine.node(up.container("relay")).stats()
        reading = next(stats)
        together.wait(30)
        return str(reading["id"])

    engine = docker.connect()
    with ThreadPoolExecutor(40) as pool:
        assert len(set(pool.map(watch, [engine] * 40))) == 1
    assert sum(" -nNT " in process for process in here.left) == 2  # the keeper, and its only child
    del engine


@pytest.mark.long
def test_ctrl_c_takes_the_bed_of_a_run_down_through_the_forward(
    host: Login, real_engine: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in host.environment.items():
        monkeypatch.setenv(name, value)
    run = Watched(real_engine, tmp_path, "--domains", "8", "--seconds", "60", group=True)
    run.until(phase("calibration"))
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end() == 130, run.said
    assert "nothing was left behind" in run.said
    assert traces(real_engine, run.ids) == []
    until(lambda: host.left == [])


# ------------------------------------------------------------------------------------------------------- connecting


@pytest.mark.parametrize("name", ["a:b", "100%", "$HOME"])
def test_a_folder_for_temporary_files_may_have_any_name(
    here: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    engine = docker.connect()
    assert engine.info().cpus >= 1
    assert engine.address
    assert engine.address.port == here.port
    assert list((tmp_path / name).iterdir()) == []


def test_a_docker_context_names_it(here: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"far").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": "far", "Metadata": {}, "Endpoints": {"docker": {"Host": here.url("member")}}}))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "far"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST")
    engine = docker.connect()
    assert engine.info().cpus >= 1
    assert engine.address
    assert engine.address.port == here.port


@pytest.mark.parametrize(
    ("user", "path", "needed", "found", "do"),
    [
        ("stranger", "", "permission to use", f"{SOCKET} is closed", "group docker"),
        ("member", "/nowhere.sock", "that answers", "no /nowhere.sock there", "name its socket"),
        ("member", "/dev/null", "that answers", "no answer at /dev/null there", "start it there"),
        ("forbidden", "", "that answers", "its sshd forwards no socket", "AllowStreamLocalForwarding yes"),
        ("intruder", "", "without a prompt", "Permission denied (publickey)", "ssh-agent"),
        ("member:secret", "", "ssh://[user@]host", "member:...@127.0.0.1", "correct DOCKER_HOST"),
    ],
)  # fmt: skip
def test_what_refuses_is_named(
    here: Login, monkeypatch: pytest.MonkeyPatch, user: str, path: str, needed: str, found: str, do: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", here.url(user, path))
    with pytest.raises(EngineFailed) as refused:
        docker.connect()
    assert needed in refused.value.needed
    assert found in refused.value.found
    assert do in refused.value.do


def test_an_unknown_host_key_is_named(here: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"ssh://member@localhost:{here.port}")
    with pytest.raises(EngineFailed) as refused:
        docker.connect()
    assert "the host key of localhost known" in refused.value.needed
    assert f"`ssh -p {here.port} member@localhost true`" in refused.value.do


def test_a_machine_that_takes_no_login_is_named(here: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://127.0.0.1:1")
    with pytest.raises(EngineFailed, match="Connection refused") as refused:
        docker.connect()
    assert "a connection to 127.0.0.1 by ssh" in refused.value.needed
    assert here.left == []


def test_no_ssh_client_is_named(here: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here.scratch))
    with pytest.raises(EngineFailed) as refused:
        docker.connect()
    assert "openssh-client" in refused.value.do
