"""Images in a file: what is saved is loaded whole, and what is damaged, foreign or stale is refused."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.hosts import images, saved_images
from orchestrator.hosts.docker.api import archive
from orchestrator.hosts.fake import FakeHost

NEEDED = [("bind", "bookworm"), ("postfix", "bookworm")]
TAGS = ["testbed/bind:bookworm", "testbed/postfix:bookworm"]


@pytest.fixture
def host() -> FakeHost:
    """Return a host with current images."""
    made = FakeHost()
    for image, release in NEEDED:
        list(made.images.build(b"", images.tag(image, release), {}, {images.LABEL: images.digest(image)}))
    return made


def saved(tmp_path: Path, tag: str, context: str, *, name: Callable[[bytes], str] | None = None) -> Path:
    """Write a file with one image; ``name``: the name of its configuration, instead of its digest."""
    config = json.dumps({"config": {"Labels": {images.LABEL: context}}}).encode()
    of = name(config) if name else hashlib.sha256(config).hexdigest()
    manifest = json.dumps([{"Config": f"{of}.json", "RepoTags": [tag], "Layers": []}]).encode()
    file = tmp_path / "images.tar"
    file.write_bytes(archive({f"{of}.json": config, "manifest.json": manifest}))
    return file


def test_what_is_saved_is_loaded_into_another_engine(host: FakeHost, tmp_path: Path) -> None:
    file, other = tmp_path / "images.tar", FakeHost()
    file.write_bytes(b"an old one")
    assert saved_images.save(host, NEEDED, file, print) == file.stat().st_size
    assert list(tmp_path.iterdir()) == [file]
    assert saved_images.load(other, file, print) == TAGS
    assert all(images.is_current(other, *image) for image in NEEDED)


def test_a_failed_save_leaves_the_old_file_and_no_other(
    host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: Sequence[str]) -> Iterator[bytes]:
        yield b"half"
        raise EngineFailed("the images", "the engine did not answer", "see whether it runs")

    file = tmp_path / "images.tar"
    file.write_bytes(b"an old one")
    monkeypatch.setattr(host.images, "save", breaks)
    with pytest.raises(EngineFailed):
        saved_images.save(host, NEEDED, file, print)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an old one"]


def test_an_engine_that_breaks_off_without_an_error_is_noticed(
    host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = b"".join(host.images.save(TAGS))
    monkeypatch.setattr(host.images, "save", lambda _: iter([whole[:700]]))
    with pytest.raises(InvalidInput, match="a whole file"):
        saved_images.save(host, NEEDED, tmp_path / "images.tar", print)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_stale_images_are_not_saved(host: FakeHost, tmp_path: Path) -> None:
    host.images.tags["testbed/bind:bookworm"] = {images.LABEL: "old", "id": "1"}
    with pytest.raises(InvalidInput, match=r"testbed/bind:bookworm, testbed/inbox:bookworm.*images --build"):
        saved_images.save(host, [*NEEDED, ("inbox", "bookworm")], tmp_path / "images.tar", print)


def test_a_folder_that_is_not_there_is_named(host: FakeHost, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        saved_images.save(host, NEEDED, tmp_path / "no" / "images.tar", print)
    with pytest.raises(InvalidInput, match="No such file"):
        saved_images.load(host, tmp_path / "images.tar", print)


@pytest.mark.parametrize(
    ("tag", "context", "why"),
    [
        ("debian:bookworm", "", "of testbed only"),
        ("testbed/evil:bookworm", "", "of testbed only"),
        ("testbed/bind:bookworm", "of another version", "this version of testbed"),
    ],
)
def test_foreign_and_stale_images_are_not_loaded(tmp_path: Path, tag: str, context: str, why: str) -> None:
    host = FakeHost()
    with pytest.raises(InvalidInput, match=why):
        saved_images.load(host, saved(tmp_path, tag, context), print)
    assert tag not in host.images.tags


@pytest.mark.parametrize("content", [b"", b"no tar", archive({"x": b""}), archive({"manifest.json": b"[{}]"})])
def test_what_is_no_file_of_images_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "images.tar"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match="a whole file of `testbed images save`"):
        saved_images.load(FakeHost(), file, print)


def test_a_changed_configuration_is_noticed_by_its_digest(tmp_path: Path) -> None:
    file = saved(tmp_path, "testbed/bind:bookworm", images.digest("bind"), name=lambda _: "0" * 64)
    with pytest.raises(InvalidInput, match="has another digest"):
        saved_images.load(FakeHost(), file, print)
