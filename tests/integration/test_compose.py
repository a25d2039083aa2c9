"""The Compose files, read and started by Compose itself: `make tools` installs one."""

import json
import os
import re
import secrets
import shutil
import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from orchestrator import services
from orchestrator.hosts import Host, Node, images
from tests.integration.command import call
from tests.integration.traces import on_the_host

pytestmark = pytest.mark.docker

CHECKOUT = Path(__file__).parents[2]
FOLDERS = sorted((CHECKOUT / "compose").glob("*/compose.yaml"))
SERVICES = {"dns": "bind", "relay": "postfix", "sink": "blackhole", "load": "smtp-load"}
AGENTS = (
    *("setpriv", "--bounding-set=-all", "--no-new-privs", "--"),
    *("env", "PYTHONPATH=/testbed/lib", "/opt/agents/bin/python", "-m"),
)


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """Return the command: the plugin of docker, or Debian's program."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ):
            return command
    pytest.fail("needed Compose; found none; do: make tools, or install what Debian calls docker-compose")


@pytest.mark.parametrize("file", FOLDERS, ids=lambda file: str(file.parent.name))
def test_compose_reads_the_file_and_asks_for_the_parent_of_a_macvlan(compose: list[str], file: Path) -> None:
    asks = "TESTBED_PARENT" in file.read_text()
    assert asks == (file.parent.name == "relay")
    environment = {name: value for name, value in os.environ.items() if name != "TESTBED_PARENT"}
    for parent, said in ((None, "ip link add" if asks else ""), ("tbcp", "")):
        done = subprocess.run(
            [*compose, "--file", file, "config", "--quiet"],
            env={**environment, **({"TESTBED_PARENT": parent} if parent else {})},
            text=True,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode == 0) == bool(parent or not asks), done.stderr
        assert said in done.stderr


@pytest.fixture
def parent(real_engine: Host) -> Iterator[str]:
    """Make the veth pair and the rule that compose/README.md asks for."""
    name = f"tbc{secrets.token_hex(4)}"
    script = (
        "ip link add $0 type veth peer name ${0}q; ip link set ${0}q up; ip link set $0 up;"
        'nft "add table netdev $0; add chain netdev $0 ends'
        ' { type filter hook ingress device ${0}q priority 0; policy drop; }"'
    )
    on_the_host(real_engine, "sh", "-euc", script, name)
    yield name
    on_the_host(real_engine, "sh", "-euc", "ip link delete $0; nft delete table netdev $0", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder as the command of compose/README.md writes it, and one start of it."""

    compose: list[str]
    project: str
    folder: Path
    parent: str = ""

    def __call__(self, *words: str) -> str:
        """Call Compose, and return what it prints."""
        done = subprocess.run(
            [*self.compose, "--project-name", self.project, "--file", self.folder / "compose.yaml", *words],
            env={
                **os.environ,
                "TESTBED_PARENT": self.parent,
                "TESTBED_CODE": str(CHECKOUT / "orchestrator"),
                "TESTBED_IMAGES": str(CHECKOUT / "images"),
            },
            text=True,
            capture_output=True,
            check=False,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def node(self, engine: Host, name: str, ready: re.Pattern[str]) -> Node:
        """Return a node once it is ready, past Compose, which takes a second a call."""
        found = engine.find({"com.docker.compose.project": self.project, "com.docker.compose.service": name})
        node = engine.node(next(f.id for f in found if f.kind == "container"))
        assert next(line for line in node.logs(follow=True) if ready.search(line.text))
        return node


@contextmanager
def started(project: Project, engine: Host, bed: str, *nodes: str) -> Iterator[Project]:
    """Write the folder of a bed, and start these of its nodes, or all."""
    done = call("plan", bed, "--domains", "16", "--format", "compose", "--files", project.folder)
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((project.folder / "compose.yaml").read_text())["services"].values()
    tags = {str(node["image"]).removeprefix("testbed/").partition(":") for node in written}
    images.ensure(engine, [(image, release) for image, _, release in tags], print)
    try:
        project("up", "--detach", "--no-build", *nodes)
        yield project
    finally:
        project("down", "--volumes", "--timeout", "1")


@pytest.fixture
def relay(compose: list[str], real_engine: Host, parent: str, tmp_path: Path) -> Iterator[Project]:
    """Start compose/relay."""
    project = Project(compose=compose, project=f"tb-test-{parent}", folder=tmp_path, parent=parent)
    with started(project, real_engine, "relay"):
        yield project


def test_a_message_goes_through_the_bed_that_compose_starts(relay: Project, real_engine: Host) -> None:
    """One of them by `compose exec`, as compose/README.md says; the rest past Compose, which takes a second a call."""
    server = next(a for a in relay("exec", "-T", "relay", "hostname", "-I").split() if a.startswith("198."))
    nodes = {node: relay.node(real_engine, node, services.service(service).ready) for node, service in SERVICES.items()}

    def agent(node: str, name: str, *words: str) -> str:
        done = nodes[node].exec((*AGENTS, f"orchestrator.agents.{name}", *words))
        assert done.status == 0, done.failure
        return done.stdout

    agent("sink", "control", "expect", "0badcafe", "2")
    agent("load", "probe", "--server", server, "--run", "0badcafe", "--domains", "d0.test,d15.test")
    assert next(line for line in nodes["sink"].logs(follow=True) if '"complete": "0badcafe"' in line.text)
    count = json.loads(agent("sink", "control", "count", "0badcafe"))
    assert (count["delivered"], count["foreign"]) == (2, 0)


def test_the_inbox_that_compose_starts_has_a_certificate_of_the_authority_beside_it(
    compose: list[str], real_engine: Host, tmp_path: Path
) -> None:
    project = Project(compose=compose, project=f"tb-test-{secrets.token_hex(4)}", folder=tmp_path)
    with started(project, real_engine, "mail", "inbox"):
        project.node(real_engine, "inbox", services.service("inbox").ready)
        port = int(project("port", "inbox", "587").rpartition(":")[2])
        trust = ssl.create_default_context(cafile=tmp_path / "inbox" / "testbed" / "ca.pem")
        with smtplib.SMTP("localhost", port, timeout=10) as smtp:
            smtp.starttls(context=trust)
            assert smtp.sendmail("ann@example.org", ["bob@d0.test"], "Subject: x\r\n\r\ntext\r\n") == {}
