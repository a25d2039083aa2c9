"""Networks that this machine's engine has not: odd subnets, address pools outside RFC 1918, a bed that cannot go."""

from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest
from docker.types import IPAMConfig, IPAMPool

from orchestrator import lab
from orchestrator.errors import InvalidInput
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.own_engine import POOL, OwnEngine

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
        lab.choose_subnet(own.engine, 26, "198.19.255.64/26")


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
