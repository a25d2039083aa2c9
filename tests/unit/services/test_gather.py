"""What stands between Postfix and the engine: images/postfix/gather passes on what a command prints, in pieces."""

import os
import signal
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


def test_a_program_gets_a_copy_of_all_output_and_a_status_of_it_changes_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with gathered("seq 200000; exit 3", "--copy", f"dd of={copy} status=none") as process:
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 3
    assert copy.read_bytes() == out == b"".join(b"%d\n" % n for n in range(1, 200_001))


def test_a_program_that_ends_early_takes_nothing_from_the_output() -> None:
    with gathered("seq 200000; exit 3", "--copy", "false") as process:
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 3
    assert out.endswith(b"\n200000\n")


def test_it_needs_no_more_of_perl_than_every_debian_has() -> None:
    only_base = "BEGIN { @INC = grep { m{/perl-base$} } @INC; exit 99 unless @INC } do shift @ARGV; die $@ if $@"
    done = subprocess.run(["perl", "-e", only_base, GATHER, "--copy", "true", "true"], check=False)
    if done.returncode == 99:
        pytest.skip("this Perl does not tell what perl-base has: it is not Debian's")
    assert done.returncode == 0
