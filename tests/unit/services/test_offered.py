"""Reading how another generator went: a script run in a shell, here in this machine's own."""

import subprocess

import pytest

from orchestrator.services import offered
from orchestrator.services.offered import Offered


def went(*command: str, seconds: float = 5.0) -> Offered:
    """Run a command as a generator is run in its node."""
    done = subprocess.run(offered.script(command, seconds, 0.01), capture_output=True, text=True, check=True)
    return offered.read(done.stdout.splitlines(), run="0badcafe", node="postal", command=command)


def test_a_generator_that_dies_of_a_signal_is_told_from_one_that_went_on() -> None:
    died = went("sh", "-c", "for i in 1 2 3; do echo cannot write >&2; done; kill -SEGV $$")
    assert (died.status, died.cut) == (139, False)
    assert {line.text: line.count for line in died.lines if "fault" not in line.text} == {"cannot write": 3}
    assert 0 <= died.seconds < 5
    went_on = went("sleep", "5", seconds=0.05)
    assert (went_on.status, went_on.cut) == (124, True)


def test_a_status_that_timeout_gives_too_is_the_generators_own() -> None:
    for status in (124, 137):
        ended = went("sh", "-c", f"echo timeout: sending signal TERM to command; exit {status}")
        assert (ended.status, ended.cut) == (status, False)
        assert [line.text for line in ended.lines] == ["timeout: sending signal TERM to command"]


def test_a_generator_that_ignores_the_signal_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offered, "_SCRIPT", offered._SCRIPT.replace("--kill-after=5", "--kill-after=0.05"))
    deaf = went("sh", "-c", "trap '' TERM; echo on; sleep 5", seconds=0.05)
    assert (deaf.status, deaf.cut, [line.text for line in deaf.lines if line.text != "Killed"]) == (137, True, ["on"])


def test_what_it_prints_without_end_is_kept_once() -> None:
    lines = ["testbed-began 10.5", *(f"line {n}" for n in range(1000)), *["line 3"] * 10**4]
    read = offered.read(
        [*lines, "testbed-ended 12.5 1", "0m0.100000s 0m0.1s", "1m0.25s 0m1.5s"], run="", node="", command=()
    )
    assert len(read.lines) == offered.MOST_LINES
    assert read.lines[3].count == 10_001
    assert read.seconds == 2.0
    assert read.cpu_s == pytest.approx(61.75)
    assert Offered.from_dict(read.to_dict()) == read


def test_a_script_without_an_end_says_nothing() -> None:
    with pytest.raises(ValueError, match="nothing is known"):
        offered.read(["testbed-began 10.5"], run="", node="", command=("postal",))


@pytest.mark.parametrize("values", [{"started": "x"}, {"arrived": []}, {"lines": [{"t": 1.0, "text": 7, "count": 1}]}])
def test_a_value_of_another_type_is_refused(values: dict[str, object]) -> None:
    whole = {**went("true").to_dict(), "lines": []}
    assert Offered.from_dict(whole).status == 0
    with pytest.raises(TypeError, match="was needed"):
        Offered.from_dict(whole | values)
