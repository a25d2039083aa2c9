"""Waiting for mail, expecting none, and rules, with a real inbox."""

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest

from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.testing import Mailbox, NotArrived, Unexpected, Unsettled
from orchestrator.testing.traffic import settle
from tests.unit.testing.conftest import Bed, queued

TO = "bob@example.com"


def test_mail_before_the_call_counts_but_none_before_the_mark(bed: Bed) -> None:
    bed.take(TO, content="Subject: old\r\n\r\n")
    bed.inbox.begin()
    bed.take(TO, content="Subject: first\r\n\r\n")
    bed.take(TO, content="Subject: second\r\n\r\n")
    first = bed.inbox.wait_for(to=TO, timeout=5)
    assert first.subject == "first"
    assert bed.inbox.wait_for(to=TO, after=first, timeout=5).subject == "second"
    assert [message.subject for message in bed.inbox.messages()] == ["first", "second"]


def test_a_wait_is_one_request_that_ends_at_the_arrival(bed: Bed) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bed.inbox.wait_for, to=TO, subject="WELCOME", timeout=20)
        bed.take("eve@example.com")
        bed.take(TO, content="Subject: Welcome\r\n\r\nhi\r\n")
        message = waiting.result(20)
    assert (message.sender, message.recipients, message.raw) == (
        "ann@example.org",
        (TO,),
        b"Subject: Welcome\r\n\r\nhi\r\n",
    )


def test_every_message_is_listed_however_many_they_are(bed: Bed) -> None:
    for _ in range(12):
        bed.take(TO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.up.inbox._PAGE", 5)
        assert [message.id for message in bed.inbox.messages()] == list(range(1, 13))


def test_several_are_waited_for_in_one_time_limit(bed: Bed) -> None:
    bed.take("b@example.com", content="Subject: Welcome, b\r\n\r\n")
    bed.take("a@example.com", content="Subject: Welcome, a\r\n\r\n")
    bed.take("a@example.com", content="Subject: again\r\n\r\n")
    both = bed.inbox.wait_for_all({"to": "a@example.com"}, {"to": "b@example.com"}, subject="welcome")
    assert [message.subject for message in both] == ["Welcome, a", "Welcome, b"]
    assert [one.subject for one in bed.inbox.wait_for_all(count=2, to="a@example.com")] == ["Welcome, a", "again"]
    with pytest.raises(NotArrived, match=r"fewer than 3 messages with to 'a@example\.com' arrived within 0 s"):
        bed.inbox.wait_for_all(count=3, to="a@example.com", timeout=0)


def test_what_did_not_arrive_is_explained(bed: Bed) -> None:
    bed.take(TO, content="Subject: Welcome\r\n\r\n")
    bed.inbox.begin()
    bed.take(TO, content="Subject: bad \x1b[31m news\r\n\r\n")
    bed.take("eve@example.com", content="Subject: Welcome\r\n\r\n")
    bed.log = [
        "Nov 27 12:00:00 relay postfix/smtp[9]: ABC: to=<bob@example.com>, status=deferred (450 \x1b]0;later)",
        "Nov 27 12:00:00 relay postfix/qmgr[9]: ABC: from=<ann@example.org>, size=9, nrcpt=1 (queue active)",
        "Nov 27 12:00:00 relay postfix/smtp[9]: DEF: to=<eve@example.com>, status=sent",
    ]
    bed.queues = [[queued("ABC", TO)]]
    bed.faults = [{"type": "MX", "name": "*.org", "then": "answer", "rcode": "SERVFAIL", "hits": 3, "id": 1}]
    with bed.inbox.defer(to=TO, sender="x@example.org") as rule:
        with pytest.raises(Exception, match="Try again later"):
            bed.take(TO, sender="x@example.org")
        with pytest.raises(NotArrived) as failed:
            bed.inbox.wait_for(to=TO, subject="Welcome", timeout=0.01)
    assert isinstance(failed.value, AssertionError)
    assert isinstance(failed.value, TimeoutError)
    text = str(failed.value)
    assert "no message with to 'bob@example.com', subject 'Welcome' arrived within 0.01 s" in text
    assert "2: ann@example.org -> bob@example.com" in text
    assert "[31m news', not 'Welcome'" in text
    assert "to is ['eve@example.com'], not 'bob@example.com'" in text
    assert "1: ann@example.org -> bob@example.com, subject 'Welcome': meets all, but came before the mark" in text
    assert f"rule {rule.id} (defer) on rcpt, x@example.org -> {TO}: 451 4.3.0 Try again later" in text
    assert "ABC: from=<ann@example.org>" in text
    assert "DEF" not in text
    assert "ABC deferred: ann@example.org -> bob@example.com (later)" in text
    assert "MX *.org: SERVFAIL, hits: 3" in text
    assert "\x1b" not in text


def test_the_text_of_a_failure_has_a_bound(bed: Bed) -> None:
    for number in range(30):
        bed.take(TO, content=f"Subject: {number} {'x' * 2000}\r\n\r\n")
    bed.log = ["postfix/smtp[9]: ABC: to=<bob@example.com>, " + "y" * 3000] * 500
    bed.queues = [[queued(f"Q{number}", TO, reason="z" * 3000) for number in range(100)]]
    with pytest.raises(NotArrived) as failed:
        bed.inbox.wait_for(to=TO, subject="Welcome", timeout=0)
    assert len(str(failed.value)) < 20_000
    assert "(25 further messages came)" in str(failed.value)
    assert "(488 before these)" in str(failed.value)


def test_what_cannot_be_read_hides_nothing_else(bed: Bed) -> None:
    bed.take("eve@example.com")
    bed.running.nodes["relay"].container.remove()
    with pytest.raises(NotArrived) as failed:
        bed.inbox.wait_for(to=TO, timeout=0)
    assert "queue of the relay:\n    cannot be read" in str(failed.value)
    assert "eve@example.com" in str(failed.value)


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ({"subject": ""}, "subject"),
        ({"subjet": "x"}, "needed conditions: sender, from_, subject, message_id, query, to; found subjet"),
        ({"from": "ann"}, "found from"),
        ({"limit": 3}, "found limit"),
        ({"to": None}, "a text as to, or a list of them; found None"),
        ({"to": []}, "found \\[\\]"),
        ({"to": [None]}, "found \\[None\\]"),
        ({"subject": 3}, "found 3"),
    ],
)
def test_bad_conditions_are_the_callers_error(bed: Bed, conditions: dict[str, Any], says: str) -> None:
    bed.take(TO)
    of = bed.inbox
    for use in (partial(of.wait_for, timeout=0), partial(of.wait_for_all, timeout=0), of.messages, of.expect_none):
        with pytest.raises(InvalidInput, match=says):
            use(**conditions)
    with pytest.raises(InvalidInput, match=says):
        of.wait_for_all({}, conditions, timeout=0)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=says):
        asyncio.run(of.aio.wait_for_all({"to": "eve@example.com"}, conditions))  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [-1, 601, None, float("inf"), float("nan")])
def test_a_timeout_out_of_range_is_the_callers_error(bed: Bed, timeout: float) -> None:
    of = bed.inbox
    for use in (of.wait_for, of.wait_for_all, of.expect_none):
        with pytest.raises(InvalidInput, match="needed a timeout of 0 to 600 s"):
            use(timeout=timeout)
    with pytest.raises(InvalidInput, match="count of 1"):
        of.wait_for_all(count=0)


def test_a_bad_rule_is_the_callers_error(bed: Bed) -> None:
    with pytest.raises(InvalidInput, match="delay_s"):
        bed.inbox.greylist(delay_s=-1)
    with pytest.raises(InvalidInput, match="a value of to; found None"):
        bed.inbox.reject(to=None)  # type: ignore[arg-type]
    for to in (None, "eve@example.com"):
        with pytest.raises(TypeError, match="'to'"):
            Mailbox(TO, bed.inbox).reject(to=to)  # type: ignore[arg-type]
    assert bed.inbox.api.rules() == []


def test_a_failure_without_conditions_names_none(bed: Bed) -> None:
    with pytest.raises(NotArrived, match=r"^no message arrived within 0 s"):
        bed.inbox.wait_for(timeout=0)
    bed.take(TO)
    with pytest.raises(Unexpected, match=r"^a message arrived:"):
        bed.inbox.expect_none()


# ------------------------------------------------------------------------------------------------- none


def test_no_mail_is_expected_and_none_comes(bed: Bed) -> None:
    bed.take(TO)
    bed.queues = [[queued("A", TO, state="active")], [queued("A", TO)]]
    bed.inbox.expect_none(to="eve@example.com")


def test_mail_that_arrived_was_not_expected(bed: Bed) -> None:
    bed.take(TO)
    with pytest.raises(
        Unexpected, match=r"a message with to 'bob@example.com' arrived:\n    <Message 1 ann@example.org"
    ):
        bed.inbox.expect_none(to=TO)
    bed.inbox.expect_none(to=TO, subject="another")
    bed.inbox.begin()
    bed.inbox.expect_none(to=TO)


def test_mail_that_is_deferred_was_not_expected(bed: Bed) -> None:
    bed.queues = [[queued("A", TO)]]
    with pytest.raises(Unexpected, match=r"waits in the queue of the relay:\n    A deferred: ann@example.org"):
        bed.inbox.expect_none(to=TO)
    bed.queues = [[queued("A", TO, state="hold")]]
    with pytest.raises(Unexpected, match="A hold"):
        bed.inbox.expect_none(sender="ann@example.org")
    bed.inbox.expect_none(to=TO, sender="eve@example.org")


def test_the_header_section_of_deferred_mail_is_read(bed: Bed) -> None:
    bed.queues = [[queued("A", TO), queued("GONE", TO)]]
    bed.heads = {"A": "From: Ann <ann@example.org>\nSubject: =?utf-8?q?caf=C3=A9?= today\nMessage-ID: <1@x>\n"}
    for conditions in ({"subject": "CAFÉ"}, {"from_": "ann"}, {"message_id": "<1@x>"}, {"query": "subject:other"}):
        with pytest.raises(Unexpected, match="A deferred"):
            bed.inbox.expect_none(to=TO, **conditions)  # type: ignore[arg-type]
    for conditions in ({"subject": "tea"}, {"from_": "bob@example.org"}, {"message_id": "<2@x>"}):
        bed.inbox.expect_none(to=TO, **conditions)  # type: ignore[arg-type]


def test_mail_on_its_way_is_waited_for(bed: Bed) -> None:
    moving = {"queue_id": "A", "queue_name": "incoming", "sender": ""}
    bed.queues = [[moving], [queued("A", TO, state="active")], [queued("A", TO)]]
    with pytest.raises(Unexpected, match="waits in the queue"):
        bed.inbox.expect_none(to=TO)
    bed.queues = [[queued("A", TO, state="active")], []]
    bed.inbox.expect_none(to=TO)
    bed.queues = [[queued("A", TO, state="active")]]
    with pytest.raises(Unexpected, match=r"still on its way after 0.1 s:\n    A active"):
        bed.inbox.expect_none(to=TO, timeout=0.1)


def test_a_notification_may_come_to_the_sender_of_mail_on_its_way(bed: Bed) -> None:
    bed.queues = [[queued("A", TO, state="active")]]
    with pytest.raises(Unexpected, match="on its way"):
        bed.inbox.expect_none(to="ann@example.org", timeout=0)
    bed.inbox.expect_none(to="eve@example.org", timeout=0)


def test_a_bed_is_settled_without_mail_in_the_queue(bed: Bed) -> None:
    bed.queues = [[queued("A", TO, state="active")], [queued("A", TO)], []]
    settle(bed.running, 10)
    bed.queues = [[queued("A", TO)]]
    with pytest.raises(Unsettled, match=r"after 0 s:\n    A deferred"):
        settle(bed.running, 0)


# ------------------------------------------------------------------------------------------------- rules, mailboxes


def test_a_rule_ends_with_its_block_and_others_stay(bed: Bed) -> None:
    with bed.inbox.reject(to="*@example.com") as general:
        with bed.inbox.accept(to=TO, times=1) as special:
            bed.take(TO)
            with pytest.raises(Exception, match="Rejected"):
                bed.take(TO)
        assert (special.hits, general.hits) == (1, 1)
        with pytest.raises(Exception, match="Rejected"):
            bed.take(TO)
        special.remove()
        assert general.hits == 2
    bed.take(TO)
    assert general.hits == 2
    bed.served.rules()
    general.remove()


def test_a_rule_that_could_not_be_removed_can_be_tried_again(bed: Bed) -> None:
    rule = bed.inbox.reject()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bed.inbox), "remove", Mock(side_effect=EngineFailed("an answer", "none", "see")))
        with pytest.raises(EngineFailed):
            rule.remove()
    rule.remove()
    assert bed.inbox.api.rules() == []


def test_every_action_has_a_method(bed: Bed) -> None:
    of = bed.inbox
    made = [
        *(
            of.accept(),
            of.defer("450 no"),
            of.reject("554 no"),
            of.greylist(1.0),
            of.bounce(2.0, to=TO),
            of.tarpit(0.1),
        ),
        *(of.disconnect("421 bye", on="connect"), of.reset(on="data"), of.rate(5), of.pace(2.5), of.drop(chance=0.5)),
    ]
    in_force = {one["id"]: one["rule"]["then"] for one in of.api.rules()}
    assert [in_force[rule.id] for rule in made] == [
        *("accept", "defer", "reject", "greylist", "bounce", "tarpit"),
        *("disconnect", "reset", "rate", "pace", "drop"),
    ]


def test_a_mailbox_is_an_address_of_one_test(bed: Bed) -> None:
    one, other = Mailbox("a1@example.com", bed.inbox), Mailbox("b2@example.com", bed.inbox)
    bed.take(one)
    assert one.wait_for().recipients == ("a1@example.com",)
    assert [len(one.messages()), len(other.messages()), len(one.wait_for_all(count=1))] == [1, 0, 1]
    assert len(one.wait_for_all({"subject": "hello"}, {"sender": "ann@example.org"})) == 2
    assert asyncio.run(one.aio.wait_for()).recipients == ("a1@example.com",)
    asyncio.run(other.aio.expect_none())
    with pytest.raises(NotArrived, match=r"with to 'b2@example\.com'"):
        asyncio.run(other.aio.wait_for_all(timeout=0))
    with pytest.raises(TypeError, match="'to'"):
        asyncio.run(other.aio.wait_for(to=one))
    other.expect_none()
    with one.reject():
        bed.take(other)
        with pytest.raises(Exception, match="Rejected"):
            bed.take(one)
    for same in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):  # noqa: S301 - ours
        assert (same, type(same)) == ("a1@example.com", str)


# ------------------------------------------------------------------------------------------------- coroutines


def test_coroutines_wait_at_the_same_time(bed: Bed) -> None:
    async def wait() -> list[str]:
        both = asyncio.create_task(bed.inbox.aio.wait_for_all({"to": "a@example.com"}, {"to": "b@example.com"}))
        one = asyncio.create_task(bed.inbox.aio.wait_for(to="b@example.com", subject="hello"))
        for to in ("b@example.com", "a@example.com"):
            await asyncio.to_thread(bed.take, to)
        await bed.inbox.aio.expect_none(to="c@example.com")
        return [message.recipients[0] for message in (*await both, await one)]

    assert asyncio.run(wait()) == ["a@example.com", "b@example.com", "b@example.com"]


def test_a_coroutine_explains_what_did_not_arrive(bed: Bed) -> None:
    bed.take("eve@example.com")
    with pytest.raises(NotArrived, match=r"eve@example\.com"):
        asyncio.run(bed.inbox.aio.wait_for(to=TO, timeout=0.01))
    with pytest.raises(InvalidInput):
        asyncio.run(bed.inbox.aio.wait_for(subject=""))


def test_a_cancelled_task_closes_its_request(bed: Bed) -> None:
    closed: list[bool] = []

    async def look() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            closed.append(not (await reader.read()).endswith(b"never"))
            writer.close()
            over.set()

        asked, over = asyncio.Event(), asyncio.Event()
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            bed.running.nodes["inbox"].ports["8025/tcp"] = server.sockets[0].getsockname()[1]  # type: ignore[index]
            task = asyncio.create_task(bed.inbox.aio.wait_for(to=TO, timeout=60))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(over.wait(), 10)

    asyncio.run(look())
    assert closed == [True]
