"""What stands between Postfix and the engine: images/postfix/gather passes on what a command prints, in pieces."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

GATHER = Path(__file__).parents[3] / "images" / "postfix" / "gather"


def start(script: str, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([GATHER, *options, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@contextmanager
def gathered(script: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script under gather, and end what is left of it."""
    with start(script, *options) as process:
        try:
            yield process
        finally:
            process.kill()


def test_every_byte_comes_out_in_order() -> None:
    with gathered("seq 200000") as process:
        out, _ = process.communicate(timeout=20)
    assert out == b"".join(b"%d\n" % n for n in range(1, 200_001))


def test_lines_that_come_quickly_are_one_piece() -> None:
    lines = 200
    with gathered(f"for i in $(seq {lines}); do echo $i; done; exec cat") as process:
        assert process.stdout
        pieces = [os.read(process.stdout.fileno(), 1 << 20)]  # the first comes at once
        while sum(piece.count(b"\n") for piece in pieces) < lines:
            pieces.append(os.read(process.stdout.fileno(), 1 << 20))
    assert len(pieces) < lines / 4


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 78", 78), ("kill -9 $$", 137), ("exec >&-; exit 3", 3)]
)
def test_the_status_of_the_command_is_told(script: str, status: int) -> None:
    with gathered(script) as process:
        assert process.wait(20) == status


def test_a_signal_reaches_the_command_and_its_last_words_come_out() -> None:
    with gathered("trap 'echo bye; exit 5' TERM; echo ready; while :; do read _; done") as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"bye\n"
        assert process.wait(20) == 5


def test_who_outlives_the_command_does_not_keep_the_container_up() -> None:
    with gathered("exec 3<&0; (read _ <&3) & echo last; exit 4") as process:  # it has the pipe, and nobody writes to it
        assert process.stdout
        assert process.stdout.read() == b"last\n"
        assert process.wait(20) == 4


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


def options(receiver: socket.socket, folder: Path) -> tuple[str, ...]:
    """Return the options of gather for a copy to this receiver."""
    address, port = receiver.getsockname()
    return ("--copy", address, str(port), str(folder / "copy"))


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


def test_a_copy_is_sent_again_from_its_start_after_each_end_of_a_connection(
    receiver: socket.socket, tmp_path: Path
) -> None:
    with gathered(
        "echo a; echo b; read _; echo c; printf 'half a '; read _; echo line", *options(receiver, tmp_path)
    ) as p:
        with connection(receiver) as lines:
            log = next(lines)
            assert [numbered(next(lines)) for _ in range(2)] == [(1, b"a\n"), (2, b"b\n")]
        with connection(receiver) as lines:
            assert next(lines) == log
            assert [numbered(next(lines)) for _ in range(2)] == [(1, b"a\n"), (2, b"b\n")]
            assert p.stdin
            p.stdin.write(b"\n")
            p.stdin.flush()
            assert numbered(next(lines)) == (3, b"c\n")
            out, _ = p.communicate(b"\n", timeout=20)
            assert [numbered(line) for line in lines] == [(4, b"half a line\n")]
    assert out == b"a\nb\nc\nhalf a line\n"


def test_no_receiver_and_a_receiver_that_does_not_read_hold_up_nothing(receiver: socket.socket, tmp_path: Path) -> None:
    script = f"yes {'x' * 1000} | head -n 50000"
    with gathered(script, *options(receiver, tmp_path)) as reads_nothing:
        assert len(reads_nothing.communicate(timeout=50)[0]) == 50_000 * 1001
    receiver.close()
    with gathered("echo a; exit 3", "--copy", "127.0.0.1", "1", str(tmp_path / "other")) as nobody:
        assert nobody.communicate(timeout=20)[0] == b"a\n"
        assert nobody.returncode == 3


def test_a_copy_is_bounded_and_numbers_tell_what_is_missing(receiver: socket.socket, tmp_path: Path) -> None:
    lines, receiver_port = 80_000, receiver.getsockname()[1]
    receiver.close()
    script = f"yes {'x' * 1000} | head -n {lines}; echo last; read _"
    with gathered(script, "--copy", "127.0.0.1", str(receiver_port), str(tmp_path / "copy")) as process:
        assert process.stdout
        for line in process.stdout:
            if line == b"last\n":
                break
        with socket.create_server(("127.0.0.1", receiver_port)) as late, connection(late) as received:
            next(received)
            numbers = [numbered(next(received))[0]]
            while numbers[-1] <= lines:
                numbers.append(numbered(next(received))[0])
        files = list(tmp_path.iterdir())
    assert numbers == list(range(numbers[0], lines + 2))
    assert 1 < numbers[0] < lines / 2
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < 65 << 20


def test_it_needs_no_more_of_perl_than_every_debian_has() -> None:
    only_base = "BEGIN { @INC = grep { m{/perl-base$} } @INC; exit 99 unless @INC } do shift @ARGV; die $@ if $@"
    done = subprocess.run(["perl", "-e", only_base, GATHER, "true"], check=False)
    if done.returncode == 99:
        pytest.skip("this Perl does not tell what perl-base has: it is not Debian's")
    assert done.returncode == 0
