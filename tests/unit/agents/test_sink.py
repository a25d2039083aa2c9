"""The sink as its clients see it: the standard library's client, the full library's, and rude ones."""

import asyncio
import json
import resource
import smtplib
import socket
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

import aiosmtplib
import pytest

from orchestrator.agents import control
from orchestrator.agents.session import COMMAND_LIMIT, MOST_RECIPIENTS
from orchestrator.agents.sink import main
from orchestrator.agents.wire import Composer
from tests.unit.agents.conftest import DOMAINS, Sink, numbers, running_sink, send


class Talk:
    """A conversation by hand."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=5)
        self.file = self.socket.makefile("rb")
        assert self.reply().startswith("220 ")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def reply(self) -> str:
        """Read one reply; its last line."""
        while line := self.file.readline():
            if line[3:4] == b" ":
                break
        return line.decode().rstrip("\r\n")

    def say(self, *lines: bytes) -> list[str]:
        """Send lines in one write and read a reply to each."""
        self.socket.sendall(b"".join(line + b"\r\n" for line in lines))
        return [self.reply() for _ in lines]

    def send(self, data: bytes) -> None:
        """Send octets."""
        self.socket.sendall(data)


@pytest.fixture
def talk(sink: Sink) -> Iterator[Talk]:
    """Talk to the sink of all tests."""
    with Talk(sink.port) as made:
        yield made


def message(run: str, seq: int, domain: int = 0, size: int = 700) -> bytes:
    """Return a stamped message as it follows DATA."""
    now = time.monotonic_ns()
    return Composer(run, "load@d0.test", DOMAINS, [size]).content(seq, domain, now, now)


def letter(run: str, seq: int, domain: int = 0, size: int = 700) -> bytes:
    """Return a stamped message as a mail program has it."""
    now = time.monotonic_ns()
    return Composer(run, "load@d0.test", DOMAINS, [size]).letter(seq, domain, now, now)


def test_smtplib_delivers(sink: Sink) -> None:
    run = sink.begin()
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=5) as client:
        assert client.ehlo()[0] == 250
        assert set(client.esmtp_features) == {"pipelining", "size", "8bitmime", "enhancedstatuscodes"}
        assert client.esmtp_features["size"] == str(50 * 1024 * 1024)
        assert client.verify("user@d0.test")[0] == 252
        client.sendmail("a@d0.test", ["user@d1.test", "user@D2.test"], letter(run, 0))
        client.sendmail("a@d0.test", "user@d0.test", letter(run, 0), mail_options=["BODY=8BITMIME"])
        client.send_message(EmailMessage(), "a@d0.test", ["user@d0.test"])
    report = sink.report(run)
    assert (report.delivered, report.duplicated, report.corrupted, report.foreign) == (1, 1, 0, 1)
    assert (report.domains, report.outside, report.connections) == (0, 2, 1)
    assert report.bytes == 2 * len(letter(run, 0))


def test_aiosmtplib_delivers_with_the_dots_it_should(sink: Sink) -> None:
    run = sink.begin()

    async def deliver() -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=sink.port, start_tls=False) as client:
            for seq in range(3):
                await client.sendmail("a@d0.test", "user@d0.test", letter(run, seq, size=[2, 100, 99_999][seq]))

    asyncio.run(deliver())
    assert sink.report(run).delivered == 3


def test_it_serves_ipv6(sink: Sink) -> None:
    run = sink.begin()
    with smtplib.SMTP("::1", sink.port, timeout=5) as client:
        client.sendmail("a@d0.test", "user@d0.test", letter(run, 4))
    assert numbers(sink.report(run).delivered_set) == [4]


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ([b"MAIL FROM:<a@b.test>"], ["503 5.5.1"]),
        ([b"HELO x", b"RCPT TO:<a@b.test>", b"DATA"], ["250 sink.test", "503 5.5.1", "503 5.5.1"]),
        ([b"HELO x", b"MAIL FROM:<>", b"DATA"], ["250", "250 2.1.0", "503 5.5.1"]),
        ([b"HELO x", b"MAIL FROM:<a@b.test>", b"MAIL FROM:<a@b.test>"], ["250", "250 2.1.0", "503 5.5.1"]),
        ([b"HELO x", b"mail from:<a@b.test> size=10 BODY=8bitmime"], ["250", "250 2.1.0"]),
        ([b"HELO x", b"MAIL FROM:<a@b.test>", b"RSET", b"RCPT TO:<a@b.test>"], ["250", "250", "250", "503 5.5.1"]),
        ([b"HELO x", b"MAIL FROM:<a@b.test>", b"HELO x", b"MAIL FROM:<a@b.test>"], ["250", "250", "250", "250"]),
        ([b"HELO x", b"MAIL FROM:<>", b"RCPT TO:<Postmaster>"], ["250", "250", "250 2.1.5"]),
        ([b"HELO x", b"MAIL FROM:<>", b"RCPT TO:<@a.test,@b.test:c@d.test>"], ["250", "250", "250 2.1.5"]),
        ([b"HELO x", b"MAIL FROM:<>", b"RCPT TO:<>", b"RCPT TO:a@b"], ["250", "250", "501 5.5.4", "501 5.5.4"]),
        ([b"HELO x", b"MAIL FROM:<> SIZE=99999999999"], ["250", "552 5.3.4"]),
        ([b"HELO x", b"MAIL FROM:<> RET=FULL", b"MAIL FROM:a@b"], ["250", "555 5.5.4", "501 5.5.4"]),
        ([b"HELO x", b"MAIL FROM:<>", b"RCPT TO:<a@b.test> NOTIFY=NEVER"], ["250", "250", "555 5.5.4"]),
        ([b"EHLO", b"VRFY", b"QUIT now"], ["501 5.5.4", "501 5.5.4", "501 5.5.4"]),
        ([b"NOOP", b"noop with words", b"DATAX", b""], ["250", "250", "500 5.5.2", "500 5.5.2"]),
        ([b"HELP", b"help MAIL", b"EXPN list", b"VRFY a"], ["214 2.0.0", "214 2.0.0", "502 5.5.1", "252 2.5.2"]),
        ([b"HELO x", b"MAIL FROM:<>", b'RCPT TO:<"a b.>@\\""@d3.test>'], ["250", "250", "250 2.1.5"]),
        ([b"HELO x", b'MAIL FROM:<@c.test:"a b"@d3.test> SIZE=9'], ["250", "250 2.1.0"]),
        ([b"HELO x", b"MAIL FROM:<>", b"RCPT TO:<a@[192.0.2.1]>", b"RCPT TO:<a@[IPv6:::1]>"], ["250"] * 4),
        ([b"HELO x", b"MAIL FROM:<>", b"RCPT TO:<a@[192.0.2.256]>", b"RCPT TO:<a@-b>"], ["250"] * 2 + ["501"] * 2),
        ([b"HELO x", b"MAIL FROM:<%b@b>" % (b"a" * 65), b"MAIL FROM:<postmaster>"], ["250", "501 5.5.4", "501"]),
        ([b"HELO x", b"MAIL FROM:<a@%bb>" % (b"b." * 127), b"MAIL FROM:<a@b> SIZE=x"], ["250", "501 5.5.4", "501"]),
        ([b"MAIL FROM:<a\nQUIT\n>", b"NOOP"], ["503 5.5.1", "250 2.0.0"]),
    ],
)
def test_the_sequence_and_syntax_of_commands(talk: Talk, lines: list[bytes], codes: list[str]) -> None:
    replies = talk.say(*lines)
    assert all(reply.startswith(code) for reply, code in zip(replies, codes, strict=True)), replies


def test_mail_to_a_quoted_local_part_is_of_its_domain(sink: Sink) -> None:
    run = sink.begin()
    with Talk(sink.port, "127.0.16.3") as talk:
        talk.say(b"EHLO x", b"MAIL FROM:<>", b'RCPT TO:<"quoted local"@D3.test>', b"DATA")
        talk.send(message(run, 0, 3))
        assert talk.reply() == "250 2.0.0 Ok"
    report = sink.report(run)
    assert (report.delivered, report.domains, report.misrouted) == (1, 1, 0)


def test_a_pipelined_transaction_may_come_in_any_pieces(sink: Sink, talk: Talk) -> None:
    run = sink.begin()
    whole = b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<user@d0.test>\r\nDATA\r\n" + message(run, 0) + b"QUIT\r\n"
    for octet in whole[:-1]:
        talk.send(bytes([octet]))
    assert [talk.reply()[:3] for _ in range(5)] == ["250", "250", "250", "354", "250"]
    talk.send(whole[-1:])
    assert talk.reply()[:3] == "221"
    assert talk.file.read() == b""
    assert sink.report(run).delivered == 1


def test_a_line_may_be_long_but_not_too_long(talk: Talk) -> None:
    assert talk.say(b"NOOP " + b"x" * (COMMAND_LIMIT - 5)) == ["250 2.0.0 Ok"]
    assert talk.say(b"NOOP " + b"x" * (COMMAND_LIMIT - 4))[0].startswith("500 5.5.6")
    assert talk.say(b"NOOP " + b"x" * 3_000_000, b"NOOP")[1] == "250 2.0.0 Ok"


def test_there_may_be_a_hundred_recipients(sink: Sink, talk: Talk) -> None:
    run = sink.begin()
    talk.say(b"EHLO x", b"MAIL FROM:<>")
    replies = talk.say(*[b"RCPT TO:<user%d@d0.test>" % n for n in range(MOST_RECIPIENTS + 2)])
    assert [reply[:9] for reply in replies[-3:]] == ["250 2.1.5", "452 4.5.3", "452 4.5.3"]
    talk.say(b"DATA")
    talk.send(message(run, 0))
    assert talk.reply() == "250 2.0.0 Ok"
    assert sink.report(run).delivered == 1


@pytest.mark.parametrize("dot", [b"\n.\n", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r"])
def test_no_second_message_can_be_smuggled_in(sink: Sink, talk: Talk, dot: bytes) -> None:
    run = sink.begin()
    talk.say(b"EHLO x", b"MAIL FROM:<>", b"RCPT TO:<user@d0.test>", b"DATA")
    talk.send(b"Subject: a\r\n\r\nb" + dot + b"MAIL FROM:<>\r\nRCPT TO:<user@d1.test>\r\nDATA\r\n" + message(run, 1))
    assert talk.reply() == "250 2.0.0 Ok"
    assert talk.say(b"NOOP") == ["250 2.0.0 Ok"]
    report = sink.report(run)
    assert (report.delivered, report.foreign) == (0, 1)


def test_a_message_over_the_announced_size_is_refused_and_not_counted(tmp_path: Path) -> None:
    settings = ("--settings", '{"max_size": 1000}')
    with running_sink(tmp_path, "--listen", "127.0.0.1", *settings) as sink, Talk(sink.port) as talk:
        run = sink.begin()
        assert "250-SIZE 1000" in talk.say(b"EHLO x")[0] or talk.say(b"MAIL FROM:<> SIZE=1001")[0].startswith("552")
        talk.say(b"MAIL FROM:<>", b"RCPT TO:<user@d0.test>", b"DATA")
        talk.send(message(run, 0, size=2000))
        assert talk.reply().startswith("552 5.3.4")
        talk.say(b"MAIL FROM:<>", b"RCPT TO:<user@d0.test>", b"DATA")
        talk.send(message(run, 1, size=100))
        assert talk.reply() == "250 2.0.0 Ok"
        assert numbers(sink.report(run).delivered_set) == [1]


def test_half_a_message_is_none(sink: Sink) -> None:
    run = sink.begin()
    with Talk(sink.port) as rude:
        rude.say(b"EHLO x", b"MAIL FROM:<>", b"RCPT TO:<user@d0.test>", b"DATA")
        rude.send(message(run, 0)[:-3])
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=5) as client:
        client.sendmail("a@d0.test", "user@d0.test", letter(run, 1))
    assert numbers(sink.report(run).delivered_set) == [1]


def test_mail_at_the_address_of_another_domain_is_misrouted(sink: Sink) -> None:
    run = sink.begin()
    for host, domain in (("127.0.16.0", 0), ("127.0.16.5", 5), ("127.0.16.5", 4), ("127.0.16.7", 7)):
        with smtplib.SMTP(host, sink.port, timeout=5) as client:
            client.sendmail("a@d0.test", f"user@{DOMAINS[domain]}", letter(run, domain))
    report = sink.report(run)
    assert (report.delivered, report.misrouted, report.domains, report.outside) == (4, 1, 4, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_mail_at_an_address_of_no_domain_is_nobodys(sink: Sink, host: str) -> None:
    run = sink.begin()
    with smtplib.SMTP(host, sink.port, timeout=5) as client:
        client.sendmail("a@d0.test", ["user@d0.test", "user@d1.test"], letter(run, 0))
    report = sink.report(run)
    assert (report.delivered, report.misrouted, report.domains, report.outside) == (1, 0, 0, 1)


def test_runs_are_accounted_for_side_by_side(sink: Sink) -> None:
    one, other = sink.begin(), sink.begin()
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=5) as client:
        for run in (one, other, one, "ffffffff"):
            client.sendmail("a@d0.test", "user@d0.test", letter(run, 3))
    first, second = sink.report(one), sink.report(other)
    assert (first.delivered, first.duplicated, first.foreign) == (1, 1, 1)
    assert (second.delivered, second.duplicated, second.foreign) == (1, 0, 1)


def test_a_delayed_answer_holds_up_nobody_else(slow_sink: Sink) -> None:
    run = slow_sink.begin()
    with Talk(slow_sink.port) as slow, Talk(slow_sink.port) as other:
        slow.say(b"EHLO x", b"MAIL FROM:<>", b"RCPT TO:<user@d0.test>", b"DATA")
        began = time.monotonic()
        slow.send(message(run, 0) + b"NOOP\r\nQUIT\r\n")
        assert other.say(b"NOOP") == ["250 2.0.0 Ok"]
        assert time.monotonic() - began < 0.1
        assert [slow.reply()[:3] for _ in range(3)] == ["250", "250", "221"]
        assert 0.1 <= time.monotonic() - began < 0.2
    with Talk(slow_sink.port) as gone:
        gone.say(b"EHLO x", b"MAIL FROM:<>", b"RCPT TO:<user@d0.test>", b"DATA")
        gone.send(message(run, 1))
    assert slow_sink.ask("count", run)["delivered"] >= 1


def test_a_client_that_never_reads_is_not_read_either(talk: Talk, sink: Sink) -> None:
    talk.socket.settimeout(0.1)
    with pytest.raises(TimeoutError):
        talk.send(b"VRFY x\r\n" * 8_000_000)
    with Talk(sink.port) as other:
        assert other.say(b"NOOP") == ["250 2.0.0 Ok"]


def test_a_million_messages_take_little_memory(sink: Sink) -> None:
    before, run = sink.report(sink.begin()).memory_b, sink.begin()
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=5) as client:
        for seq in (0, 999_999):
            client.sendmail("a@d0.test", "user@d0.test", letter(run, seq))
    report = sink.report(run)
    assert report.delivered == 2
    assert report.memory_b - before < 5_000_000
    assert len(report.delivered_set) < 1000


def test_it_says_when_all_has_arrived(sink: Sink) -> None:
    run = "0badf00d"
    assert sink.ask("expect", run, "2")["delivered"] == 0
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=5) as client:
        for seq in range(2):
            client.sendmail("a@d0.test", "user@d0.test", letter(run, seq))
    while sink.next_line() != {"complete": run}:
        pass


def test_out_of_files_it_sends_clients_away_and_serves_on(tmp_path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with running_sink(tmp_path, "--listen", "127.0.0.1", files=256) as made:
        crowd: list[socket.socket] = []
        greetings = []
        for _ in range(300):
            crowd.append(socket.create_connection(("127.0.0.1", made.port), timeout=5))
            greetings.append(crowd[-1].recv(100)[:3])
        assert set(greetings) == {b"220", b"421"}
        assert greetings.count(b"220") == 256 - 2 * (256 // 8) - 64
        for one in crowd:
            one.close()
        run = made.begin()
        while made.ask("count", run)["connections"]:
            pass
        with smtplib.SMTP("127.0.0.1", made.port, timeout=5) as client:
            client.sendmail("a@d0.test", "user@d0.test", letter(run, 0))
        assert made.report(run).delivered == 1


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["begin", "nonsense"], 1, "eight hex digits"),
        (["report", "ffffffff"], 1, "is unknown here"),
        (["expect", "ffffffff", "many"], 1, "invalid literal for int"),
        (["expect", "nonsense", "1"], 1, "eight hex digits"),
        (["drop"], 2, "python3 -m orchestrator.agents.control begin RUN"),
        ([], 2, "python3 -m orchestrator.agents.control begin RUN"),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(
    sink: Sink, capsys: pytest.CaptureFixture[str], words: list[str], status: int, text: str
) -> None:
    assert control.main(["--socket", sink.control, *words]) == status
    assert text in capsys.readouterr().err


def test_no_sink_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert control.main(["--socket", str(tmp_path / "none.sock"), "begin", "0badcafe"]) == 1
    assert "is it running here?" in capsys.readouterr().err


RESET = {"on": "mail", "then": "reset"}
CLOSE = {"on": "rcpt", "then": "disconnect"}


@pytest.mark.parametrize(("rule", "last"), [(RESET, b"MAIL FROM:<a@b.test>"), (CLOSE, b"RCPT TO:<user@d0.test>")])
def test_one_command_of_so_many_ends_its_session(tmp_path: Path, rule: dict[str, Any], last: bytes) -> None:
    rules = ("--rules", json.dumps([{**rule, "every": 2}]))
    with running_sink(tmp_path, "--listen", "127.0.0.1", *rules) as sink:
        run = sink.begin()
        whole = [b"EHLO x", b"MAIL FROM:<a@b.test>", b"RCPT TO:<user@d0.test>", b"NOOP"]
        for nth in range(1, 5):
            with Talk(sink.port) as talk:
                before = whole[: whole.index(last)]
                talk.say(*before)
                if nth % 2:
                    assert talk.say(last)[0].startswith("250")
                    continue
                talk.send(last + b"\r\nNOOP\r\n")
                if rule is CLOSE:
                    assert talk.file.read() == b""
                else:
                    with pytest.raises(ConnectionResetError):
                        talk.file.read()
        assert (sink.report(run).connections, sink.report(run).broken) == (4, 2)
        assert sink.ask("count", run)["connections"] == 0


@pytest.mark.parametrize(("rule", "cause"), [(RESET, "ConnectionResetError"), (CLOSE, "connection closed")])
def test_our_generator_counts_what_a_broken_session_cost_it_and_goes_on(
    tmp_path: Path, rule: dict[str, Any], cause: str
) -> None:
    rules = ("--rules", json.dumps([{**rule, "every": 3}]))
    with running_sink(tmp_path, "--listen", "127.0.0.1", *rules) as sink:
        run = sink.begin()
        load = send(run=run, port=sink.port, messages=30, connections=4, per_connection=2)
        assert load.offered == load.accepted + sum(load.failed.values()) == 30
        assert set(load.failed) == {cause}
        assert sink.report(run).delivered == load.accepted
        assert sink.report(run).broken == sum(load.failed.values())


def test_an_answer_is_one_json_line(sink: Sink, capsys: pytest.CaptureFixture[str]) -> None:
    assert control.main(["--socket", sink.control, "begin", "00c0ffee"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["run"] == "00c0ffee"


@pytest.mark.parametrize(
    ("settings", "text"), [('{"speed": 1}', "unexpected keyword argument 'speed'"), ("{", "Expecting property name")]
)
def test_settings_that_are_none_end_the_sink(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: str, text: str
) -> None:
    monkeypatch.setattr("sys.argv", ["sink", "--settings", settings])
    with pytest.raises(SystemExit):
        main()
    assert text in capsys.readouterr().err


def test_rules_defer_drop_and_reset_and_what_arrives_is_accounted_for(tmp_path: Path) -> None:
    rules = [
        {"to": "bob@d0.test", "then": "defer", "reply": "451 4.7.1 later", "times": 1},
        {"to": "*@d1.test", "then": "drop"},
        {"from": "evil@*", "on": "data", "then": "reset"},
    ]
    with running_sink(tmp_path, "--listen", "127.0.0.1", "--rules", json.dumps(rules)) as ruled:
        run = ruled.begin()
        with smtplib.SMTP("127.0.0.1", ruled.port, timeout=5) as client:
            with pytest.raises(smtplib.SMTPRecipientsRefused, match="451"):
                client.sendmail("a@d0.test", "bob@d0.test", letter(run, 0))
            client.sendmail("a@d0.test", "bob@d0.test", letter(run, 0))
            client.sendmail("a@d0.test", "user@d1.test", letter(run, 1))
        client = smtplib.SMTP("127.0.0.1", ruled.port, timeout=5)
        with pytest.raises((ConnectionResetError, smtplib.SMTPServerDisconnected)):
            client.sendmail("evil@d0.test", "user@d2.test", letter(run, 2))
        client.close()
        report = ruled.report(run)
    assert numbers(report.delivered_set) == [0]
    assert (report.delivered, report.broken) == (1, 1)
