"""The relay's log in the inbox of bed `mail`: the same lines as the engine's, whatever happens to the connection."""

import re
import smtplib
import subprocess
from contextlib import closing
from itertools import islice
from typing import Any

import httpx
import pytest

from orchestrator.hosts import Host
from tests.integration.beds import Up
from tests.integration.command import answer, call

pytestmark = pytest.mark.docker


def engine(*words: str) -> str:
    """Ask the engine for what a bed does not do by itself: to pause or restart a node."""
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True, timeout=60).stdout


def api(mail: Up) -> str:
    """Return the address of the API; a restarted container has another port."""
    port = engine("port", mail.container("inbox"), "8025/tcp").split()[0].rpartition(":")[2]
    return f"http://127.0.0.1:{port}/api"


def restart_inbox(real_engine: Host, mail: Up) -> None:
    """Restart the container, and wait until the inbox serves again."""
    engine("restart", mail.container("inbox"))
    with closing(real_engine.node(mail.container("inbox")).logs(follow=True)) as lines:  # type: ignore[type-var]
        serves = (line for line in lines if '"event": "listening"' in line.text)
        assert len(list(islice(serves, 2))) == 2


def ask(mail: Up, path: str, method: str = "GET", **more: Any) -> Any:
    done = httpx.request(method, f"{api(mail)}/{path}", timeout=40, **more)
    assert done.status_code == 200, done.text
    return done.json()


def take(mail: Up, to: str) -> None:
    with smtplib.SMTP("127.0.0.1", mail.port("relay", "25/tcp"), timeout=10) as smtp:
        smtp.sendmail("ann@example.org", [to], b"Subject: x\r\n\r\ntext\r\n")


def arrived(mail: Up, to: str) -> int:
    return int(ask(mail, "wait", params={"to": to, "timeout": 30})["messages"][0]["id"])


def log(mail: Up, id_: int) -> dict[str, Any]:
    """Return the log of a message that has left the relay."""
    known, found = -1, {"lines": [{"text": ""}]}
    while not found["lines"][-1]["text"].endswith(": removed"):
        found = ask(mail, f"messages/{id_}/log", params={"known": known, "timeout": 30})
        assert len(found["lines"]) > known, found
        known = len(found["lines"])
    return found


def texts(found: dict[str, Any]) -> list[str]:
    return [line["text"] for line in found["lines"]]


def of_the_engine(real_engine: Host, mail: Up, queue_id: str) -> list[str]:
    """Return the lines of the engine's log that name a queue id."""
    names = re.compile(rf"\b{queue_id}\b")
    lines = real_engine.node(mail.container("relay")).logs(follow=False)
    return [line.text for line in lines if names.search(line.text)]


def test_the_log_of_a_message_is_complete_after_deferral_and_a_restart_of_the_inbox(
    real_engine: Host, mail: Up
) -> None:
    ask(mail, "rules", "PUT", json=[{"to": "bob@*", "then": "defer", "reply": "451 4.7.1 later", "times": 1}])
    take(mail, "bob@example.com")
    id_ = arrived(mail, "bob@example.com")
    found = log(mail, id_)
    assert texts(found) == of_the_engine(real_engine, mail, found["queue_id"])
    assert [sum(f"status={status}" in text for text in texts(found)) for status in ("deferred", "sent")] == [1, 1]
    assert (found["relay"], found["problem"]) == ("relay", "")
    assert answer("inbox", "--log", str(id_), "--bed", mail.id) == found

    restart_inbox(real_engine, mail)
    take(mail, "carol@example.com")
    later = log(mail, arrived(mail, "carol@example.com"))
    assert texts(later) == of_the_engine(real_engine, mail, later["queue_id"])
    assert log(mail, id_) == found


def test_the_relay_takes_mail_while_the_inbox_is_paused(real_engine: Host, mail: Up) -> None:
    engine("pause", mail.container("inbox"))
    try:
        for _ in range(20):
            take(mail, "eve@example.com")
    finally:
        engine("unpause", mail.container("inbox"))
    found = log(mail, arrived(mail, "eve@example.com"))
    assert texts(found) == of_the_engine(real_engine, mail, found["queue_id"])


def test_a_notification_names_the_message_that_bounced(mail: Up) -> None:
    ask(mail, "rules", "PUT", json=[{"to": "mallory@*", "then": "reject"}])
    take(mail, "mallory@example.com")
    found = texts(log(mail, arrived(mail, "ann@example.org")))
    assert sum("sender non-delivery notification" in text for text in found) == 1, found


def test_neither_the_host_nor_another_node_may_send_a_log(mail: Up) -> None:
    knock = 'exec 3<>"/dev/tcp/$0/8026" || exit 7; echo "log x" >&3; read -r -t 20 _ <&3; exit $(( $? > 128 ))'
    inbox = str(mail.address("inbox"))
    assert "8026/tcp" not in next(node["ports"] for node in mail.facts["nodes"] if node["name"] == "inbox")
    assert mail.exec("gate", "bash", "-c", knock, inbox).status == 0  # the connection is reset
    control = engine(
        "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", mail.container("inbox")
    )
    for address in set(control.split()) - {inbox}:
        assert subprocess.run(["bash", "-c", knock, address], check=False, timeout=60).returncode in {0, 7}


def test_a_message_that_did_not_come_through_the_relay_has_no_log(mail: Up) -> None:
    forged = b"Received: by relay.nodes.test (Postfix) with ESMTP id 8DFD119A248\r\nSubject: x\r\n\r\ntext\r\n"
    port = engine("port", mail.container("inbox"), "25/tcp").split()[0].rpartition(":")[2]
    with smtplib.SMTP("127.0.0.1", int(port), timeout=10) as smtp:
        smtp.sendmail("ann@example.org", ["direct@example.com"], forged)
    done = call("inbox", "--log", str(arrived(mail, "direct@example.com")), "--bed", mail.id)
    assert (done.returncode, "a message that came through the bed's relay" in done.stderr) == (2, True)
    assert call("inbox", "--log", "9999", "--bed", mail.id).returncode == 2
