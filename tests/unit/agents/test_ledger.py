"""The accounting, held against plain sets and counters."""

import time
from collections import Counter
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agents.content import Content
from orchestrator.agents.histogram import MOST_US, Histogram, decode
from orchestrator.agents.ledger import OUTSIDE, Books, SequenceSet
from orchestrator.agents.wire import MAX_SEQ, Composer
from orchestrator.measurements.accounting import bitmap

RUN, OTHER, UNKNOWN = "0badcafe", "0badf00d", "deadbeef"
DOMAINS = ["d0.test", "d1.test", "d2.test"]
COMPOSERS = {run: Composer(run, "load@d0.test", DOMAINS, [64]) for run in (RUN, OTHER, UNKNOWN)}


def arrived(run: str, seq: int, *, whole: bool = True) -> Content:
    """Return a message as the sink has read it."""
    now = time.monotonic_ns()
    data = COMPOSERS[run].content(seq, 0, now, now)
    content = Content()
    assert content.feed(data if whole else data.replace(b"fox", b"fax")) == b""
    return content


@given(st.lists(st.integers(0, 50_000), max_size=60))
def test_a_sequence_set_is_a_set(numbers: list[int]) -> None:
    made = SequenceSet()
    fresh = [made.add(number) for number in numbers]
    assert sum(fresh) == len(made) == len(set(numbers))
    assert list(made) == sorted(set(numbers))
    assert bitmap(made.encode()) == sum(1 << number for number in set(numbers))


@given(
    st.lists(
        st.tuples(st.sampled_from([RUN, OTHER, UNKNOWN]), st.integers(0, 9), st.booleans(), st.integers(-1, 2)),
        max_size=40,
    )
)
def test_every_message_is_accounted_for_once(mail: list[tuple[str, int, bool, int]]) -> None:
    books = Books(DOMAINS, IPv4Network("198.18.16.0/30"))
    for run in (RUN, OTHER):
        books.begin(run)
    good: Counter[tuple[str, int]] = Counter()
    bad: Counter[tuple[str, int]] = Counter()
    astray: Counter[str] = Counter()
    domains: dict[str, set[int]] = {RUN: set(), OTHER: set(), UNKNOWN: set()}
    for run, seq, whole, recipient in mail:
        books.enter(arrived(run, seq, whole=whole), [recipient], 1)
        (good if whole else bad)[run, seq] += 1
        astray[run] += recipient != 1
        domains[run] |= {recipient} - {-1}
    for run in (RUN, OTHER):
        report = books.ledger(run).report()
        copies = {seq: count for (of, seq), count in good.items() if of == run}
        assert report.delivered == len(copies)
        assert report.duplicated == sum(copies.values()) - len(copies)
        assert report.corrupted == sum(count for (of, _), count in bad.items() if of == run)
        assert report.misrouted == astray[run]
        assert report.foreign == sum(run == UNKNOWN for run, *_ in mail)
        assert report.domains == len(domains[run])
        assert bitmap(report.delivered_set) == sum(1 << seq for seq in copies)
        assert decode(report.transit).get_total_count() == report.delivered
        assert (report.first is None) == (report.last is None) == (not any(of == run for of, *_ in mail))


def test_foreign_mail_counts_from_the_start_of_a_run() -> None:
    books = Books()
    books.begin(RUN)
    books.enter(arrived(UNKNOWN, 0), [], None)
    books.begin(OTHER)
    assert books.ledger(RUN).report().foreign == 1
    assert books.ledger(OTHER).report().foreign == 0


def test_a_garbled_sequence_number_is_no_reason_to_allocate() -> None:
    books = Books()
    books.begin(RUN)
    books.enter(arrived(RUN, MAX_SEQ), [], None)
    report = books.ledger(RUN).report()
    assert (report.delivered, report.corrupted) == (0, 1)


@pytest.mark.parametrize("run", ["", "0BADCAFE", "0badcafe0", "../../etc"])
def test_a_run_id_is_eight_hex_digits(run: str) -> None:
    with pytest.raises(ValueError, match="eight hex digits"):
        Books().begin(run)


def test_a_run_begins_once_and_before_its_mail() -> None:
    books = Books()
    books.begin(RUN)
    with pytest.raises(ValueError, match="begun before"):
        books.begin(RUN)
    with pytest.raises(ValueError, match="unknown here"):
        books.ledger(OTHER)


def test_an_expected_number_is_announced_once() -> None:
    books = Books()
    heard: list[str] = []
    books.begin(RUN).expect(2, lambda: heard.append("complete"))
    for seq in (0, 0, 1, 2):
        assert len(heard) == (seq > 1)
        books.enter(arrived(RUN, seq), [], None)
    assert heard == ["complete"]


def test_an_address_tells_its_domain() -> None:
    books = Books(DOMAINS, IPv4Network("198.18.16.0/20"))
    assert books.dialled("198.18.16.0") == books.dialled("2001:2::c612:1000") == 0
    assert books.dialled("198.18.16.2") == books.dialled("2001:2::c612:1002") == 2
    assert Books(DOMAINS).dialled("198.18.16.0") is None


@pytest.mark.parametrize(
    "address", ["198.18.0.3", "198.18.15.255", "198.18.16.3", "172.17.0.2", "2001:2::c612:3", "::1"]
)
def test_an_address_that_is_no_domains_is_outside(address: str) -> None:
    books = Books(DOMAINS, IPv4Network("198.18.16.0/20"))
    assert books.dialled(address) == OUTSIDE
    books.begin(RUN)
    books.enter(arrived(RUN, 0), [0], books.dialled(address))
    report = books.ledger(RUN).report()
    assert (report.delivered, report.outside, report.misrouted, report.domains) == (1, 1, 0, 0)


@given(st.lists(st.integers(-5000, 8 * 10**12), min_size=1, max_size=30))
def test_a_histogram_counts_as_the_library_does(durations: list[int]) -> None:
    ours, library = Histogram(), Histogram().library()
    for ns in durations:
        ours.record_ns(ns)
        library.record_value(min(max(ns // 1000, 1), MOST_US))
    again = decode(ours.encode())
    assert again.get_total_count() == len(durations)
    wanted = [0.1, 25, 50, 90, 99, 100]
    assert again.get_percentile_to_value_dict(wanted) == library.get_percentile_to_value_dict(wanted)


def test_a_histogram_never_has_more_keys_than_buckets() -> None:
    histogram = Histogram()
    for us in range(1, 3_600_000_000, 90_001):
        histogram.record_ns(us * 1000)
    assert len(histogram._counts) < 23_552


def test_no_histogram_is_refused() -> None:
    with pytest.raises(ValueError, match="no HdrHistogram"):
        decode("HISTFAAAABx4nJNpmSz")
