"""Networks that this machine's engine has not: odd subnets, address pools outside RFC 1918, a bed that cannot go."""

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from docker.types import IPAMConfig, IPAMPool

from orchestrator.errors import ExitCode, InvalidInput
from orchestrator.hosts import networks
from orchestrator.hosts.helper import HELPER
from orchestrator.hosts.ownership import Identity
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.command import Watched, call, step
from tests.integration.own_engine import POOL, OwnEngine
from tests.integration.test_lab import an_identity, left_by_a_killed_process

pytestmark = pytest.mark.docker

ODD = {"beside the lab": "10.100.50.0/22", "within the lab": "198.19.255.70/26"}
"""Subnets with host bits, as `docker network create --subnet` takes them."""
RELAY = """
name: relay
domains: [d0.test]
nodes: {relay: {service: postfix}}
"""


@pytest.fixture(scope="module")
def bed(own: OwnEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Bring a relay up beside networks with host bits in their subnets."""
    made = [
        own.client.create_network(name.replace(" ", "-"), ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=subnet)]))["Id"]
        for name, subnet in ODD.items()
    ]
    file = tmp_path_factory.mktemp("bed") / "relay.yaml"
    file.write_text(RELAY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", own.host)
        up = bring_up(file)
        yield up
        for network in made:
            own.client.remove_network(network)
        bring_down(own.engine, up)


def test_a_subnet_with_host_bits_is_one_that_is_taken(own: OwnEngine, bed: Up) -> None:
    kept = {f.name: f.subnet for f in own.engine.find({})}
    assert kept["beside-the-lab"] == "10.100.48.0/22"
    assert not bed.subnet.overlaps(IPv4Network("198.19.255.64/26"))
    with pytest.raises(InvalidInput, match="network within-the-lab"):
        networks.choose_subnet(own.engine, 26, "198.19.255.64/26")


def test_a_relay_takes_the_hosts_mail_through_its_published_port(own: OwnEngine, bed: Up) -> None:
    """The engine's bridges are outside RFC 1918."""
    control = next(f for f in own.engine.find({"testbed.id": bed.id}) if f.name.endswith("-control"))
    assert IPv4Network(str(control.subnet)).subnet_of(IPv4Network(POOL))
    script = f"""
exec 3<>/dev/tcp/127.0.0.1/{bed.port("relay", "25/tcp")}
for word in 'EHLO host.test' 'MAIL FROM:<>' 'RCPT TO:<user@d0.test>' 'QUIT'; do
    while read -r reply <&3; [ "${{reply:3:1}}" = - ]; do :; done
    echo "$reply"
    printf '%s\\r\\n' "$word" >&3
done
"""
    done = own.call("bash", "-euc", script)
    said = done.stdout.splitlines()
    assert said[0].startswith("220"), done.stderr
    assert said[3].startswith("250"), said
    read = bed.exec("relay", "postconf", "-h", "mynetworks")
    assert "172.16.0.0/12" not in read.stdout


def _names(said: str, identity: Identity) -> bool:
    """Say whether a command names this bed and what the engine says of it; lines are broken on a narrow screen."""
    text = " ".join(said.split())
    return f"bed test-lab {identity.id} is not wholly removed" in text and "has active endpoints" in text


def test_a_network_that_cannot_go_is_named_and_blocks_nothing(
    own: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run left two beds, and somebody else's container is on the networks of the first."""
    monkeypatch.setenv("DOCKER_HOST", own.host)
    first, second = an_identity(), an_identity()
    for identity in (first, second):
        left_by_a_killed_process(identity, 3)
    with ExitStack() as stack:
        foreign = own.client.create_container(HELPER, ["sleep", "600"])["Id"]
        stack.callback(own.engine.node(foreign).remove)
        for part in ("control", "lab"):
            own.client.connect_container_to_network(foreign, first.name(part))
        own.client.start(foreign)

        run = Watched(own.engine, tmp_path / "runs", "--domains", "2")
        stack.callback(run.process.kill)
        run.until(step("make its networks"))
        run.process.terminate()
        assert run.end() == ExitCode.INTERRUPTED
        assert _names(run.said, first)
        assert {f.labels["testbed.id"] for f in own.engine.find({"testbed.bed": "test-lab"})} == {first.id}

        bed = tmp_path / "relay.yaml"
        bed.write_text(RELAY, encoding="utf-8")
        bring_down(own.engine, bring_up(bed))

        done = call("clean")
        assert done.returncode == ExitCode.ENGINE
        assert _names(done.stderr, first)
    assert call("clean").returncode == 0
    assert own.engine.find({"testbed.bed": "test-lab"}) == []
