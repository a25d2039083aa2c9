"""The examples run as they stand, away from this project's settings; and many at a time on one bed."""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.build import build_wheel

from orchestrator.hosts import Host, cleaning
from tests.integration import npm
from tests.integration.command import TESTBED, answer
from tests.integration.traces import traces

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SUITE = ("pytest", "django", "flask", "mx_failover", "greylisting")
"""Those that pytest runs on one bed."""
CONFTEST = """
    from pathlib import Path

    import pytest

    def pytest_generate_tests(metafunc):
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range({repetitions}))

    @pytest.fixture(autouse=True)
    def bed_id(mail_bed):
        Path(__file__).with_name(f"{{mail_bed.id}}.id").touch()
"""


@pytest.fixture
def folder(real_engine: Host, tmp_path: Path) -> Iterator[Path]:
    """Copy the examples; remove the beds that their sessions left."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    yield tmp_path / "examples"
    for id_ in ids(tmp_path):
        cleaning.remove_id(real_engine, id_)


def ids(folder: Path) -> list[str]:
    """Return the ids of the beds that sessions in a folder have used."""
    return [file.stem for file in folder.rglob("*.id")]


def session(folder: Path, *words: str, repetitions: int = 1, timeout: float = 250, **environment: str) -> str:
    """Run pytest on files of a folder, with the plugins of testbed and xdist alone; return its output if it passes."""
    (folder / "conftest.py").write_text(re.sub(r"(?m)^ {4}", "", CONFTEST.format(repetitions=repetitions)))
    plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_testbed,xdist.plugin", "CI": "true"}
    command = [sys.executable, "-m", "pytest", "--rootdir=.", "--durations=3", *words]
    return passed(command, folder, timeout=timeout, **plugins, **environment)


def passed(command: list[str], folder: Path, *, timeout: float = 250, **environment: str) -> str:
    """Run a command that succeeds, and return its output."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**inherited, **environment},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_examples_for_pytest_pass_on_one_bed(real_engine: Host, folder: Path) -> None:
    output = session(folder, *SUITE)
    assert re.search(r"\d+ passed in", output), output
    assert len(ids(folder)) == 1
    assert traces(real_engine, ids(folder)) == []


def test_the_example_for_unittest_passes(folder: Path) -> None:
    assert "\nOK\n" in passed([sys.executable, "-m", "unittest", "-v"], folder / "unittest")


def test_the_example_in_another_language_passes(folder: Path) -> None:
    npm.install(folder / "node")
    path = f"{TESTBED.parent}:{os.environ['PATH']}"
    assert re.search(r"pass 2\b", passed(["npm", "test"], folder / "node", PATH=path))
    assert [one["bed"] for one in answer("ps") if one["bed"].startswith("node-")] == []


# ------------------------------------------------------------------------------------------------------------ CI files


def github() -> list[str]:
    """Return the commands of the file for GitHub; each step is a shell of its own."""
    (job,) = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def gitlab() -> list[str]:
    """Return the commands of the file for GitLab: one shell runs all of them."""
    (job,) = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text()).values()
    return ["\n".join(job["script"])]


def test_ci_files_save_the_evidence_that_their_tests_write() -> None:
    (on_github,) = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())["jobs"].values()
    (upload,) = [step["with"] for step in on_github["steps"] if step.get("uses", "").startswith("actions/upload-")]
    (on_gitlab,) = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text()).values()
    artifacts: dict[str, Any] = on_gitlab["artifacts"]
    assert upload["path"].split() == [*artifacts["paths"], artifacts["reports"]["junit"]] == ["evidence", "junit.xml"]
    for commands in (github(), gitlab()):
        assert "pytest --testbed-report evidence --junitxml junit.xml" in commands[-1]


@pytest.mark.long
@pytest.mark.parametrize("commands", [pytest.param(github(), id="github"), pytest.param(gitlab(), id="gitlab")])
def test_the_commands_of_a_ci_file_pass(commands: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLES / "pytest", project)
    monkeypatch.chdir(ROOT)
    build_wheel(str(project / "wheels"))
    pins = tmp_path / "pins.txt"
    pinned = "".join((ROOT / name).read_text() for name in ("requirements.txt", "requirements-dev.txt"))
    lines = re.findall(r"^\S+==\S+(?: ;[^\\\n]*)?", pinned, re.MULTILINE)
    pins.write_text("\n".join(lines))  # without their hashes, which pip would want of the wheel, too
    venv.create(tmp_path / "python", with_pip=True)  # that of the runner
    path = f"{tmp_path / 'python/bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for command in commands:
        output = passed(["bash", "-ec", command], project, PATH=path, CI="true", PIP_CONSTRAINT=str(pins))
    assert "3 passed" in output
    assert (project / "junit.xml").is_file()


# ------------------------------------------------------------------------------------------------- many, at one time


@pytest.mark.alone
@pytest.mark.long
@pytest.mark.timeout(2400)
def test_the_examples_pass_200_times_4_at_a_time(real_engine: Host, folder: Path) -> None:
    for _ in range(2):
        output = session(folder, "-n4", "--dist=each", *SUITE, repetitions=25, timeout=1200)
        assert re.search(r"= \d+ passed in", output), output
    assert len(ids(folder)) == 2
    assert traces(real_engine, ids(folder)) == []


@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
def test_four_workers_with_four_rules_see_their_own_effects(real_engine: Host, tmp_path: Path, rounds: int) -> None:
    shutil.copy(Path(__file__).with_name("effects.py"), tmp_path)
    output = session(tmp_path, "-n4", "--dist=each", "effects.py", timeout=500, EFFECTS_ROUNDS=str(rounds))
    assert f"= {4 * rounds} passed in" in output, output
    assert len(ids(tmp_path)) == 1
    assert traces(real_engine, ids(tmp_path)) == []
