"""Postfix's log, as captured from a run, and with hostile text in it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.services import RelayLog, postfix_log

CAPTURED = """\
Nov 23 02:08:55 relay postfix/master[1]: daemon started -- version 3.7.11, configuration /etc/postfix
Nov 23 02:08:56 relay postfix/smtpd[102]: 1BBCE1CA1CB: client=load.nodes.test[198.18.0.5]
Nov 23 02:08:56 relay postfix/cleanup[104]: 1BBCE1CA1CB: message-id=<0.b36ddf2a@load.test>
Nov 23 02:08:56 relay postfix/qmgr[100]: 1BBCE1CA1CB: from=<probe@d0.test>, size=911, nrcpt=1 (queue active)
Nov 23 02:08:56 relay postfix/smtp[105]: 1BBCE1CA1CB: to=<user@d0.test>, relay=mx.d0.test[198.18.0.16]:25, \
delay=0.032, delays=0.01/0.002/0.0195/0.0005, dsn=2.0.0, status=sent (250 2.0.0 OK)
Nov 23 02:08:56 relay postfix/qmgr[100]: 1BBCE1CA1CB: removed
""".replace("\\\n", "").splitlines()
REST = "delay=1, delays=1/2/3/4, dsn=4.4.1, status=deferred (connect: timed out)"


def _read(*lines: str, start: float = 1000.0) -> RelayLog:
    return postfix_log.read((start + i / 10, line) for i, line in enumerate(lines))


def test_each_hop_is_read_to_the_microsecond() -> None:
    log = _read(*CAPTURED)
    assert [h.get_value_at_percentile(50) for h in log.hops.values()] == pytest.approx(
        [10_000, 2000, 19_500, 500], rel=2e-3
    )
    assert log.statuses == {"sent": 1}
    assert log.troubles == []


def test_the_queue_is_what_came_in_and_has_not_been_removed() -> None:
    log = _read(*CAPTURED[:3])
    assert log.queue == [(1001.0, 1)]
    assert _read(*CAPTURED).queue == [(1001.0, 0)]


def test_reused_connections_and_tls_do_not_hide_the_delays() -> None:
    line = (
        "Nov 23 02:08:56 relay postfix/smtp[105]: 4XyZ: to=<u@d.test>, orig_to=<x>, relay=mx[::1]:25, conn_use=3, "
        "delay=10, delays=1/2/3/4, tls=none, dsn=2.0.0, status=sent (250 ok)"
    )
    assert _read(line).statuses == {"sent": 1}


@pytest.mark.parametrize(
    "line",
    [
        # an address that looks like fields
        f'to=<"u>, relay=x, delay=9, delays=9/9/9/9, dsn=2.0.0, status=sent ("@d.test>, relay=none, {REST}',
        # a reply that looks like fields
        f"to=<u@d.test>, relay=none, {REST[:-1]}: to=<a>, relay=x, delay=9, delays=9/9/9/9, dsn=2.0.0, status=sent (",
    ],
)
def test_text_that_others_chose_is_not_taken_for_fields(line: str) -> None:
    log = _read(f"Nov 23 02:08:56 relay postfix/smtp[1]: AB12: {line}")
    assert log.statuses == {"deferred": 1}
    assert next(iter(log.hops.values())).get_max_value() == pytest.approx(1_000_000, rel=2e-3)


@pytest.mark.parametrize(
    "line",
    [
        "smtpd[1]: helo=<postfix/smtp[1]: A1: to=<u>, relay=x, delay=9, delays=9/9/9/9, dsn=2.0.0, status=sent (",
        "smtpd[1]: improper command pipelining: postfix/cleanup[1]: A1: message-id=<x>",
        "smtpd[1]: lost connection after Nov 23 02:08:56 relay postfix/qmgr[1]: 1BBCE1CA1CB: removed",
        "smtpd[1]: disconnect from postfix/x[1]: fatal: x",
    ],
)
def test_a_line_within_a_line_is_no_line(line: str) -> None:
    log = _read(CAPTURED[2], f"Nov 23 02:08:56 relay postfix/{line}")
    assert (log.statuses, log.queue, log.troubles) == ({}, [(1001.0, 1)], [])


@given(st.text())
def test_no_text_ends_the_reading(text: str) -> None:
    begun = CAPTURED[4][: CAPTURED[4].index("<") + 1]
    assert _read(text, begun + text, CAPTURED[4]).statuses["sent"] >= 1


TROUBLE = (Path(__file__).parent / "trouble.log").read_text(encoding="utf-8").splitlines()
"""What Postfix 3.7 logged of a bed in which everything went wrong once; ten messages were queued at its end."""
STILL_QUEUED = {
    "854A8190004", "AA0DA19000C", "ABC881901AD", "AD86B19020C", "AE35219021C", "AEF32190229", "BA47A19029C",
    "C672B1902AB", "CB5E91902E1", "DBFE619023C",
}  # fmt: skip
"""As find(1) listed them in incoming, active, deferred and hold."""


def _reasons(*lines: str) -> dict[str, int]:
    return {trouble.reason: trouble.count for trouble in _read(*lines).troubles}


def test_every_status_is_an_attempt_whatever_its_word() -> None:
    assert _read(*TROUBLE).statuses == {"sent": 7, "deferred": 8, "bounced": 2, "SOFTBOUNCE": 1}
    other = f"Nov 23 02:08:56 relay postfix/smtp[1]: AB12: to=<u@d.test>, relay=none, {REST}"
    assert _read(other.replace("=deferred", "=Some-Word, and more")).statuses == {"Some-Word, and more": 1}


def test_the_picture_of_the_queue_agrees_with_the_queue_that_was_counted() -> None:
    assert _read(*TROUBLE).queue[-1][1] == len(STILL_QUEUED)


@pytest.mark.parametrize(
    "message",
    ["D998619023C", "DD34A19023E", "64DCE19023E", "DFA8019023E", "7FE39190004", "8754B19000B", "A830419019F"],
    ids=["header refused", "discarded", "client lost in DATA", "time-out in DATA", "refused at the end", "too long",
         "deleted by hand"],
)  # fmt: skip
def test_a_message_that_was_begun_and_is_not_queued_leaves_the_picture(message: str) -> None:
    process = next(line.partition("smtpd[")[2].partition("]")[0] for line in TROUBLE if f": {message}: client=" in line)
    about = [line for line in TROUBLE if message in line or (f"smtpd[{process}]: " in line and " after DATA" in line)]
    assert [length for _, length in _read(*about).queue][-1:] in ([], [0])


def test_a_lost_connection_takes_no_message_with_it_that_was_accepted_before() -> None:
    lost = "Nov 23 02:08:57 relay postfix/smtpd[102]: lost connection after RCPT from load.nodes.test[198.18.0.5]"
    assert _read(*CAPTURED[:4], lost).queue[-1][1] == 1


_SMTPD = "Nov 23 02:08:57 relay postfix/smtpd[102]: "
_LOST_IN_DATA = f"{_SMTPD}lost connection after DATA from other.nodes.test[198.18.0.6]"


def test_a_client_that_does_not_wait_for_replies_takes_no_message_with_it() -> None:
    line = f"{_SMTPD}improper command pipelining after DATA from load.nodes.test[198.18.0.5]: Subject: x\\r\\n"
    assert _read(*CAPTURED[1:3], line).queue[-1][1] == 1


@pytest.mark.parametrize(
    "between",
    [
        CAPTURED[3],
        f"{_SMTPD}disconnect from load.nodes.test[198.18.0.5] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5",
        f"{_SMTPD}NOQUEUE: reject: RCPT from other.nodes.test[198.18.0.6]: 554 5.7.1 <u@d.test>: Access denied",
        f"{_SMTPD}2BBCE1CA1CB: client=load.nodes.test[198.18.0.5]",
    ],
    ids=["active", "its client is done", "a message that was never begun", "another message"],
)
def test_a_client_lost_in_data_takes_only_the_message_that_it_was_sending(between: str) -> None:
    assert _read(*CAPTURED[1:3], between, _LOST_IN_DATA).queue[-1][1] == 1
    assert _read(*CAPTURED[1:3], _LOST_IN_DATA).queue[-1][1] == 0


def test_the_reasons_of_trouble_are_counted_without_what_differs() -> None:
    assert _reasons(*TROUBLE) == {
        "smtp: connect to HOST: Connection refused": 11,
        "deferred: connect to HOST: Connection refused": 5,
        "smtp: host HOST said: 450 4.2.0 <ADDRESS>: Recipient address rejected: Greylisted, id N "
        "(in reply to RCPT TO command)": 2,
        "smtpd: lost connection after DATA (N bytes) from HOST": 2,
        "smtp: lost connection with HOST while sending RCPT TO": 1,
        "smtp: host HOST said: 421 4.3.2 closing (in reply to RCPT TO command)": 1,
        "smtp: host HOST refused to talk to me: 421 4.7.0 too many connections": 1,
        "deferred: host HOST refused to talk to me: 421 4.7.0 too many connections": 1,
        "deferred: lost connection with HOST while sending end of data -- message may be sent more than once": 1,
        "deferred: conversation with HOST timed out while sending end of data -- message may be sent more than once": 1,
        "bounced: host HOST said: 554 5.7.1 no (in reply to RCPT TO command)": 1,
        "bounced: Host or domain name not found. Name service error for name=NAME type=AAAA: Host not found": 1,
        "SOFTBOUNCE: host HOST said: 554 5.7.1 no (in reply to RCPT TO command)": 1,
        "cleanup: reject: header Subject: bad from HOST": 1,
        "smtpd: timeout after DATA (N bytes) from HOST": 1,
        "smtpd: reject: END-OF-MESSAGE from HOST: 554 5.7.1 <ADDRESS>: Recipient address rejected: Access denied": 1,
        "smtpd: reject: RCPT from HOST: 554 5.7.1 <ADDRESS>: Recipient address rejected: not here": 1,
        "smtpd: warning: non-SMTP command from HOST: Message-ID: <ADDRESS>": 1,
        "smtpd: warning: ID: queue file size limit exceeded": 1,
        "cleanup: warning: mail_stream_cleanup: close error": 1,
    }


def test_the_most_frequent_reason_comes_first_with_its_first_line() -> None:
    first = _read(*TROUBLE).troubles[0]
    assert (first.count, first.example) == (11, next(line for line in TROUBLE if ": connect to " in line))


def test_a_parameter_that_postfix_does_not_know_is_trouble() -> None:
    line = "postconf: warning: /etc/postfix/main.cf: unused parameter: maps=x"
    assert _reasons(line) == {line: 1}


def test_a_transport_with_a_name_of_its_own_is_read_like_any_other() -> None:
    line = next(line for line in TROUBLE if "postfix/relay/smtp[" in line)
    assert _read(line).statuses == {"sent": 1}


def test_reasons_are_bounded() -> None:
    line = "Nov 23 02:08:56 relay postfix/smtpd[1]: warning: run out of {}"
    log = _read(*(line.format("x" * n) for n in range(2 * postfix_log.MOST_REASONS)))
    assert len(log.troubles) == postfix_log.MOST_REASONS + 1
    assert log.troubles[0].count == postfix_log.MOST_REASONS
    assert log.troubles[0].reason == postfix_log.OTHER


def test_only_a_number_where_a_reply_code_stands_tells_reasons_apart() -> None:
    lost = f"{_SMTPD}lost connection after DATA ({{}} bytes) from load.nodes.test[198.18.0.5]"
    assert _reasons(*map(lost.format, range(100, 900))) == {
        "smtpd: lost connection after DATA (N bytes) from HOST": 800
    }
    said = "Nov 23 02:08:56 relay postfix/smtp[1]: AB12CD: host mx.d0.test[198.18.0.8] said: {} no"
    assert len(_reasons(*map(said.format, (450, 451, 554)))) == 3
    assert len(_reasons(*map(said.format, (100, 999)))) == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("at 12:30:45 on port:25: no", "at N:N:N on port:N: no"),
        ("from 2001:2::c612:4: no", "from HOST: no"),
        ("from 2001:2:0:0:0:0:c612:4 no", "from HOST no"),
        ("from ::1 no", "from HOST no"),
        ("from [198.18.0.8]:25: no", "from HOST: no"),
        ("from [2001:2::c612:4]:2525: no", "from HOST: no"),
    ],
)
def test_an_address_is_told_from_a_time_and_a_port(said: str, reason: str) -> None:
    assert _reasons(f"{_SMTPD}warning: {said}") == {f"smtpd: warning: {reason}": 1}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("smtpd[1]: SSL_accept error from mx.d0.test[198.18.0.8]: -1", "smtpd: SSL_accept error from HOST: -N"),
        ("smtp[1]: SSL_connect error to mx.d0.test[198.18.0.8]:25: -1", "smtp: SSL_connect error to HOST: -N"),
        ("smtp[1]: AB12CD: Cannot start TLS: handshake failure", "smtp: Cannot start TLS: handshake failure"),
        (
            "smtpd[1]: NOQUEUE: proxy-reject: END-OF-MESSAGE: 554 5.7.1 no; from=<a@d.test> to=<b@d.test> proto=ESMTP",
            "smtpd: proxy-reject: END-OF-MESSAGE: 554 5.7.1 no",
        ),
        (
            "smtpd[1]: improper command pipelining after DATA from mx.d0.test[198.18.0.8]: as the client likes",
            "smtpd: improper command pipelining after DATA from HOST",
        ),
    ],
)
def test_trouble_with_tls_a_proxy_or_a_hasty_client_is_told(said: str, reason: str) -> None:
    assert _reasons(f"Nov 23 02:08:56 relay postfix/{said}") == {reason: 1}


def test_a_message_that_the_proxy_refuses_leaves_the_picture() -> None:
    refused = f"{_SMTPD}1BBCE1CA1CB: proxy-reject: END-OF-MESSAGE: 554 5.7.1 no; from=<a@d.test> to=<b@d.test>"
    assert _read(*CAPTURED[1:3], refused).queue[-1][1] == 0


def test_a_name_in_several_parts_does_not_hide_the_line() -> None:
    assert _read(CAPTURED[4].replace("postfix/smtp[", "postfix/mx/out/smtp[")).statuses == {"sent": 1}
