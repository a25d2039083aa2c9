"""Guests of a bed on the real engine: containers of others on its guest network, and what they reach there."""

import json
import secrets
from collections.abc import Iterator

import pytest

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


@pytest.fixture(scope="module")
def mail(real_engine: Host) -> Iterator[Up]:
    bed = bring_up("mail", "--guests")
    yield bed
    if traces(real_engine, [bed.id]):
        bring_down(real_engine, bed)


def guest(bed: Up, *command: str, capabilities: tuple[str, ...] = ()) -> ContainerSpec:
    """Return a container of somebody else on the guest network."""
    return ContainerSpec(
        name=f"tb-test-guest-{secrets.token_hex(4)}",
        image="testbed/inbox:bookworm",
        command=command,
        labels=Identity.reading().labels(),
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


def address(visitor: Node, name: str) -> str:
    """Return the address of a name on the guest network."""
    return success(visitor.exec(("getent", "hosts", name))).split()[0]


def test_a_guest_uses_relay_inbox_and_dns_by_name(real_engine: Host, mail: Up) -> None:
    network, aliases = f"testbed-{mail.facts['bed']}-guests", ["dns", "gate", "inbox", "relay"]
    assert mail.facts["guests"] == {"network": network, "aliases": aliases}
    assert mail.facts["guests"] in [bed["guests"] for bed in answer("ps")]
    done = real_engine.run(guest(mail, "/opt/agents/bin/python", "-c", USE))
    assert json.loads(success(done)) == ["from a guest", *["10 mx.example.com."] * 2]


def test_a_guest_reaches_published_ports_only(mail: Up, visitor: Node) -> None:
    """Neither another port of a node, nor, with a route through a node, the lab, nor the engine's machine."""
    inbox, relay = address(visitor, "inbox"), address(visitor, "relay")
    success(visitor.exec(("ip", "route", "add", str(mail.subnet), "via", relay)))
    host = f"{inbox.rpartition('.')[0]}.1"
    lab = [mail.address(node) for node in ("inbox", "dns")]
    mail.exec("inbox", "sh", "-c", f"/opt/agents/bin/python -m http.server {PORT + 1} >/dev/null 2>&1 &")
    mail.shell("inbox", f"until grep -q :{PORT + 1:04X} /proc/net/tcp; do sleep 0.05; done")
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


@pytest.mark.parametrize("node", ["dns", "gate", "inbox", "relay"])
def test_a_node_cannot_open_a_connection_to_a_guest(mail: Up, visitor: Node, node: str) -> None:
    place = address(visitor, "visitor")
    assert knock(visitor, f"tcp {place} {PORT}") == {f"tcp {place} {PORT}": ANSWERED}
    targets = [f"tcp {place} {PORT}", f"udp {place} 53", f"icmp {place} 0"]
    said = fates(mail.exec(node, *knocking(targets, "test")).stdout)
    assert ANSWERED not in said.values()
    assert mail.shell(node, "ip route show default; ip -6 route show default") == ""


def test_down_disconnects_the_guest_and_leaves_nothing(real_engine: Host, mail: Up, visitor: Node) -> None:
    (walls,) = ({name: bed[name] for name in ("open", "not_looked_at")} for bed in answer("ps") if bed["id"] == mail.id)
    assert walls == {"open": [], "not_looked_at": []}
    done = call("down", mail.id)
    assert (done.returncode, traces(real_engine, [mail.id])) == (0, []), done.stderr
    assert "warning: disconnected container tb-test-guest-" in done.stderr
    assert success(visitor.exec(("ls", "/sys/class/net"))).split() == ["lo"]
