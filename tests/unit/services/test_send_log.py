"""The copy of Postfix's log that goes to an inbox: images/postfix/send-log keeps lines in files, and sends them."""

import itertools
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SEND_LOG = str(Path(__file__).parents[3] / "images" / "postfix" / "send-log")


@contextmanager
def sender(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start send-log for a receiver on this port; its standard input is open."""
    command = [SEND_LOG, "127.0.0.1", str(port), str(folder / "copy")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def write(process: subprocess.Popen[bytes], octets: bytes) -> None:
    assert process.stdin
    process.stdin.write(octets)
    process.stdin.flush()


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


def port(receiver: socket.socket) -> int:
    return int(receiver.getsockname()[1])


@contextmanager
def connection(receiver: socket.socket) -> Iterator[Iterator[bytes]]:
    """Accept a connection, and give its lines."""
    accepted, _ = receiver.accept()
    accepted.settimeout(20)
    with accepted, accepted.makefile("rb") as lines:
        yield iter(lines)


def numbered(line: bytes) -> tuple[int, bytes]:
    number, _, text = line.split(b" ", 2)
    return int(number), text


def test_the_log_is_sent_again_from_its_start_after_each_end_of_a_connection(
    receiver: socket.socket, tmp_path: Path
) -> None:
    with sender(port(receiver), tmp_path) as process:
        write(process, b"a\nb\n")
        with connection(receiver) as lines:
            log = next(lines)
            assert [numbered(next(lines)) for _ in range(2)] == [(1, b"a\n"), (2, b"b\n")]
        with connection(receiver) as lines:
            assert next(lines) == log
            assert [numbered(next(lines)) for _ in range(2)] == [(1, b"a\n"), (2, b"b\n")]
            write(process, b"c\nhalf a ")
            assert numbered(next(lines)) == (3, b"c\n")
            process.communicate(b"line\n", timeout=20)
            assert [numbered(line) for line in lines] == [(4, b"half a line\n")]


def test_an_end_of_the_input_is_in_time_for_a_last_connection(receiver: socket.socket, tmp_path: Path) -> None:
    with sender(port(receiver), tmp_path) as process:
        with connection(receiver) as lines:
            next(lines)
        process.communicate(b"last\n", timeout=20)
        with connection(receiver) as lines:
            next(lines)
            assert numbered(next(lines)) == (1, b"last\n")


def test_no_receiver_and_a_receiver_that_does_not_read_hold_up_nothing(receiver: socket.socket, tmp_path: Path) -> None:
    with sender(port(receiver), tmp_path) as process:
        process.communicate((b"x" * 1000 + b"\n") * 50_000, timeout=50)
    receiver.close()
    with sender(1, tmp_path) as process:
        process.communicate(b"a\n", timeout=20)
        assert process.returncode == 0


def test_the_files_are_bounded_and_numbers_show_what_is_missing(receiver: socket.socket, tmp_path: Path) -> None:
    lines, late_port = 80_000, port(receiver)
    receiver.close()
    with sender(late_port, tmp_path) as process:
        write(process, (b"x" * 1000 + b"\n") * lines + b"last\n")
        with socket.create_server(("127.0.0.1", late_port)) as late, connection(late) as received:
            next(received)
            found = map(numbered, received)
            numbers = [number for number, _ in itertools.takewhile(lambda line: line[1] != b"last\n", found)]
        files = list(tmp_path.iterdir())
        assert numbers == list(range(numbers[0], lines + 1))
        assert 1 < numbers[0] < lines / 2
        assert len(files) == 2
        assert sum(file.stat().st_size for file in files) < 65 << 20


def test_a_long_line_is_cut(receiver: socket.socket, tmp_path: Path) -> None:
    with sender(port(receiver), tmp_path) as process, connection(receiver) as lines:
        write(process, b"x" * 100_000 + b"\nnext\n")
        next(lines)
        assert numbered(next(lines)) == (1, b"x" * 8192 + b"\n")
        assert numbered(next(lines)) == (2, b"next\n")


def test_a_file_that_cannot_be_written_ends_it_with_the_reason(tmp_path: Path) -> None:
    with sender(1, tmp_path / "none") as process:
        _, reason = process.communicate(timeout=20)
    assert reason.startswith(b"send-log: the copy of the log ends here: ")
    assert b"No such file" in reason


def test_it_needs_no_more_of_perl_than_every_debian_has(tmp_path: Path) -> None:
    only_base = "BEGIN { @INC = grep { m{/perl-base$} } @INC; exit 99 unless @INC } do shift @ARGV; die $@ if $@"
    command = ["perl", "-e", only_base, SEND_LOG, "127.0.0.1", "1", str(tmp_path / "copy")]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    if done.returncode == 99:
        pytest.skip("this Perl does not tell what perl-base has: it is not Debian's")
    assert done.returncode == 0
