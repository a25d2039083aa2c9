"""Images in a file: saved from one engine and loaded into another, as a cache for new machines.

The file is a tar as ``docker save`` writes it (image-spec 1.2, or an OCI layout), so ``docker load`` reads it, too.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import EngineFailed, InvalidInput, usable
from orchestrator.hosts import Host, images
from orchestrator.hosts.debian import Say

_PIECE = 1 << 20
_REPORT_B = 100_000_000
"""Bytes between two reports of progress."""
_PREFIX = "testbed/"


def save(host: Host, needed: Iterable[tuple[str, str]], file: Path, say: Say) -> int:
    """Save images (name, Debian release) to a file, and return its size in bytes; build missing and stale ones.

    An existing file is replaced in one step; a failure leaves the existing file unchanged.

    Raises:
        InvalidInput: an image does not exist, or the file cannot be written or read back.
        EngineFailed: an image cannot be built, or the engine refused the request or broke off its answer.
    """
    wanted = list(dict.fromkeys(needed))
    if old := images.ensure(host, wanted, say):
        found = f"no mirror serves the rebuild of {', '.join(old)}"
        raise EngineFailed("images of this version of testbed to save", found, "choose another Debian release")
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with usable(file, "a file for the images"), part.open("xb") as output:
            for piece in _reporting(host.images.save([images.tag(*one) for one in wanted]), "saved", say):
                output.write(piece)
            output.flush()
            os.fsync(output.fileno())
        _read(part)  # the engine may end its answer too early, without an error
        size = part.stat().st_size
        with usable(file, "a file for the images"):
            part.replace(file)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return size


def load(host: Host, file: Path, say: Say) -> list[str]:
    """Load the images of a file and return their tags; refuse stale images (built from files of another version).

    The engine compares each layer with the layer's digest. This function compares each image's configuration.

    Raises:
        InvalidInput: the file cannot be read or is damaged, or it has stale images or images of other programs.
        EngineFailed: the engine refused the file.
    """
    found = _read(file)
    for tag, labels in found.items():
        name, _, release = tag.removeprefix(_PREFIX).partition(":")
        if not tag.startswith(_PREFIX) or name not in images.catalogue():
            raise InvalidInput("a file with images of testbed only", f"{file}: {tag}", "use `docker load` for others")
        if labels.get(images.LABEL) != images.digest(name):
            what = f"{file}: {tag} was built from other files"
            do = f"build it (`testbed images --build --release {release}`), and save it again"
            raise InvalidInput("images of this version of testbed", what, do)
    with usable(file, "a file of images"), file.open("rb") as content:
        host.images.load(_reporting(iter(lambda: content.read(_PIECE), b""), "loaded", say))
    for tag, labels in found.items():
        loaded = host.images.find(tag) or {}
        if loaded.get(images.LABEL) != labels[images.LABEL]:
            raise EngineFailed(f"image {tag} of {file}", "the engine does not have it after the load", "load it again")
    return list(found)


def _reporting(pieces: Iterable[bytes], done: str, say: Say) -> Iterator[bytes]:
    total, reported = 0, 0
    for piece in pieces:
        total += len(piece)
        if total >= reported + _REPORT_B:
            reported = total
            say(f"{done} {total / 1e6:.0f} MB")
        yield piece


def _read(file: Path) -> dict[str, dict[str, str]]:
    """Return tag -> labels of the images in a file; compare each configuration with the digest in its name."""
    damaged = "a whole file of `testbed images save`"
    try:
        with usable(file, "a file of images"), tarfile.open(file, "r:") as archive:
            manifest = json.loads(_member(archive, "manifest.json"))
            return {tag: _labels(archive, image["Config"]) for image in manifest for tag in _tags(image)}
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(damaged, f"{file}: {error}"[:300], "save the images again") from error


def _tags(image: dict[str, Any]) -> Sequence[str]:
    tags: Sequence[str] = image["RepoTags"]
    if not tags:
        raise ValueError("an image without a tag")
    return tags


def _labels(archive: tarfile.TarFile, config: str) -> dict[str, str]:
    content = _member(archive, config)
    name = config.rpartition("/")[2].removesuffix(".json")
    if hashlib.sha256(content).hexdigest() != name:
        raise ValueError(f"the configuration {name[:12]} has another digest")
    labels: dict[str, str] = json.loads(content)["config"].get("Labels") or {}
    return labels


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()
