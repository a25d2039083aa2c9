"""Reading how another generator went: a script run in a shell, here in this machine's own."""

import subprocess

import pytest
from pydantic import ValidationError

from orchestrator.agents.contract import LoadOrder, LoadReport
from orchestrator.errors import InvalidInput
from orchestrator.services import Rendered, Site, third_party
from orchestrator.services.third_party import Settings, ThirdParty


class Program(ThirdParty):
    """A generator that runs any command."""

    burst_s = 0.01

    def __init__(self, *command: str) -> None:
        self._command = command

    def program(self, order: LoadOrder) -> tuple[str, ...]:  # noqa: ARG002
        """Return the command."""
        return self._command

    def render(self, site: Site[Settings]) -> Rendered:
        """No node is needed."""
        raise NotImplementedError


def went(*command: str, seconds: float = 5.0) -> LoadReport:
    """Run a command as a generator is run in its node."""
    order = LoadOrder(run="0badcafe", seconds=seconds)
    done = subprocess.run(Program(*command).command(order), capture_output=True, text=True, check=True)
    report = read(done.stdout.splitlines())
    assert report
    return report


def read(lines: list[str]) -> LoadReport | None:
    """Read the output of a generator."""
    return Program().read(lines, LoadOrder(run="0badcafe"), lambda _: None)


def test_a_generator_that_dies_of_a_signal_is_told_from_one_that_went_on() -> None:
    died = went("sh", "-c", "for i in 1 2 3; do echo cannot write >&2; done; kill -SEGV $$")
    assert (died.exit_status, died.cut_off) == (139, False)
    assert {line.text: line.count for line in died.printed if "fault" not in line.text} == {"cannot write": 3}
    assert 0 <= died.seconds < 5
    went_on = went("sleep", "5", seconds=0.05)
    assert (went_on.exit_status, went_on.cut_off) == (124, True)


def test_a_status_that_timeout_gives_too_is_the_generators_own() -> None:
    for status in (124, 137):
        ended = went("sh", "-c", f"echo timeout: sending signal TERM to command; exit {status}")
        assert (ended.exit_status, ended.cut_off) == (status, False)
        assert [line.text for line in ended.printed] == ["timeout: sending signal TERM to command"]


def test_a_generator_that_ignores_the_signal_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(third_party, "_SCRIPT", third_party._SCRIPT.replace("--kill-after=5", "--kill-after=0.05"))
    deaf = went("sh", "-c", "trap '' TERM; echo on; sleep 5", seconds=0.05)
    assert (deaf.exit_status, deaf.cut_off, [line.text for line in deaf.printed if line.text != "Killed"]) == (
        137,
        True,
        ["on"],
    )


def test_a_last_line_without_a_newline_is_a_line() -> None:
    ended = went("sh", "-c", "echo first; printf last; exit 3")
    assert (ended.exit_status, [line.text for line in ended.printed]) == (3, ["first", "last"])


def test_what_it_prints_without_end_is_kept_once() -> None:
    lines = ["testbed-began 10.5", *(f"line {n}" for n in range(1000)), *["line 3"] * 10**4]
    report = read([*lines, "testbed-ended 12.5 1", "0m0.100000s 0m0.1s", "1m0.25s 0m1.5s"])
    assert report
    assert len(report.printed) == third_party.MOST_LINES
    assert report.printed[3].count == 10_001
    assert report.seconds == 2.0
    assert report.cpu_s == pytest.approx(61.75)
    assert LoadReport.from_dict(report.to_dict()) == report


def test_a_script_without_an_end_gives_no_report() -> None:
    assert read(["testbed-began 10.5"]) is None


def test_a_load_without_a_duration_is_refused() -> None:
    with pytest.raises(InvalidInput, match="duration"):
        Program("postal").command(LoadOrder(messages=5))


@pytest.mark.parametrize(
    "values",
    [{"started": "x"}, {"arrived": []}, {"printed": [{"t": 1.0, "text": 7, "count": 1}]}, {"printed": [7]}],
)
def test_a_value_of_another_type_is_refused(values: dict[str, object]) -> None:
    whole = went("true").to_dict()
    assert LoadReport.from_dict(whole).exit_status == 0
    with pytest.raises(ValidationError, match=next(iter(values))):
        LoadReport.from_dict(whole | values)
