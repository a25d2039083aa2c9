"""The wheel, as whoever installs it without a checkout has it."""

import os
import subprocess
import sys
import zipfile
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
    packed = site / "orchestrator/_data"
    assert ran.stdout.splitlines() == [str(packed / "images"), images.digest("agents")]
    for folder in ("images", "compose"):
        assert sorted(p.relative_to(packed) for p in (packed / folder).rglob("*") if p.is_file()) == sorted(
            p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".crt"
        )
