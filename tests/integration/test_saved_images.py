"""Images in a file: saved from the engine of this machine, loaded into one that has none, as on a cold CI runner."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ExitCode
from orchestrator.hosts import images
from tests.integration.command import answer, call
from tests.integration.own_engine import OwnEngine, own_engine

pytestmark = [pytest.mark.docker, pytest.mark.long]

NEEDED = {("helper", "bookworm"), ("bind", "bookworm"), ("inbox", "bookworm"), ("postfix", "bookworm")}


@pytest.fixture(scope="module")
def cold() -> Iterator[OwnEngine]:
    """Keep an engine without images."""
    with own_engine(()) as engine:
        yield engine


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the saved images of the bed `mail`."""
    saved = tmp_path_factory.mktemp("images") / "images.tar"
    facts = answer("images", "save", saved)
    assert facts["size_b"] == saved.stat().st_size > 100_000_000
    return saved


def test_a_damaged_layer_is_refused(cold: OwnEngine, file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tar"
    with file.open("rb") as whole, damaged.open("wb") as output:
        output.write(whole.read(file.stat().st_size // 2))
        output.write(bytes(octet ^ 0xFF for octet in whole.read(4096)))
        while piece := whole.read(1 << 20):
            output.write(piece)
    done = call("images", "load", damaged, "--format", "json", DOCKER_HOST=cold.host)
    assert done.returncode in {ExitCode.USAGE, ExitCode.ENGINE}, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["do"]


def test_a_cut_file_is_refused(cold: OwnEngine, file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    with file.open("rb") as whole:
        cut.write_bytes(whole.read(file.stat().st_size // 2))
    done = call("images", "load", cut, DOCKER_HOST=cold.host)
    assert done.returncode == ExitCode.USAGE
    assert "a whole file of `testbed images save`" in done.stderr


def test_what_is_loaded_needs_no_build(cold: OwnEngine, file: Path) -> None:
    done = call("images", "load", file, "--format", "json", DOCKER_HOST=cold.host)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)["images"]
    assert {images.tag(*one) for one in NEEDED} == set(loaded)
    assert all(images.is_current(cold.engine, *one) for one in NEEDED)
