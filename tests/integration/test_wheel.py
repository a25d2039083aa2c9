"""The wheel, as whoever installs it without a checkout has it."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from hatchling.build import build_wheel

from orchestrator.hosts import images

ROOT = Path(__file__).parents[2]


def test_the_wheel_carries_images_and_compose_files_and_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build_wheel(str(tmp_path))
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = "from orchestrator.hosts import images; print(images.resources('images')); print(images.digest('agents'))"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (site / "orchestrator" / "py.typed").is_file()  # PEP 561
    (entry,) = (one for found in distributions(path=[str(site)]) for one in found.entry_points.select(group="pytest11"))
    assert (site / f"{entry.value}.py").is_file()
    packed = site / "orchestrator/_data"
    assert ran.stdout.splitlines() == [str(packed / "images"), images.digest("agents")]
    for folder in ("images", "compose"):
        assert sorted(p.relative_to(packed) for p in (packed / folder).rglob("*") if p.is_file()) == sorted(
            p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".crt"
        )


@pytest.mark.docker
@pytest.mark.long
def test_the_test_of_the_readme_passes_with_the_wheel_and_pytest_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build_wheel(str(tmp_path))
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    wanted = tmp_path / "requirements.txt"
    wanted.write_text((ROOT / "requirements.txt").read_text() + _pinned("pytest", "iniconfig", "packaging", "pluggy"))
    pip: tuple[str | Path, ...] = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "--require-hashes", "-r", wanted], check=True, cwd=tmp_path)
    subprocess.run([*pip, "--no-index", "--no-deps", wheel], check=True, cwd=tmp_path)
    (example,) = re.findall(r"```python\n(def test_.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(example.splitlines()) == 3
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_mail.py").write_text(example)
    command: list[str | Path] = [python, "-m", "pytest", "--testbed-engine=require", "--durations=0"]
    ran = subprocess.run(command, cwd=tmp_path / "tests", check=False, capture_output=True, text=True)
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr


def _pinned(*names: str) -> str:
    """Return the lines of requirements-dev.txt about these packages, with their hashes."""
    pins = re.findall(r"^\S+==(?:.*\\\n)*.*\n", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    found = {pin.partition("==")[0]: pin for pin in pins}
    return "".join(found[name] for name in names)
