"""Logs of relays in an inbox: whose connection it takes, what it keeps, and what its API answers of a message."""

import smtplib
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.inbox.relay_log import RelayLogs
from tests.unit.agents.inbox.conftest import Inbox
from tests.unit.services.test_send_log import SEND_LOG

HEAD = "Nov 27 12:05:35 relay postfix/"
LINES = (
    f"{HEAD}smtpd[53]: 8DFD119A248: client=unknown[172.28.0.1]",
    f"{HEAD}qmgr[51]: 8DFD119A248: from=<ann@d0.test>, size=190, nrcpt=1 (queue active)",
    f"{HEAD}smtp[57]: 8DFD119A248: to=<bob@d1.test>, relay=none, dsn=4.3.0, status=deferred (<script>)",
    f"{HEAD}bounce[58]: 1A2B3C4D5E6: sender non-delivery notification: 8DFD119A248",
    f"{HEAD}smtp[57]: warning: 8DFD119A248: defer service failure",
)
"""Every kind of line that names a message."""
OTHER = (
    f"{HEAD}smtpd[53]: connect from unknown[172.28.0.1]",
    f"{HEAD}smtpd[53]: 1A2B3C4D5E6: client=unknown[172.28.0.1]",
    f"{HEAD}smtpd[53]: NOQUEUE: reject: RCPT from unknown[172.28.0.1]: 554 5.7.1 8DFD119A2480: no",
)


@pytest.fixture
def inbox(make_inbox: Callable[..., Inbox]) -> Inbox:
    return make_inbox(relays={"relay": ["127.0.0.9", "::9"]})


def send(inbox: Inbox, source: str = "127.0.0.9", queue_id: str = "8DFD119A248") -> int:
    """Send a message as the relay does, and return its id."""
    with smtplib.SMTP("127.0.0.1", inbox.port, timeout=5, source_address=(source, 0)) as smtp:
        received = (
            f"Received: from x (y [z])\r\n\tby relay (Postfix) with ESMTP id {queue_id}\r\n\tfor <bob@d1.test>\r\n"
        )
        smtp.sendmail("ann@d0.test", ["bob@d1.test"], f"{received}Subject: x\r\n\r\ntext\r\n".encode())
    return int(inbox.client.get("/api/messages").json()["messages"][0]["id"])


def log(inbox: Inbox, id_: int, known: int = -1) -> dict[str, Any]:
    """Return the log of a message, once there are more lines than are known."""
    answer = inbox.client.get(f"/api/messages/{id_}/log", params={"known": known, "timeout": 5})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def texts(log: dict[str, Any]) -> list[str]:
    return [line["text"] for line in log["lines"]]


@contextmanager
def relay(inbox: Inbox, source: str = "127.0.0.9") -> Iterator[socket.socket]:
    """Connect as a relay."""
    with socket.create_connection(("127.0.0.1", inbox.log[0]), timeout=5, source_address=(source, 0)) as connection:
        yield connection


def received(connection: socket.socket) -> bytes:
    """Read to the end of a connection, which may be a reset."""
    octets = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(1000):
            octets += more
    return octets


def numbered(*lines: str, first: int = 1) -> bytes:
    return "".join(f"{first + i} 1764245135 {line}\n" for i, line in enumerate(lines)).encode()


def test_the_lines_that_name_a_message_are_those_of_its_log(inbox: Inbox) -> None:
    id_ = send(inbox)
    with relay(inbox) as connection:
        connection.sendall(b"log a-1\n" + numbered(*OTHER, *LINES, *OTHER))
        found = log(inbox, id_, known=4)
    assert texts(found) == list(LINES)
    assert (found["relay"], found["queue_id"], found["problem"]) == ("relay", "8DFD119A248", "")
    assert {line["t"] for line in found["lines"]} == {1764245135}


def test_after_a_reconnect_no_line_is_missing_or_twice(inbox: Inbox) -> None:
    id_ = send(inbox)
    with relay(inbox) as connection:
        connection.sendall(b"log a-1\n" + numbered(*LINES[:2]) + numbered(LINES[2], first=3)[:50])
        assert texts(log(inbox, id_, known=1)) == list(LINES[:2])
    with relay(inbox) as connection:
        connection.sendall(b"log a-1\n" + numbered(*LINES))
        assert texts(log(inbox, id_, known=4)) == list(LINES)
    with relay(inbox) as connection:  # of a container that has started again
        connection.sendall(b"log b-1\n" + numbered(LINES[0]))
        assert texts(log(inbox, id_, known=5)) == [*LINES, LINES[0]]


def test_a_line_of_the_real_send_log_comes_through(
    inbox: Inbox, make_inbox: Callable[..., Inbox], tmp_path: Path
) -> None:
    inbox = make_inbox(relays={"other": ["127.0.0.9"], "relay": ["127.0.0.1"]})
    id_ = send(inbox, "127.0.0.1")
    command = [SEND_LOG, "127.0.0.1", str(inbox.log[0]), str(tmp_path / "copy")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin
        process.stdin.write(f"{LINES[0]}\n")
        process.stdin.flush()
        found = log(inbox, id_, known=0)
    assert (found["relay"], texts(found), found["problem"]) == ("relay", [LINES[0]], "")


def test_a_client_that_is_no_relay_of_the_bed_is_refused(inbox: Inbox) -> None:
    id_ = send(inbox)
    with relay(inbox, "127.0.0.1") as stranger:
        stranger.sendall(b"log a-1\n" + numbered(*LINES))
        assert received(stranger) == b""
    with relay(inbox) as connection:
        connection.sendall(b"log a-1\n" + numbered(LINES[0]))
        assert texts(log(inbox, id_, known=0)) == [LINES[0]]


@pytest.mark.parametrize("octets", [b"GET / HTTP/1.1\r\n", b"log a-1\nno line\n", b"log a-1\n1 1 " + b"x" * 20_000])
def test_octets_that_are_no_log_end_the_connection(inbox: Inbox, octets: bytes) -> None:
    with relay(inbox) as connection:
        connection.sendall(octets)
        assert received(connection) == b""


def test_an_answer_names_what_is_missing(inbox: Inbox, make_inbox: Callable[..., Inbox]) -> None:
    direct = log(inbox, send(inbox, "127.0.0.1"))
    assert (direct["relay"], direct["lines"]) == (None, [])
    assert direct["problem"] == "The message came from 127.0.0.1, and not through a relay of the bed."
    id_ = send(inbox)
    assert log(inbox, id_)["problem"].startswith("Relay relay has sent no log: it is not connected yet, or")
    with relay(inbox) as connection:
        connection.sendall(b"log a-1\n" + numbered(*LINES, first=8))
        found = log(inbox, id_, known=4)
    assert (len(found["lines"]), found["problem"]) == (5, "7 lines of the log of relay relay are not kept.")
    alone = make_inbox()
    assert alone.log == []
    assert "not through a relay" in log(alone, send(alone))["problem"]


def test_a_relay_that_has_left_is_named(inbox: Inbox) -> None:
    id_ = send(inbox)
    with relay(inbox) as connection:
        connection.sendall(b"log a-1\n" + numbered(*LINES))
        assert log(inbox, id_, known=4)["problem"] == ""
    while not (problem := log(inbox, id_)["problem"]):
        pass
    assert problem == "Relay relay is not connected: its newest lines are missing."


def test_the_oldest_lines_go_first_and_are_counted(tmp_path: Path) -> None:
    news: list[bool] = []
    logs = RelayLogs(
        tmp_path / "log.sqlite", {"relay": ["::1"]}, lambda: news.append(True), most_text=2_000 * len(LINES[0])
    )
    (relay,) = logs.relays
    logs.begin(relay, "a")
    for i in range(5):
        logs.add(relay, [(1000 * i + j, 0, LINES[0]) for j in range(1, 1001)])
    assert (len(logs.lines(relay, "8DFD119A248")), relay.dropped, len(news)) == (2000, 3000, 6)
