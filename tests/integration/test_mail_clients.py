"""Mail of other people's clients in an inbox: the octets kept are those that a tap before the inbox recorded."""

import hashlib
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker as sdk
import httpx
import pytest

from orchestrator.bed.wiring import AUTHORITY, CERTIFICATE
from orchestrator.hosts import Host, images
from orchestrator.hosts.docker.api import archive
from orchestrator.services.agents import PYTHON
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.clients import letters
from tests.integration.clients.send import CLIENTS

pytestmark = pytest.mark.docker

HERE = Path(__file__).parent
FILES = HERE / "clients"
TAP = 2525
POSTFIX = "postfix"
NAMES = [*CLIENTS, POSTFIX]
SEED = 20261127

_RECEIVED = re.compile(rb"Received: from client\.test [^\r]*\r\n(?:\t[^\r]*\r\n)*")
_BARE_LF = re.compile(rb"(?<!\r)\n")

REFUSED = {
    ("swaks", "smtputf8"): "it cannot say SMTPUTF8 (2020)",
    ("msmtp", "smtputf8"): "it cannot say SMTPUTF8 (1.8.23)",
    (POSTFIX, "bare"): "smtpd_forbid_bare_newline = reject",
}
"""What a client cannot send at all, and why."""
CHANGED: dict[tuple[str, str], Callable[[bytes], bytes]] = {
    ("smtplib", "bare"): lambda octets: re.sub(rb"(?<=[^\r]\n)\.", b"..", octets),  # it stuffs behind a bare LF, too
    ("aiosmtplib", "bare"): lambda octets: re.sub(rb"\r\n|\r|\n", b"\r\n", octets),
    ("msmtp", "bare"): lambda octets: _BARE_LF.sub(b"\r\n", octets),
    ("smtplib", "empty"): lambda _: b"\r\n",
    ("aiosmtplib", "empty"): lambda _: b"\r\n",
    (POSTFIX, "nul"): lambda octets: octets.replace(b"X-Nul: a\0b", b"X-Nul: a"),  # header fields are C strings there
}
"""What a client, or Postfix, makes of a message before the tap sees it. All else passes unchanged."""
REPLACED = {("swaks", "empty"): "it sends a message of its own instead of none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """A container with the clients and the tap, in the inbox's network namespace; and the inbox's API."""

    container: Any
    relay: str
    api: httpx.Client

    def shell(self, script: str, *words: str) -> list[dict[str, Any]]:
        """Run a shell script, and return the JSON lines that it prints."""
        code, (out, err) = self.container.exec_run(["sh", "-euc", script, "sh", *words], workdir="/clients", demux=True)
        assert code == 0, err
        return [json.loads(line) for line in (out or b"").splitlines()]

    def send(self, client: str, count: int) -> list[dict[str, Any]]:
        """Send messages with a client, and return those that were refused."""
        words = ("socket", self.relay, "25") if client == POSTFIX else (client, "localhost", str(TAP))
        return self.shell('"$@"', *PYTHON, "-m", "tests.integration.clients.send", str(SEED), str(count), *words)

    def recorded(self, ids: set[int]) -> dict[int, dict[str, Any]]:
        """Wait until the tap has recorded these messages, and return its records by the inbox's id."""
        replies = "\n".join(f"Ok: message {id_}" for id_ in ids)
        found = "grep -o 'Ok: message [0-9]*' tap.log | grep -cxFe \"$1\""
        self.shell(f"until [ $({found}) = {len(ids)} ]; do sleep 0.05; done", replies)
        lines = self.shell("cat tap.err >&2; test ! -s tap.err; cat tap.log")[1:]
        return {id_: line for line in lines if (id_ := int(line["reply"].split()[-1])) in ids}


@pytest.fixture(scope="module")
def mail(real_engine: Host) -> Iterator[Up]:
    bed = bring_up("mail")
    yield bed
    bring_down(real_engine, bed)


@pytest.fixture(scope="module")
def clients(real_engine: Host, mail: Up) -> Iterator[Clients]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "catalogue", lambda: {"test-clients": FILES})
        images.ensure(real_engine, [("test-clients", images.DEFAULT_RELEASE)], print)
    options = {
        "smtpd_forbid_bare_newline": "reject",
        "smtpd_forbid_bare_newline_exclusions": "",
        "smtputf8_enable": "yes",
        "relayhost": f"[{mail.address('inbox')}]:{TAP}",
    }
    mail.shell("relay", 'postconf -e "$@"; postfix reload', *(f"{name}={value}" for name, value in options.items()))
    code = {f"/clients/tests/integration/clients/{path.name}": path.read_bytes() for path in FILES.glob("*.py")}
    secure = {path: mail.shell("inbox", f"cat {path}").encode() for path in (AUTHORITY, CERTIFICATE)}
    container = sdk.from_env().containers.create(
        images.tag("test-clients", images.DEFAULT_RELEASE),
        ["sleep", "infinity"],
        name=f"tb-test-clients-{secrets.token_hex(4)}",
        network_mode=f"container:{mail.container('inbox')}",
        init=True,
    )
    try:
        container.put_archive("/", archive({**code, **secure}))
        container.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{mail.port('inbox', '8025/tcp')}", timeout=120) as api:
            box = Clients(container=container, relay=str(mail.address("relay")), api=api)
            tap = (*PYTHON, "-m", "tests.integration.clients.tap", str(TAP), "25", CERTIFICATE)
            start = ': > tap.log; setsid "$@" < /dev/null >> tap.log 2> tap.err &'
            box.shell(f"{start} until grep -q listening tap.log; do sleep 0.05; done", *tap)
            yield box
    finally:
        container.remove(force=True)


def check(clients: Clients, client: str, count: int) -> None:
    """Send messages with a client; compare them with the tap's records and with the inbox."""
    clients.api.delete("/api/messages").raise_for_status()
    wanted = {letter.sender: letter for letter in letters.letters(SEED, count)}
    refused = {letter.number: letter.kind for letter in wanted.values() if (client, letter.kind) in REFUSED}
    failed = clients.send(client, count)
    assert {failure["number"]: failure["kind"] for failure in failed} == refused, failed
    expected = Counter(r for letter in wanted.values() if letter.number not in refused for r in letter.recipients)
    kept = until_all_came(clients, expected.total())
    recorded = clients.recorded({message["id"] for message in kept})
    came = Counter[str]()
    for message in kept:
        id_, letter, tap = message["id"], wanted[message["sender"]], recorded[message["id"]]
        what = f"{client}: {letter.kind}, number {letter.number}, message {id_}"
        raw = clients.api.get(f"/api/messages/{id_}/raw").content
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (tap["size"], tap["sha256"]), f"{what}: not the tap's"
        assert clients.api.get(f"/api/v1/message/{id_}/raw").content == raw, f"{what}: Mailpit's raw"
        assert message["size"] == len(raw)
        if client == POSTFIX:
            trace = _RECEIVED.match(raw)
            assert trace, what
            raw = raw[trace.end() :]
        if (client, letter.kind) not in REPLACED:
            sent = CHANGED.get((client, letter.kind), bytes)(letter.octets)
            assert raw == sent, f"{what}: {difference(raw, sent)}"
        assert [path(line) for line in (tap["mail"], *tap["rcpt"])] == [message["sender"], *message["recipients"]], what
        login = client not in {"socket", POSTFIX} and letter.number % 2 == 0
        assert (message["user"], bool(tap["auth"])) == ("any" if login else None, login), what
        assert bool(message["tls"]) == tap["tls"] == (login or (client == POSTFIX and tap["tls"])), what
        came.update(message["recipients"])
    assert came == expected


def until_all_came(clients: Clients, recipients: int) -> list[dict[str, Any]]:
    """Wait until the messages kept have this many recipients: Postfix splits one of many; return them."""
    while True:
        listing = clients.api.get("/api/messages", params={"limit": 1000}).raise_for_status().json()
        kept: list[dict[str, Any]] = listing["messages"]
        if sum(len(message["recipients"]) for message in kept) >= recipients:
            return kept
        count = listing["total"] + 1
        answer = clients.api.get("/api/wait", params={"count": count, "timeout": 30})
        assert answer.status_code == 200, f"{count - 1} messages, {recipients} recipients expected"


def path(line: str) -> str:
    """Return the address of a MAIL or RCPT command."""
    return line.partition("<")[2].partition(">")[0]


def difference(ours: bytes, theirs: bytes) -> str:
    """Show the first place where two messages differ."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    around = slice(max(0, at - 20), at + 20)
    return f"{len(ours)} and {len(theirs)} octets, at {at}: {ours[around]!r}, {theirs[around]!r}"


@pytest.mark.parametrize("client", NAMES)
def test_an_inbox_keeps_the_octets_that_came(clients: Clients, client: str) -> None:
    check(clients, client, 10)


@pytest.mark.long
@pytest.mark.parametrize("client", NAMES)
def test_an_inbox_keeps_a_thousand_messages_as_they_came(clients: Clients, client: str) -> None:
    check(clients, client, 180)  # 1,026 are accepted, 54 refused
