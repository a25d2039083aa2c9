"""The generator against the real sink, and against servers that do it wrong."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvloop

from orchestrator.agents import load as load_module
from orchestrator.agents.contract import LoadOrder
from orchestrator.agents.histogram import decode
from orchestrator.agents.load import Load
from orchestrator.agents.order import BadOrder, read_order
from tests.unit.agents import faults
from tests.unit.agents.conftest import DOMAINS, PREFIX, Clock, Sink, at, numbers, report_of, send, start_load

ORDER = {"run": "a5a5a5a5", "target": "127.0.0.1", "domains": DOMAINS, "messages": 4, "sizes": [600], "timeout": 30}


def against(fault: faults.Fault, **order: Any) -> Any:
    """Carry a load out against a server that does it wrong."""

    async def both() -> Any:
        async with faults.serving(fault) as port:
            return await Load(LoadOrder.from_dict({**ORDER, "port": port, **order})).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(both())


def leaping(clock: Clock, seconds: float, fault: faults.Fault, reply: bytes | None = None) -> faults.Fault:
    """Let time pass whenever a server begins a session, or whenever it gives a reply (empty: where one is missing)."""

    async def session(reader: faults.Reader, writer: faults.Writer) -> None:
        write = writer.write

        def leap_and_write(data: bytes) -> None:
            if data == reply:
                clock.leap(seconds)
            write(data)

        writer.write = leap_and_write  # type: ignore[method-assign, assignment]
        if reply is None:
            clock.leap(seconds)
        await fault(reader, writer)

    return session


@pytest.mark.parametrize("per_connection", [1, 7, 1000])
@pytest.mark.parametrize("target", ["127.0.0.1", "::1", PREFIX])
def test_as_fast_as_it_goes_every_message_arrives_once(sink: Sink, target: str, per_connection: int) -> None:
    run = sink.begin()
    sizes = [2, 600, 40_000]
    said = send(run=run, port=sink.port, target=target, messages=300, per_connection=per_connection, sizes=sizes)
    report = sink.report(run)
    assert (said.offered, said.accepted, said.failed, said.unresolved) == (300, 300, {}, 0)
    assert (report.delivered, report.duplicated, report.corrupted, report.misrouted) == (300, 0, 0, 0)
    assert (report.domains, report.outside) == ((len(DOMAINS), 0) if target == PREFIX else (0, 300))
    assert said.domains == len(DOMAINS)
    assert said.accepted_set == report.delivered_set
    assert decode(said.service).get_total_count() == decode(said.response).get_total_count() == 300
    assert at(said.service, 50) <= at(said.response, 50)
    assert decode(said.connect).get_total_count() == said.connections
    if per_connection == 1:
        assert said.connections == 300


def test_the_load_goes_to_exactly_the_recipients_that_are_named_each_in_its_turn() -> None:
    heard: list[bytes] = []

    async def listening(reader: faults.Reader, writer: faults.Writer) -> None:
        class Heard:
            async def readline(self) -> bytes:
                line = await reader.readline()
                heard.extend([line] if line.startswith(b"RCPT") else [])
                return line

            async def readuntil(self, end: bytes) -> bytes:
                return await reader.readuntil(end)

        await faults.converse(Heard(), writer, {})  # type: ignore[arg-type]

    names = {"domains": ["d0.test", "d1.test"], "recipients": ["anna@d1.test", "o'neil+x@d0.test", "info"]}
    said = against(listening, messages=8, connections=1, per_connection=8, timeout=5, **names)
    assert said.accepted == 8
    addresses = [line[len(b"RCPT TO:<") : -3].decode() for line in heard]
    turn = ["o'neil+x@d0.test", "anna@d1.test", "info@d0.test", "info@d1.test"]
    assert addresses == [*turn, *turn]


@pytest.mark.parametrize(
    ("recipients", "said"),
    [
        (["a@d0.test", "b@other.test"], "one of the domains"),
        (["a@d0.test"], "a recipient in every domain"),
        (["a>\r\nDATA"], "plain addresses"),
        (["a b"], "plain addresses"),
        (["a..b"], "plain addresses"),
        (["a" * 65], "plain addresses"),
        ([], "a list of 1"),
    ],
)
def test_a_recipient_that_would_break_the_stream_or_fits_no_domain_is_refused(recipients: list[str], said: str) -> None:
    with pytest.raises(BadOrder, match=said):
        read_order(json.dumps({**ORDER, "domains": ["d0.test", "d1.test"], "recipients": recipients}))


def test_an_address_that_no_path_holds_is_refused() -> None:
    domain = ".".join(["d" * 61] * 4)  # 247 octets
    for local, fits in (("a" * 6, True), ("a" * 7, False)):
        text = json.dumps({**ORDER, "domains": [domain], "recipients": [local]})
        if fits:
            assert read_order(text).recipients == [local]
        else:
            with pytest.raises(BadOrder, match="at most 254 octets"):
                read_order(text)


def test_a_rate_is_kept(sink: Sink) -> None:
    run = sink.begin()
    said = send(run=run, port=sink.port, rate=1000, seconds=0.2, connections=4)
    assert (said.offered, said.accepted) == (200, 200)
    report = sink.report(run)
    assert report.first is not None
    assert report.last is not None
    last_due = said.started + 0.199
    assert said.started <= report.first
    assert last_due < report.last + 0.001
    assert report.last <= said.ended + 0.01
    assert said.ended <= last_due + at(said.response, 100) / 1000 + 0.001


@pytest.mark.parametrize("bounds", [{"messages": 100, "seconds": 60}, {"rate": 2000, "messages": 100}])
def test_towards_a_prefix_each_domain_gets_its_turn_at_its_own_address(sink: Sink, bounds: dict[str, Any]) -> None:
    run = sink.begin()
    order = LoadOrder(run=run, target=PREFIX, domains=DOMAINS, per_connection=3)
    turns = [order.domain_of(seq) for seq in range(15)]
    assert turns == [0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 1, 1, 1, 2]
    said = send(run=run, port=sink.port, target=PREFIX, per_connection=3, **bounds)
    report = sink.report(run)
    assert said.accepted == report.delivered == 100
    assert (report.misrouted, report.domains) == (0, 8)
    assert report.connections == 8 + 31


def test_time_ends_a_load_that_is_as_fast_as_it_goes(sink: Sink, clock: Clock) -> None:
    run = sink.begin()
    clock.leap_after("accepted", lambda load: 60.0 * (len(load._accepted) == 50))
    said = send(run=run, port=sink.port, seconds=60, connections=20, timeout=600)
    assert said.offered == said.accepted == sink.report(run).delivered
    assert 50 <= said.offered <= 50 + 20, "those on their way, and no further one"


def test_a_known_delay_is_measured_as_such(slow_sink: Sink) -> None:
    run = slow_sink.begin()
    said = send(run=run, port=slow_sink.port, messages=40, connections=20)
    report = slow_sink.report(run)
    assert said.accepted == report.delivered == 40
    assert at(said.service, 0) >= 100
    for percent in (0, 50, 100):
        assert at(report.transit, percent) + 100 < 1.01 * at(said.service, percent), "the delay is not on the way"


def test_service_time_is_the_servers_and_response_time_counts_from_the_due_time(clock: Clock) -> None:
    clock.stand()
    server = leaping(clock, 0.1, faults.does_no_pipelining, reply=b"250 2.0.0 ok\r\n")
    said = against(server, rate=400, messages=16, connections=1, per_connection=16)
    assert (at(said.service, 0), at(said.service, 100)) == pytest.approx((100, 100), rel=1e-3)
    assert (at(said.response, 0), at(said.response, 100)) == pytest.approx((100, 1600 - 37.5), rel=1e-3)
    assert (said.accepted, said.late) == (16, 15)
    assert said.ended - said.started == pytest.approx(1.6)


def test_a_slow_server_cannot_hide(slow_sink: Sink) -> None:
    run = slow_sink.begin()
    said = send(run=run, port=slow_sink.port, rate=400, messages=16, connections=4)
    assert said.accepted == 16
    assert at(said.service, 0) >= 100
    assert at(said.response, 99) > 350  # 4 connections carry 40/s: the last of 16 is due at 0.04 s, and sent at 0.3 s
    assert at(slow_sink.report(run).age, 99) > 250
    assert said.late >= 10


def test_it_finds_what_a_relay_lost_doubled_and_changed(sink: Sink) -> None:
    run = sink.begin()
    relay = faults.MeddlingRelay(sink.port, lost={3, 10}, doubled={5}, changed={7})
    said = against(relay, run=run, messages=12, connections=1, timeout=5)
    report = sink.report(run)
    assert said.accepted == 12
    assert (report.delivered, report.duplicated, report.corrupted) == (9, 1, 1)
    missing = set(numbers(said.accepted_set)) - set(numbers(report.delivered_set))
    assert missing == {3, 7, 10}


@pytest.mark.parametrize(
    ("fault", "cause", "unresolved"),
    [
        (faults.resets_after_mail, "ConnectionResetError", 0),
        (faults.closes_after_rcpt, "connection closed", 0),
        (faults.defers_senders, "451 4.3.0", 0),
        (faults.refuses_recipients, "550 5.1.1", 0),
        (faults.refuses_recipients_but_takes_data, "550 5.1.1", 0),
        (faults.rejects_content, "554 5.7.1", 0),
        (faults.closes_after_the_data, "connection closed", 4),
        (faults.says_421_to_rcpt, "421 4.3.2", 0),
        (faults.talks_nonsense, "malformed reply", 0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fault_is_counted_by_its_cause(fault: faults.Fault, cause: str, unresolved: int) -> None:
    said = against(fault, rate=1000)
    assert said.failed == {cause: 4}
    assert (said.offered, said.accepted, said.domains, said.unresolved) == (4, 0, 0, unresolved)
    assert said.connect_failed == {}
    assert len(numbers(said.unresolved_set)) == unresolved


def test_a_message_whose_reply_does_not_come_in_time_is_unresolved(clock: Clock) -> None:
    said = against(leaping(clock, 31, faults.is_silent_after_the_data, reply=b""), rate=1000, connections=1)
    assert (said.offered, said.accepted, said.failed) == (4, 0, {"timeout": 4})
    assert said.unresolved == len(numbers(said.unresolved_set)) == 4


def test_what_a_broken_connection_left_of_a_block_is_sent_over_another() -> None:
    said = against(faults.closes_after_rcpt, target="127.0.0.1/32", domains=["d0.test"])
    assert (said.offered, said.failed, said.connections) == (4, {"connection closed": 4}, 4)


@pytest.mark.parametrize("fault", [faults.knows_no_ehlo, faults.does_no_pipelining])
def test_a_plain_server_is_served_plainly(fault: faults.Fault) -> None:
    said = against(fault, messages=10, per_connection=4)
    assert (said.accepted, said.failed) == (10, {})


@pytest.mark.parametrize(
    ("fault", "seconds", "cause"),
    [
        (faults.greets_with_421, 16, "421 4.3.2"),
        (faults.closes_at_once, 16, "connection closed"),
        (faults.never_greets, 31, "no greeting"),
        (faults.talks_for_ever, 16, "reply too long"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_server_that_cannot_be_talked_to_for_the_time_of_a_reply_ends_the_load(
    fault: faults.Fault, seconds: float, cause: str, clock: Clock
) -> None:
    said = against(leaping(clock, seconds, fault), rate=100, messages=60_000, connections=1)
    assert set(said.connect_failed) == {cause}
    assert said.failed == {cause: said.offered}
    assert said.connections == said.accepted == 0


@pytest.mark.parametrize(
    ("fault", "goodbyes"),
    [
        (faults.drops_a_pipelined_quit, {"no reply to QUIT": 1}),
        (faults.answers_no_quit, {"no reply to QUIT": 4, "QUIT not waited for": 7}),
        (faults.does_no_pipelining, {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_server_that_does_not_answer_quit_is_waited_for_a_few_times_only(
    fault: faults.Fault, goodbyes: dict[str, int], clock: Clock
) -> None:
    clock.leap_after("accepted", lambda _: 3.0)  # a QUIT that left with the message waits for so long already
    began = time.monotonic()  # without the leaps
    said = against(leaping(clock, 3, fault, reply=b""), messages=11, per_connection=1, connections=1)
    assert time.monotonic() - began < 20
    assert (said.accepted, said.failed, said.connections, said.connect_failed) == (11, {}, 11, {})
    assert said.goodbye_failed == goodbyes


@contextmanager
def half_open(serves: int) -> Iterator[int]:
    """Serve the first connections, and never accept another one: the kernel finishes connect(), nobody greets."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listening:

        def serve(taken: socket.socket) -> None:
            async def talk() -> None:
                await faults.converse(*await asyncio.open_connection(sock=taken), {})

            asyncio.run(talk())

        def accept() -> None:
            for _ in range(serves):
                Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]


def test_connections_without_a_greeting_do_not_hold_the_end_of_a_load(clock: Clock) -> None:
    clock.leap_after("accepted", lambda load: 63.0 * (len(load._accepted) == 10))
    began = clock()
    with half_open(serves=1) as port:
        said = send(port=port, seconds=60, connections=4, per_connection=1_000_000, timeout=70)
    assert clock() - began < 66e9
    assert said.offered == said.accepted >= 10
    assert (said.failed, said.connections, said.connect_failed) == ({}, 1, {"no greeting": 3})


@pytest.mark.parametrize("bounds", [{"rate": 1000, "seconds": 0.02}, {"rate": 1000, "messages": 20}])
def test_messages_that_wait_for_a_greeting_when_the_time_is_over_fail_by_that_cause(
    bounds: dict[str, Any], clock: Clock
) -> None:
    clock.leap_after("_offer", lambda load: 3.0 * (load._offered == 20))
    with half_open(serves=0) as port:
        said = send(port=port, connections=4, **bounds)
    assert (said.offered, said.failed, said.unresolved) == (20, {"no greeting": 20}, 0)
    assert (said.accepted, said.connections, said.connect_failed) == (0, 0, {"no greeting": 4})


def test_a_connection_that_later_ones_have_overtaken_is_given_up_while_the_load_goes_on(clock: Clock) -> None:
    clock.leap_after("accepted", lambda load: 6.0 * (len(load._accepted) == 4))
    order, given_up = count(1), asyncio.Event()
    in_time: list[bool] = []

    async def server(reader: faults.Reader, writer: faults.Writer) -> None:
        if (number := next(order)) == 1:
            await faults.never_greets(reader, writer)
            given_up.set()
            return
        if number == 4:  # two messages went over each of the two between
            with suppress(TimeoutError):
                await asyncio.wait_for(given_up.wait(), 3)
            in_time.append(given_up.is_set())
        await faults.does_no_pipelining(reader, writer)

    said = against(server, messages=30, connections=2, per_connection=2, timeout=60)
    assert in_time == [True]
    assert (said.accepted, said.failed, said.connect_failed) == (30, {}, {"no greeting": 1})


def test_messages_that_came_due_while_the_generator_stood_still_are_counted_when_it_ends(clock: Clock) -> None:
    clock.leap_after("_open_more", lambda load: 3.0 * (load._opening == 1))
    with half_open(serves=0) as port:
        said = send(port=port, connections=1, rate=10, messages=20)
    assert (said.offered, said.failed) == (20, {"no greeting": 20})


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """Hold a port that nobody listens on and nobody else can have."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held


def test_refused_connects_are_tried_again_but_not_in_a_busy_loop(deaf: socket.socket) -> None:
    said = send(port=deaf.getsockname()[1], rate=1000, messages=100, connections=2, timeout=0.1)
    assert said.failed == {"ConnectionRefusedError": said.offered}
    assert set(said.connect_failed) == {"ConnectionRefusedError"}
    assert said.connect_failed["ConnectionRefusedError"] < 20
    assert said.cpu_s < 0.1


def test_a_server_that_comes_back_gets_all_its_mail(deaf: socket.socket) -> None:
    async def late_server() -> Any:
        port = deaf.getsockname()[1]
        load = Load(LoadOrder.from_dict({**ORDER, "port": port, "rate": 400, "messages": 40, "timeout": 5}))
        ended = asyncio.create_task(load.run())
        while not load._connect_failed:  # noqa: ASYNC110  nobody is told of it
            await asyncio.sleep(0.001)
        async with faults.serving(faults.does_no_pipelining, deaf):
            return await ended

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        said = runner.run(late_server())
    assert (said.accepted, said.failed) == (40, {})
    assert said.connect_failed["ConnectionRefusedError"] >= 1


def test_an_interrupt_ends_it_with_an_honest_report(slow_sink: Sink) -> None:
    run = "e0e0e0e0"
    slow_sink.ask("expect", run, "1")
    order = LoadOrder(
        run=run, target="127.0.0.1", port=slow_sink.port, domains=DOMAINS, rate=200, seconds=600, connections=2
    )
    process = start_load(order)
    while slow_sink.next_line().get("complete") != run:
        pass
    process.send_signal(signal.SIGTERM)
    said = report_of(process)
    assert said.ended - said.started < 5
    assert said.offered == said.accepted + sum(said.failed.values())
    assert set(said.failed) == {"interrupted"}
    delivered = set(numbers(slow_sink.report(run).delivered_set))
    accepted = set(numbers(said.accepted_set))
    assert accepted <= delivered <= accepted | set(numbers(said.unresolved_set))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"rate": 0}, "rate: needed a number"),
        ({"rate": float("nan")}, "rate: needed a number"),
        ({"rate": 1e6, "seconds": 1000}, "messages at most"),
        ({"messages": None}, "would never end"),
        ({"messages": 0}, "messages: needed a whole number"),
        ({"messages": True}, "messages: needed a whole number"),
        ({"seconds": -1}, "seconds: needed"),
        ({"sizes": []}, "sizes: needed a list"),
        ({"sizes": [1]}, "sizes: needed a whole number from 2"),
        ({"sizes": [10**12]}, "sizes: needed"),
        ({"sizes": [50_000_000 + n for n in range(9)]}, "all sizes together"),
        ({"sizes": ["2048"]}, "sizes: needed"),
        ({"domains": []}, "domains: needed a list"),
        ({"domains": "d0.test"}, "domains: needed a list"),
        ({"domains": ["d0.test>\r\nDATA"]}, "domains: needed names"),
        ({"domains": ["d0 test"]}, "domains: needed names"),
        ({"domains": ["a." * 130 + "test"]}, "at most 253"),
        ({"sender": "a@b>\r\n"}, "sender: needed"),
        ({"run": "x"}, "run: needed eight hex digits"),
        ({"target": "relay.test"}, "target: needed"),
        ({"target": "127.0.0.1/24"}, "target: needed"),
        ({"target": 2130706433}, "target: needed"),
        ({"target": "127.0.0.0/30"}, "an address for each of 8 domains; found 4"),
        ({"port": 0}, "port: needed"),
        ({"connections": 0}, "connections: needed"),
        ({"per_connection": 0}, "per_connection: needed"),
        ({"timeout": 0}, "timeout: needed"),
        ({"stall_at": -1}, "stall_at: needed"),
        ({"stall_for": None}, "stall_for: needed"),
        ({"speed": 1}, "unexpected keyword argument 'speed'"),
    ],
)
def test_a_bad_order_is_refused_with_a_reason(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(BadOrder) as refusal:
        read_order(json.dumps({**ORDER, **wrong}))
    assert text in str(refusal.value)


@pytest.mark.parametrize(
    ("rate", "seconds", "messages"), [(8.3, 30.0, 249), (0.1, 30.0, 3), (50, 3, 150), (0.3, 1.0, 1), (10.0, 0.31, 4)]
)
def test_the_messages_of_a_rate_are_those_due_before_the_end(rate: float, seconds: float, messages: int) -> None:
    order = LoadOrder.from_dict({**ORDER, "messages": None, "rate": rate, "seconds": seconds})
    assert Load(order)._limit == messages


def test_domains_may_come_from_a_file(sink: Sink, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = sink.begin()
    names = tmp_path / "domains"
    names.write_text("d3.test\nd5.test\n")
    order = {"run": run, "target": "127.0.0.1", "port": sink.port, "messages": 6}
    assert load_module.main(["--domains", str(names), json.dumps(order)]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["report"]["accepted"] == 6
    assert (sink.report(run).domains, sink.report(run).delivered) == (0, 6)


@pytest.mark.parametrize("arguments", [["{"], ["[]"], ["{}"], ["--domains", "/no/such/file", "{}"]])
def test_a_bad_command_line_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert load_module.main(arguments) == 2
    assert capsys.readouterr().err


def test_a_stall_of_the_generator_shows_in_response_time_only(
    sink: Sink, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", clock.leap)
    run = sink.begin()
    said = send(run=run, port=sink.port, rate=200, seconds=2.25, stall_at=0.05, stall_for=2.0)
    assert said.offered == said.accepted == sink.report(run).delivered == 450
    assert said.stalled_s > 1.9
    assert at(said.response, 50) > 500
    assert at(said.response, 99) > 1500
    assert at(said.service, 90) < 1000, "less than half of the stall"
    assert said.late > 350
    while not (ticks := ticks_of(sink, run)) or ticks[-1]["delivered"] < 450:
        sink.next_line()
    assert all(now["delivered"] >= before["delivered"] for before, now in pairwise(ticks))


def ticks_of(sink: Sink, run: str) -> list[dict[str, Any]]:
    """Return what the sink has said of a run."""
    return [line["tick"] for line in sink.heard if line.get("tick", {}).get("run") == run]
