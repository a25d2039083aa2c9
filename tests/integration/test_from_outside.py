"""A bed as others reach it: guests on its network, other machines, and under a user's own zone file."""

import json
import secrets
import smtplib
import socket
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import dns.message
import dns.query
import httpx
import pytest

from orchestrator.bed import builtin
from orchestrator.hosts import ContainerSpec, Endpoint, Host, Node, Output
from orchestrator.hosts.ownership import Identity
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.command import answer, call
from tests.integration.reach import ANSWERED, fates, knocking
from tests.integration.traces import traces

pytestmark = pytest.mark.docker

PORT = 8025
USE = """
import json, smtplib, urllib.request
import dns.message, dns.query, socket
with smtplib.SMTP("relay", 25, timeout=10) as smtp:
    smtp.sendmail("ann@example.org", ["bob@example.com"], "Subject: from a guest\\r\\n\\r\\ntext\\r\\n")
with urllib.request.urlopen("http://inbox:8025/api/wait?to=bob@example.com&timeout=20", timeout=30) as answer:
    (message,) = json.load(answer)["messages"]
server, asked = socket.gethostbyname("dns"), dns.message.make_query("example.com", "MX")
replies = [how(asked, server, timeout=10) for how in (dns.query.udp, dns.query.tcp)]
told = [str(reply.answer[0][0]) for reply in replies]
print(json.dumps([message["subject"], *told]))
"""


ZONE = """$TTL 60
@ IN SOA ns1 hostmaster (7 60 60 60 60)
@ NS ns1
@ MX 10 inbox.nodes.test.
@ TXT "from the file"
ns1 A 192.0.2.53
"""


@pytest.fixture(scope="module")
def address() -> str:
    """Return the address of this machine for others, from its routes (RFC 5737: nothing is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as routed:
        routed.connect(("203.0.113.1", 9))
        return str(routed.getsockname()[0])


@pytest.fixture(scope="module")
def mail(real_engine: Host, tmp_path_factory: pytest.TempPathFactory, address: str) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("bed")
    (folder / "example.zone").write_text(ZONE)
    written = (files(builtin) / "mail.yaml").read_text()
    (folder / "bed.yaml").write_text(f"{written}zones: {{example.com: example.zone}}\n")
    bed = bring_up(folder / "bed.yaml", "--guests", "--publish", address)
    yield bed
    if traces(real_engine, [bed.id]):
        bring_down(real_engine, bed)


def guest(bed: Up, *command: str, capabilities: tuple[str, ...] = ()) -> ContainerSpec:
    """Return a container of somebody else on the guest network."""
    return ContainerSpec(
        name=f"tb-test-guest-{secrets.token_hex(4)}",
        image="testbed/inbox:bookworm",
        command=command,
        labels=Identity(bed="helper").labels(),
        networks=(Endpoint(network=bed.facts["guests"]["network"], alias="visitor"),),
        capabilities=capabilities,
    )


def success(output: Output) -> str:
    assert output.status == 0, output.stderr
    return output.stdout


@pytest.fixture(scope="module")
def visitor(real_engine: Host, mail: Up) -> Iterator[Node]:
    """Keep a guest that listens on PORT, and has more rights than an engine gives by default."""
    server = ("/opt/agents/bin/python", "-u", "-m", "http.server", str(PORT))
    node = real_engine.create(guest(mail, *server, capabilities=("NET_ADMIN",)))
    try:
        node.start()
        assert next(line for line in node.logs(follow=True) if "Serving" in line.text)
        yield node
    finally:
        node.remove()


def knock(visitor: Node, *targets: str) -> dict[str, str]:
    return dict(fates(success(visitor.exec(knocking(targets, "test")))))


def resolved(visitor: Node, name: str) -> str:
    """Return the address of a name on the guest network."""
    return success(visitor.exec(("getent", "hosts", name))).split()[0]


def test_a_guest_uses_relay_inbox_and_dns_by_name(real_engine: Host, mail: Up) -> None:
    network, aliases = f"testbed-{mail.facts['bed']}-guests", ["dns", "gate", "inbox", "relay"]
    assert mail.facts["guests"] == {"network": network, "aliases": aliases}
    assert mail.facts["guests"] in [bed["guests"] for bed in answer("ps")]
    done = real_engine.run(guest(mail, "/opt/agents/bin/python", "-c", USE))
    assert json.loads(success(done)) == ["from a guest", *["10 inbox.nodes.test."] * 2]


def test_a_guest_reaches_published_ports_only(real_engine: Host, mail: Up, visitor: Node) -> None:
    """Neither another port of a node, nor, with a route through a node, the lab, nor the engine's machine."""
    inbox, relay = resolved(visitor, "inbox"), resolved(visitor, "relay")
    success(visitor.exec(("ip", "route", "add", str(mail.subnet), "via", relay)))
    host = f"{inbox.rpartition('.')[0]}.1"
    lab = [mail.address(node) for node in ("inbox", "dns")]
    serve = f"/opt/agents/bin/python -m http.server {PORT + 1} >/dev/null 2>&1 &"
    ready = f"until grep -q :{PORT + 1:04X} /proc/net/tcp; do sleep 0.05; done"
    success(real_engine.node(mail.container("inbox")).exec(("sh", "-euc", f"{serve} {ready}")))
    said = knock(
        visitor,
        f"tcp {inbox} {PORT}",
        f"tcp {inbox} {PORT + 1}",
        f"icmp {inbox} 0",
        *(f"tcp {a} 25" for a in lab),
        f"tcp {host} 22",
    )
    assert [target for target, fate in said.items() if fate == ANSWERED] == [f"tcp {inbox} {PORT}"]
    assert said[f"tcp {inbox} {PORT + 1}"] == "refused: Connection refused"


def test_a_node_cannot_open_a_connection_to_a_guest_or_to_another_machine(
    real_engine: Host, mail: Up, visitor: Node, address: str
) -> None:
    place = resolved(visitor, "visitor")
    assert knock(visitor, f"tcp {place} {PORT}") == {f"tcp {place} {PORT}": ANSWERED}
    with socket.create_server((address, 0)) as listening:
        targets = [f"tcp {place} {PORT}", f"udp {place} 53", f"tcp {address} {listening.getsockname()[1]}"]
        for node in mail.nodes:
            container = real_engine.node(mail.container(node))
            own = str(mail.address(node))
            assert ANSWERED not in fates(success(container.exec(knocking(targets, "test")))).values()
            bound = f"socket.create_connection(({address!r}, {listening.getsockname()[1]}), 2, ({own!r}, 0))"
            if node in {"gate", "inbox"}:  # they have a Python; the route of replies leads there from this address
                tried = container.exec(("/opt/agents/bin/python", "-c", f"import socket; {bound}"))
                assert "refused" in tried.stderr
            assert success(container.exec(("ip", "route", "show", "default"))) == ""


def test_another_machine_uses_relay_inbox_and_dns_at_the_published_address(mail: Up, address: str) -> None:
    """Another machine is played by this one: its own address is no neighbour of a node either."""
    assert mail.facts["published_at"] == address
    with smtplib.SMTP(address, mail.port("relay", "25/tcp"), timeout=10) as smtp:
        smtp.sendmail("ann@example.org", ["eve@example.com"], "Subject: from afar\r\n\r\ntext\r\n")
    assert f"connect from unknown[{address}]" in call("logs", "--bed", mail.id, "relay").stdout
    (message,) = answer("wait-mail", "--bed", mail.id, "--to", "eve@example.com")
    assert message["subject"] == "from afar"
    assert httpx.get(f"http://{address}:{mail.port('inbox', '8025/tcp')}/").status_code == 200
    asked = dns.message.make_query("example.com", "TXT")
    told = dns.query.udp(asked, address, timeout=10, port=mail.port("gate", "53/udp"))
    assert '"from the file"' in told.answer[0].to_text()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", mail.port("relay", "25/tcp")), timeout=5)


@pytest.mark.parametrize(("publish", "found"), [("192.0.2.250", "the host has"), ("everywhere", "'everywhere'")])
def test_an_address_that_the_host_does_not_have_is_refused(publish: str, found: str) -> None:
    done = call("up", "mail", "--name", f"test-{secrets.token_hex(4)}", "--publish", publish)
    assert (done.returncode, found in done.stderr) == (2, True), done.stderr


def test_a_zone_that_bind_refuses_ends_up_with_its_words(tmp_path: Path) -> None:
    bed = tmp_path / "bed.yaml"
    zone = ZONE.replace("ns1 A 192.0.2.53\n", "")
    text = json.dumps(zone)
    bed.write_text(
        f"name: x\nlab: bridge\nnodes: {{dns: {{service: bind}}}}\nzones: {{example.com: {{text: {text}}}}}\n"
    )
    done = call("up", bed, "--name", f"test-{secrets.token_hex(4)}", "--runs", tmp_path / "runs")
    assert done.returncode == 5
    assert "NS 'ns1.example.com' has no address records" in done.stderr


def test_down_disconnects_the_guest_and_leaves_nothing(real_engine: Host, mail: Up, visitor: Node) -> None:
    (walls,) = ({name: bed[name] for name in ("open", "not_looked_at")} for bed in answer("ps") if bed["id"] == mail.id)
    assert walls == {"open": [], "not_looked_at": []}
    done = call("down", mail.id)
    assert (done.returncode, traces(real_engine, [mail.id])) == (0, []), done.stderr
    assert "warning: disconnected container tb-test-guest-" in done.stderr
    assert success(visitor.exec(("ls", "/sys/class/net"))).split() == ["lo"]
