"""Postfix's log, as captured from a run, and with hostile text in it."""

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
    assert log.warnings == []


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
    assert (log.statuses, log.queue, log.warnings) == ({}, [(1001.0, 1)], [])


@given(st.text())
def test_no_text_ends_the_reading(text: str) -> None:
    begun = CAPTURED[4][: CAPTURED[4].index("<") + 1]
    assert _read(text, begun + text, CAPTURED[4]).statuses["sent"] >= 1


def test_a_server_that_cannot_be_reached_is_trouble() -> None:
    line = "Nov 23 02:08:56 relay postfix/smtp[171]: connect to mx.d7.test[198.18.0.15]:25: Network is unreachable"
    assert _read(line).warnings == [line]


def test_trouble_is_kept_and_bounded() -> None:
    log = _read(*["Nov 23 02:08:56 relay postfix/smtpd[1]: warning: run out of patience"] * 50)
    assert len(log.warnings) == postfix_log.MOST_WARNINGS
