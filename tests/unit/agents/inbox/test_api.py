"""The HTTP API of an inbox, over a real socket."""

import asyncio
import json
import smtplib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.message import EmailMessage
from email.policy import SMTP
from functools import partial
from typing import Any

import httpx
import pytest

from orchestrator.agents.inbox import search
from orchestrator.agents.inbox.api import Parked, remove
from orchestrator.agents.inbox.app import MOST_BODY
from orchestrator.agents.inbox.feed import MESSAGE
from orchestrator.agents.inbox.spool import Spool
from orchestrator.agents.inbox.stored import Envelope, Stored
from orchestrator.errors import InvalidInput
from tests.unit.agents.inbox.conftest import Inbox
from tests.unit.agents.inbox.test_authentication import Records, records  # noqa: F401
from tests.unit.up.test_inbox import inbox as handle


def letter(subject: str = "hello", html: str = "") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Ann <ann@d0.test>", "bob@d1.test", subject
    message.set_content(f"Your code is 123456.\n{subject}\n")
    if html:
        message.add_alternative(html, subtype="html")
    return message


def send(inbox: Inbox, message: EmailMessage | None = None, to: tuple[str, ...] = ("bob@d1.test",)) -> None:
    with smtplib.SMTP("127.0.0.1", inbox.port, timeout=5) as smtp:
        smtp.send_message(message or letter(), "ann@d0.test", to)


def get(inbox: Inbox, path: str, **params: Any) -> Any:
    answer = inbox.client.get(f"/api/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_message_is_listed_read_and_deleted(inbox: Inbox) -> None:
    message = letter(html="<p>hi</p>")
    message.add_attachment(b"\0\1", "application", "pdf", filename="ü.pdf")
    send(inbox, message, ("bob@d1.test", "eve@d2.test"))
    listing = get(inbox, "messages")
    assert listing["total"] == 1
    (listed,) = listing["messages"]
    assert (listed["sender"], listed["recipients"]) == ("ann@d0.test", ["bob@d1.test", "eve@d2.test"])
    assert listed["author"] == [{"name": "Ann", "address": "ann@d0.test"}]
    assert abs(listed["t"] - time.time()) < 60
    whole = get(inbox, f"messages/{listed['id']}")
    assert (whole["text"], whole["html"]) == ("Your code is 123456.\nhello\n", "<p>hi</p>\n")
    assert ["Subject", "hello"] in whole["headers"]
    assert [(part["id"], part["content_type"], part["filename"]) for part in whole["parts"]] == [
        ("1.1", "text/plain", ""),
        ("1.2", "text/html", ""),
        ("2", "application/pdf", "ü.pdf"),
    ]
    part = inbox.client.get(f"/api/messages/{listed['id']}/parts/2")
    assert (part.content, part.headers["content-disposition"]) == (b"\0\1", "attachment")
    raw = inbox.client.get(f"/api/messages/{listed['id']}/raw")
    assert [raw.content] == inbox.raw()
    assert inbox.client.delete(f"/api/messages/{listed['id']}").json() == {"deleted": [listed["id"]]}
    assert get(inbox, "messages")["total"] == 0
    assert inbox.client.get(f"/api/messages/{listed['id']}").status_code == 404


def test_authentication_is_checked_when_it_is_asked_for(inbox: Inbox, records: Records) -> None:  # noqa: F811
    send(inbox)
    records["d0.test"] = ["v=spf1 ip4:127.0.0.1 -all"]
    records["_dmarc.d0.test"] = ["v=DMARC1; p=reject"]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: get(inbox, "messages/1/authentication"), range(8)))
    assert [(a["spf"]["result"], a["dkim"], a["dmarc"]["result"]) for a in answers] == [("pass", [], "pass")] * 8
    assert inbox.client.get("/api/messages/2/authentication").status_code == 404


def test_a_search_names_conditions(inbox: Inbox) -> None:
    for i in range(5):
        send(inbox, letter(f"number {i}"), (f"user{i}@d1.test",))
    assert [m["subject"] for m in get(inbox, "messages", to="USER3@d1.test")["messages"]] == ["number 3"]
    assert get(inbox, "messages", subject="number", limit=2)["total"] == 5
    last = get(inbox, "messages", limit=1)["messages"][0]["id"]
    assert get(inbox, "messages", after=last)["total"] == 0
    assert inbox.client.get("/api/messages", params={"query": "larger:much"}).status_code == 422
    assert len(inbox.client.delete("/api/messages", params={"subject": "number 4"}).json()["deleted"]) == 1
    assert inbox.client.get("/api/messages", params={"limit": 0}).status_code == 422


def test_words_of_a_text_are_searched_waited_for_and_indexed_without_a_search(inbox: Inbox) -> None:
    for i in range(100):
        send(inbox, letter(f"number {i}"))
    assert [m["subject"] for m in get(inbox, "messages", query='"your code is" number 42')["messages"]] == ["number 42"]
    assert (
        get(inbox, "messages", query="-code")["total"] == get(inbox, "messages", query="has:attachment")["total"] == 0
    )
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(get, inbox, "wait", query="welcome", timeout=20)
        send(inbox, letter("welcome back"))
        assert waiting.result()["total"] == 1
    send(inbox)
    end = time.monotonic() + 10
    while inbox.call(inbox.spool.words.behind) and time.monotonic() < end:
        get(inbox, "messages", limit=1)
    assert inbox.call(inbox.spool.words.behind) is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("DELETE", "messages?recipient=bob"), ("GET", "wait?too=x&timeout=0")),
        *(("DELETE", "messages/1?query=x"), ("GET", "messages/1/log?id_=2")),
    ],
)
def test_an_unknown_query_parameter_is_refused(inbox: Inbox, method: str, path: str) -> None:
    send(inbox)
    answer = inbox.client.request(method, f"/api/{path}")
    assert (answer.status_code, "unknown: [" in answer.json()["detail"]) == (422, True)
    assert get(inbox, "messages?query=&limit=1&start=0&to=bob")["total"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "messages?after=9223372036854775808",
        "messages?start=9223372036854775808",
        "wait?after=9223372036854775808",
        "messages?query=larger:999999999999999M",
        "messages/9223372036854775808",
        "attempts?after=9223372036854775808",
        "events?after=9223372036854775808",
    ],
)
def test_a_number_beyond_those_of_sqlite_is_refused(inbox: Inbox, path: str) -> None:
    assert inbox.client.get(f"/api/{path}").status_code == 422
    assert inbox.client.get("/api/events", headers={"Last-Event-ID": "9" * 5000}).status_code == 422


def test_a_wait_is_answered_when_the_mail_comes_and_not_before(inbox: Inbox) -> None:
    send(inbox, to=("eve@d1.test",))
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(get, inbox, "wait", to="bob@d1.test", count=2, timeout=20) for _ in range(20)]
        send(inbox)
        assert not any(future.done() for future in waiting)
        send(inbox)
        assert {future.result(5)["total"] for future in waiting} == {2}
    assert get(inbox, "wait", to="eve@d1.test", timeout=0)["total"] == 1


def test_a_deleted_message_is_not_counted_by_those_who_wait(inbox: Inbox) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(get, inbox, "wait", subject="hello", count=2, timeout=20)
        send(inbox)
        get(inbox, "wait", subject="hello")
        inbox.client.delete("/api/messages").raise_for_status()
        send(inbox)
        get(inbox, "wait", subject="hello")
        assert not waiting.done()
        send(inbox)
        assert [message["id"] for message in waiting.result(5)["messages"]] == [3, 2]


@pytest.mark.parametrize("query", ["subject:hello", "to:bob@d1.test", "to:ob", "code", "from:nn -to:eve"])
def test_a_parked_wait_evaluates_new_messages_only(inbox: Inbox, query: str) -> None:
    where = search.where(search.parse(query))

    def steps(look: Callable[[], object]) -> int:
        """Count twenties of steps of SQLite's virtual machine."""
        count = [0]
        index = inbox.spool._index
        index.set_progress_handler(lambda: count.__setitem__(0, count[0] + 1), 20)
        look()
        index.set_progress_handler(None, 0)
        return count[0]

    def scene() -> tuple[list[Stored] | None, int, list[Stored] | None, int]:
        envelope = Envelope(sender="a@d0.test", recipients=("bob@d1.test",), client="", helo="")
        octets = letter().as_bytes(policy=SMTP)
        for _ in range(200):
            inbox.reception.put(octets, envelope)
        parked = Parked(inbox.spool, where, 202)
        before = parked.look()
        inbox.reception.put(octets, envelope)
        inbox.spool.total(*where)
        cost = steps(parked.look)
        inbox.reception.put(octets, envelope)
        return before, cost, parked.look(), steps(lambda: inbox.spool.total(*where))

    before, cost, found, whole = inbox.call(scene)
    assert (before, len(found or [])) == (None, 202)
    assert cost < 30 < whole / 2


@pytest.mark.parametrize(
    "change",
    [
        lambda spool: spool.mark("1", [], seen=True),
        lambda spool: spool.tag(["new"], "1", []),
        lambda spool: spool.retag("old", "new"),
        lambda spool: spool.retag("old", None),
    ],
)
def test_a_change_of_marks_and_tags_wakes_those_who_wait(inbox: Inbox, change: Callable[[Spool], None]) -> None:
    looks: list[None] = []

    def look() -> bool | None:
        looks.append(None)
        return len(looks) > 1 or None

    async def wait() -> bool | None:
        waiting = asyncio.ensure_future(inbox.feed.until(look, 60, MESSAGE))
        await asyncio.sleep(0)
        change(inbox.spool)
        return await asyncio.wait_for(waiting, 1)

    assert inbox._wait(wait())


def test_a_wait_in_vain_says_what_there_was(inbox: Inbox) -> None:
    inbox.rules({"to": "bob@*", "then": "reject", "reply": "550 5.1.1 no such user"})
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(inbox)
    answer = inbox.client.get("/api/wait", params={"to": "bob@d1.test", "timeout": 0.05})
    assert answer.status_code == 409
    assert answer.json()["detail"] == {
        "needed": 1,
        "found": 0,
        "kept": 0,
        "last_attempts": ["550 5.1.1 no such user"],
    }


def read_events(stream: httpx.Response, count: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Read server-sent events: id, kind, data."""
    seen: list[tuple[str, str, dict[str, Any]]] = []
    fields: dict[str, str] = {}
    for line in stream.iter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            seen.append((fields["id"], fields["event"], json.loads(fields["data"])))
            fields = {}
            if len(seen) == count:
                break
    return seen


def test_events_come_as_they_happen_and_again_from_a_cursor(inbox: Inbox) -> None:
    with inbox.client.stream("GET", "/api/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": events behind 0"
        sender = threading.Thread(target=send, args=(inbox,))
        sender.start()
        text = [next(lines) for _ in range(4)]
        sender.join(5)
    assert text[1:3] == ["id: 1", "event: message"]
    inbox.client.put("/api/rules", json=[{"then": "reject"}]).raise_for_status()
    with inbox.client.stream("GET", "/api/events", headers={"Last-Event-ID": "0"}) as stream:
        seen = read_events(stream, 2)
    assert [kind for _, kind, _ in seen] == ["message", "rules"]
    with inbox.client.stream("GET", "/api/events", params={"after": 1}) as stream:
        assert [id_ for id_, _, _ in read_events(stream, 1)] == ["2"]


def test_rules_are_set_and_count_their_hits(inbox: Inbox) -> None:
    texts = [{"to": "bob@*", "then": "defer", "times": 1}, {"from": "x@y", "then": "tarpit", "delay_s": 1}]
    assert inbox.client.put("/api/rules", json=texts).status_code == 200
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(inbox)
    send(inbox)
    shown = get(inbox, "rules")
    assert [rule["hits"] for rule in shown] == [1, 0]
    assert {k: v for k, v in shown[1]["rule"].items() if v is not None and k in texts[1]} == texts[1]
    (attempt,) = get(inbox, "attempts")["events"]
    assert (attempt["data"]["rule"], attempt["data"]["then"]) == (shown[0]["id"], "defer")
    refused = inbox.client.put("/api/rules", json=[{"then": "greylist"}])
    assert (refused.status_code, "needs delay_s" in refused.text) == (422, True)
    assert [rule["hits"] for rule in get(inbox, "rules")] == [1, 0]


def test_programs_that_share_an_inbox_do_not_lose_each_others_rules(inbox: Inbox) -> None:
    there = handle(inbox.http)
    there.add_rule({"to": "nobody@*", "then": "reject"})

    def use_own_rules(name: int) -> list[tuple[str, int]]:
        of_it = []
        for i in range(10):
            address = f"{i}@d{name}.test"
            own = there.add_rule({"to": address, "then": "defer", "reply": f"451 4.7.1 {address}"})
            assert own["id"] in [rule["id"] for rule in there.rules()]
            with pytest.raises(smtplib.SMTPRecipientsRefused, match=f"4.7.1 {address}"):
                send(inbox, to=(address,))
            removed = there.remove_rule(own["id"])
            of_it.append((removed["rule"]["to"], removed["hits"]))
        return of_it

    with ThreadPoolExecutor(4) as pool:
        used = list(pool.map(use_own_rules, range(4)))
    assert used == [[(f"{i}@d{name}.test", 1) for i in range(10)] for name in range(4)]
    assert [(rule["id"], rule["rule"]["to"]) for rule in there.rules()] == [(1, "nobody@*")]
    with pytest.raises(InvalidInput, match="no rule 2 is in force"):
        there.remove_rule(2)
    with pytest.raises(InvalidInput, match="greylist needs delay_s"):
        there.add_rule({"then": "greylist"})


def test_attempts_are_listed_from_either_end(inbox: Inbox) -> None:
    for i in range(3):
        inbox.call(partial(inbox.reception.record, "attempt", {"i": i}))
    assert [event["data"]["i"] for event in get(inbox, "attempts", limit=2)["events"]] == [0, 1]
    newest = get(inbox, "attempts", limit=2, newest=True)
    assert ([event["data"]["i"] for event in newest["events"]], newest["cursor"]) == ([2, 1], 3)


def test_its_document_names_every_path_and_the_rules_of_bed_files(inbox: Inbox) -> None:
    document = inbox.client.get("/openapi.json").json()
    assert {"/api/wait", "/api/events", "/api/rules", "/api/v1/messages", "/metrics"} <= document["paths"].keys()
    assert {"to", "from", "on", "then", "reply", "times"} <= document["components"]["schemas"]["Rule"][
        "properties"
    ].keys()


def test_metrics(inbox: Inbox) -> None:
    send(inbox)
    text = inbox.client.get("/metrics").text
    assert "\ninbox_messages 1\n" in text
    assert "\ninbox_connections_total 1\n" in text


# ------------------------------------------------------------------------------------------------------------ strangers


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8025", "127.0.0.1.evil.test", "", "127.0.0.1@evil.test", "["])
def test_another_host_is_refused(inbox: Inbox, host: str) -> None:
    assert inbox.client.get("/api/messages", headers={"Host": host}).status_code in {400, 403}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({}, 200),
    ],
)
def test_a_page_from_elsewhere_changes_nothing(inbox: Inbox, headers: dict[str, str], status: int) -> None:
    send(inbox)
    assert inbox.client.delete("/api/messages", headers=headers).status_code == status
    assert inbox.spool.count == (0 if status == 200 else 1)


def test_its_own_page_may(inbox: Inbox) -> None:
    own = {"Origin": f"http://127.0.0.1:{inbox.http}", "Sec-Fetch-Site": "same-origin"}
    assert inbox.client.delete("/api/messages", headers=own).status_code == 200


def test_a_deletion_of_many_messages_lets_others_be_served(inbox: Inbox) -> None:
    envelope = Envelope(sender="a@d0.test", recipients=("b@d1.test",), client="::1", helo="x")
    for _ in range(2000):
        inbox.call(partial(inbox.reception.put, b"Subject: x\r\n\r\n", envelope))
    before = inbox.call(lambda: inbox.spool.events.cursor)
    counts = list[int]()

    async def delete() -> None:
        deleting = asyncio.ensure_future(remove(inbox.reception, ("1", [])))
        while not deleting.done():
            counts.append(inbox.spool.count)
            await asyncio.sleep(0)
        assert len((await deleting).deleted) == 2000

    inbox._wait(delete())
    assert len(set(counts)) >= 10
    told = inbox.call(lambda: inbox.spool.events.since(before, ["deleted"]))
    assert sum(len(event.data["ids"]) for event in told) == 2000


def test_html_of_a_message_is_sealed(inbox: Inbox) -> None:
    send(inbox, letter(html="<script>alert(1)</script>"))
    answer = inbox.client.get("/api/messages/1/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert policy.endswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/api/messages/1/html", "/view/1.html"])
def test_html_of_a_message_asks_for_no_connection(inbox: Inbox, path: str) -> None:
    send(inbox, letter(html='<LINK title=">" rel=preconnect href="http://x.test"><p>a</p>'))
    answer = inbox.client.get(path)
    assert "<link" not in answer.text.lower()
    assert answer.text.endswith("<p>a</p>\n")
    assert answer.headers["x-dns-prefetch-control"] == "off"


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "text/javascript", "application/xhtml+xml"])
def test_a_part_is_no_page(inbox: Inbox, kind: str) -> None:
    message = letter()
    main, sub = kind.split("/")
    message.add_attachment(b"<script>alert(1)</script>", main, sub, filename="x")
    send(inbox, message)
    answer = inbox.client.get("/api/messages/1/parts/2")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"


@pytest.mark.parametrize("path", ["/page/..%2fserver.py", "/page/nosuch.html", "/page/%2e%2e/app.py", "/api/v2"])
def test_no_other_file_is_served(inbox: Inbox, path: str) -> None:
    assert inbox.client.get(path).status_code == 404


def test_a_connection_above_the_limit_is_answered_with_503(
    make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.agents.inbox.server._MOST_HTTP", 20)
    inbox = make_inbox()
    with ExitStack() as stack:
        for _ in range(19):
            stack.enter_context(socket.create_connection(("127.0.0.1", inbox.http), timeout=5))
        assert inbox.client.get("/metrics").status_code == 503
        send(inbox)
    while inbox.client.get("/metrics").status_code == 503:
        pass
    assert get(inbox, "messages")["total"] == 1


def test_waiting_requests_end_with_the_inbox(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(inbox.client.get, "/api/wait", params={"timeout": 60})
        while not inbox.client.get("/metrics").is_success:
            pass
        inbox.call(inbox._serving.feed.close)
        assert waiting.result(5).status_code == 409


@pytest.mark.parametrize(("method", "path"), [("PUT", "/api/rules"), ("POST", "/api/v1/send")])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(inbox: Inbox, method: str, path: str, chunked: bool) -> None:  # noqa: FBT001
    pieces = [b" " * 1_000_000] * (MOST_BODY // 1_000_000 + 1)
    content = iter(pieces) if chunked else b"".join(pieces)
    assert inbox.client.request(method, path, content=content).status_code == 413
    assert get(inbox, "rules") == []


@pytest.mark.parametrize("path", ["to=", "sender=%20", "subject=", "from=", "subject=%00plain"])
def test_an_empty_condition_is_refused(inbox: Inbox, path: str) -> None:
    send(inbox)
    for method, route in (("GET", "messages"), ("DELETE", "messages"), ("GET", "wait")):
        answer = inbox.client.request(method, f"/api/{route}?{path}")
        assert (answer.status_code, "needs a value" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e999"])
def test_a_rule_with_a_number_that_is_none_is_refused(inbox: Inbox, number: str) -> None:
    rule = f'[{{"then": "pace", "per_second": {number}}}]'
    answer = inbox.client.put("/api/rules", content=rule, headers={"content-type": "application/json"})
    assert answer.status_code == 422
