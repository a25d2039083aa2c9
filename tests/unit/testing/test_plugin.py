"""The pytest plugin without an engine: what it imports, its options, and what it says when there is no bed."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from orchestrator.testing.plugin import report
from orchestrator.testing.plugin.workers import Folder, Record

pytest_plugins = ["pytester"]

TEST = "def test_mail(mail_bed): ...\n"


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests in the tests the plugins of this environment."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_testbed")


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    (found,) = entry_points(group="pytest11", name="testbed")
    assert found.value == "pytest_testbed"


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.delenv("CI", raising=False)


def test_nothing_of_testbed_is_imported_before_a_test_uses_a_bed(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys
        from orchestrator.testing import mail_bed_fixture
        mail_bed = mail_bed_fixture(scope="module")

        def pytest_unconfigure():
            print("imported:", sorted({"docker", "pydantic", "orchestrator.up", "orchestrator.hosts"} & {*sys.modules}))
        """
    )
    pytester.makepyfile(TEST)
    result = pytester.runpytest_subprocess("--collect-only", "-s")
    result.stdout.fnmatch_lines(["*<Function test_mail>*", "imported: []*"])


def test_a_package_of_a_project_called_orchestrator_works_and_the_fixtures_say_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**{"orchestrator/__init__": "name = 'of the project'"})
    pytester.makepyfile(
        f"""
        import orchestrator
        def test_of_the_project(): assert orchestrator.name == "of the project"
        {TEST}
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"found:  {pytester.path}/orchestrator, another package of that name, *", "do: *"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("ci", "option", "outcome"),
    [("", "", "skipped"), ("true", "", "errors"), ("true", "skip", "skipped"), ("", "require", "errors")],
)
def test_without_an_engine_a_test_is_skipped_or_fails_by_choice(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, option: str, outcome: str
) -> None:
    monkeypatch.setenv("CI", ci)
    pytester.makepyfile(TEST)
    result = pytester.runpytest("-rs", *([f"--testbed-engine={option}"] if option else []))
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*no container engine for the bed: *no.sock*"])


@pytest.mark.usefixtures("no_engine")
def test_a_bed_file_with_an_error_fails_the_test_with_the_three_lines(pytester: pytest.Pytester) -> None:
    """The bed is read before an engine is asked for: an error in it shows on every machine."""
    pytester.makefile(".yaml", bed="name: [")
    pytester.makeconftest(
        "from orchestrator.testing import mail_bed_fixture\nmail_bed = mail_bed_fixture(bed='bed.yaml')"
    )
    pytester.makepyfile(TEST)
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["needed: *", "found:  *", "do:     *"])


@pytest.mark.parametrize("setting", ["mail_bed_workers=some", "mail_bed_scope=galaxy"])
def test_a_wrong_setting_is_named(pytester: pytest.Pytester, setting: str) -> None:
    pytester.makepyfile(TEST)
    result = pytester.runpytest("-o", setting)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    name, _, value = setting.partition("=")
    result.stderr.fnmatch_lines([f"ERROR: {name}: needed: * or *; found: '{value}'"])


def test_the_folder_of_a_controller_keeps_records_of_beds(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.locked("mail_bed mail"):
        assert folder.read("mail_bed mail") is None
        folder.write("mail_bed mail", Record(id="0badcafe", note="up", shared=True))
    with folder.locked("mail_bed other"):
        folder.write("mail_bed other", Record(note="its bring-up failed"))
    assert Folder(tmp_path).read("mail_bed mail") == Record(id="0badcafe", note="up", shared=True)
    assert [record.id for record in folder.records()] == ["0badcafe"]
    assert not folder.failed("0badcafe")
    folder.note_failure("0badcafe")
    assert folder.failed("0badcafe")


def test_a_report_is_bounded_and_shows_control_characters() -> None:
    found = report.Evidence(texts={"relay.log": [f"{n} \x1b[31m\x00" + "x" * 10_000 for n in range(1000)]}, messages=[])
    ((title, text),) = found.sections()
    assert title == "testbed: relay.log, the last 40 of 1000 lines"
    assert text.startswith(r"960 \x1b[31m\x00x")
    assert len(text) < 20_000


def test_folders_of_tests_have_names_that_every_file_system_takes() -> None:
    names = [
        report.folder_name(test) for test in ("a/test_b.py::test[x/y]", "a/test_b.py::test[x:y]", "::" + "é" * 999)
    ]
    assert names[0].startswith("a-test_b.py-test-x-y-")
    assert len({*names}) == 3
    assert all(name.isascii() and "/" not in name and len(name) < 140 for name in names)
