"""Lines of the kernel's log, as a helper reads them."""

import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Output
from orchestrator.up.collect import kernel
from tests.unit.hosts.fake import FakeHost

OVERFLOW = "neighbour: arp_cache: neighbor table overflow!"
PRINTED = f"""\
17600.50
1795411700.500000000
<6>[17590.445175] {OVERFLOW}
<6>[17603.445175][   T42] {OVERFLOW}
[    1.000000] {OVERFLOW}
no line of the kernel's
"""


def engine(status: int = 0, stdout: str = PRINTED) -> tuple[FakeHost, list[ContainerSpec]]:
    asked: list[ContainerSpec] = []

    def answer(spec: ContainerSpec, _command: tuple[str, ...]) -> Output:
        asked.append(spec)
        return Output(status=status, stdout=stdout, stderr="dmesg: read kernel buffer failed: Operation not permitted")

    return FakeHost(answer), asked


def test_lines_have_a_time_and_the_words_of_the_kernel() -> None:
    fake, asked = engine()
    lines = kernel.lines(fake, OVERFLOW)
    assert [(line.stamp, line.text) for line in lines] == [
        ("17590.445175", OVERFLOW),
        ("17603.445175", OVERFLOW),
        ("1.000000", OVERFLOW),
    ]
    assert [line.t for line in lines] == pytest.approx([1795411690.445175, 1795411703.445175, 1795394101.0])
    assert [(spec.capabilities, spec.host_network) for spec in asked] == [(("SYSLOG",), False)]
    assert "testbed.owner" in asked[0].labels


def test_only_what_an_earlier_reading_did_not_hold_is_newer() -> None:
    lines = kernel.lines(engine()[0], OVERFLOW)
    later = engine(stdout=PRINTED.replace("17600.50", "17600.49"))[0]
    assert kernel.lines(later, OVERFLOW, lines[:1]) == lines[1:]
    assert kernel.lines(later, OVERFLOW, lines) == []


def test_a_log_that_may_not_be_read_is_told() -> None:
    with pytest.raises(EngineFailed, match="not permitted"):
        kernel.lines(engine(status=1, stdout="")[0], OVERFLOW)
