"""The images of the nodes: built if missing, or if their folder below ``images/`` has changed.

An image whose folder has changed and whose mirror no longer serves its rebuild is used as it was built, and named: the
alternative is no bed at all, for as long as the mirror is away, or for good with a release that has left the mirrors.
A build that fails for any other reason is an error.

A folder builds with plain ``docker build``, too; this adds what needs a look at the machine: the base image (a local
one, else pulled, else bootstrapped), its proxies and its certificate authorities.
"""

import hashlib
import logging
import os
import re
import ssl
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from textwrap import shorten
from typing import get_args

from orchestrator import services
from orchestrator.bed.model import Bed, Release
from orchestrator.errors import EngineFailed, InvalidInput, Problem, usable
from orchestrator.hosts import Host
from orchestrator.hosts.debian import ARCHIVE, Say, bootstrap, not_served
from orchestrator.hosts.docker.api import archive

_log = logging.getLogger(__name__)

LABEL = "testbed.context"
"""Of an image: the digest of the folder that it was built from."""
RELEASES: tuple[str, ...] = get_args(Release)
DEFAULT_RELEASE = "bookworm"

_NOT_ON = {("agents", "bullseye"): "its Python is 3.9, the agents need 3.11"}
_AT_ONCE = 2
"""Builds in parallel: mostly they wait for the network and for dpkg's writes."""
_LAYER = re.compile(r" ---> ([0-9a-f]{12})$")
"""How a build names what a step made."""
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
"""The build arguments that an engine knows without a Dockerfile's ARG, and keeps out of the image."""


def tag(image: str, release: str) -> str:
    """Return the tag of one image on one Debian release."""
    return f"testbed/{image}:{release}"


def resources(folder: str) -> Path:
    """Return a folder that travels with the program: from the checkout, or from the installed package."""
    package = Path(str(files("orchestrator")))
    for path in (package / "_data" / folder, package.parent / folder):
        if path.is_dir():
            return path
    raise Problem(f"the folder {folder}/ of this program", f"none beside {package}", "install it again")


@cache
def catalogue() -> Mapping[str, Path]:
    """Return the folder of every image, by name."""
    return {path.parent.name: path.parent for path in sorted(resources("images").glob("*/Dockerfile"))}


def digest(image: str) -> str:
    """Return the SHA-256 of an image's folder: what ``ensure`` compares with the label of a built image."""
    return hashlib.sha256(context(catalogue()[image])).hexdigest()


def context(folder: Path, extra: Mapping[str, bytes] | None = None) -> bytes:
    """Return a folder as a tar for the engine: the same bytes for the same content, wherever it lies.

    Hidden files and editors' backups are left out. ``extra`` are further files, path -> content.
    """
    content = {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and _ours(p, folder)
    }
    return archive({**content, **(extra or {})})


def _ours(path: Path, folder: Path) -> bool:
    """Say whether a file belongs to an image: not what an editor or a file manager leaves beside it."""
    return not any(
        part.startswith((".", "__pycache__")) or part.endswith("~") for part in path.relative_to(folder).parts
    )


def names(release: str = DEFAULT_RELEASE) -> list[str]:
    """Name the images that build on a Debian release.

    Raises:
        InvalidInput: we build on no such release.
    """
    if release not in RELEASES:
        raise InvalidInput("a Debian release that we build on", repr(release), f"choose one of {', '.join(RELEASES)}")
    return [image for image in catalogue() if (image, release) not in _NOT_ON]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How an image stands in the engine."""

    tag: str
    state: str
    """``current``, ``stale`` (its folder has changed since it was built) or ``missing``."""
    size_b: int | None
    """With the layers that it shares with others; ``None`` when it is missing."""
    build: str = ""
    """What ``build_all`` did with it, and why; empty: nobody asked."""

    def to_dict(self) -> dict[str, str | int | None]:
        """Return plain data for a script."""
        return {"tag": self.tag, "state": self.state, "size_b": self.size_b, "build": self.build}


def states(engine: Host, release: str) -> list[State]:
    """Say of every image on a Debian release how it stands in the engine.

    Raises:
        InvalidInput: we build on no such release.
    """
    built = dict(engine.images.list(LABEL))
    found = []
    for image in names(release):
        name = tag(image, release)
        facts = built.get(name)
        state = "missing" if facts is None else "current" if facts[LABEL] == digest(image) else "stale"
        found.append(State(tag=name, state=state, size_b=int(facts["size"]) if facts else None))
    return found


def build_all(engine: Host, release: str, say: Say) -> list[State]:
    """Build every image on a Debian release that is missing or older than its folder, and say of each what was done.

    Raises:
        InvalidInput: we build on no such release.
        EngineFailed: as ``ensure``.
    """
    before = {state.tag: state.state for state in states(engine, release)}
    old = ensure(engine, [(image, release) for image in names(release)], say)

    def done(image: str) -> str:
        name = tag(image, release)
        if before[name] == "current":
            return f"kept: built from the same files, sha256 {digest(image)[:12]}"
        return "kept as it was built: no mirror serves its rebuild" if name in old else "built"

    return [
        replace(state, build=done(image)) for image, state in zip(names(release), states(engine, release), strict=True)
    ]


def of(bed: Bed) -> list[tuple[str, str]]:
    """Return the images that a bed is made of, the helper included: name, Debian release."""
    nodes = [(services.service(node.service).image, node.release) for node in bed.nodes.values()]
    return [("helper", DEFAULT_RELEASE), *dict.fromkeys(nodes)]


def ensure(engine: Host, needed: Iterable[tuple[str, str]], say: Say) -> list[str]:
    """Make sure that the engine has these images (name, Debian release), each built from its folder as it is now.

    Returns:
        The tags that are used as they were built before, because no mirror served what their rebuild needs.

    Raises:
        InvalidInput: there is no such image or release.
        EngineFailed: a base image cannot be had, or a build failed; with the end of what it printed.
    """
    wanted = dict.fromkeys(needed)
    check(wanted)
    missing = [
        (image, release)
        for image, release in wanted
        if (engine.images.find(tag(image, release)) or {}).get(LABEL) != digest(image)
    ]
    _log.info("build %s", ", ".join(tag(*image) for image in missing) or "no image: all are current")
    builds, old = [], []
    for release in dict.fromkeys(release for _, release in missing):
        those = [(image, release) for image, of in missing if of == release]
        try:
            base = _base(engine, release, say)
        except EngineFailed as error:
            if not not_served(error.found) or any(engine.images.find(tag(*image)) is None for image in those):
                raise
            old += [tag(*image) for image in those]
        else:
            builds += [(*image, base) for image in those]
    old += _build_all(engine, builds, say)
    for name in old:
        say(
            f"warning: {name} is used as it was built: its folder has changed since, and no mirror serves its rebuild; "
            f"{ARCHIVE}"
        )
    return old


def check(needed: Iterable[tuple[str, str]]) -> None:
    """Check that these images (name, Debian release) can be built.

    Raises:
        InvalidInput: there is no such image or release.
    """
    for image, release in needed:
        _check(image, release)


def _check(image: str, release: str) -> None:
    if image not in catalogue():
        raise InvalidInput("the name of an image", repr(image), f"choose one of {', '.join(catalogue())}")
    if image not in names(release):
        possible = [r for r in RELEASES if image in names(r)]
        raise InvalidInput(
            f"a Debian release that the image {image} builds on",
            f"{release}: {_NOT_ON[image, release]}",
            f"choose one of {', '.join(possible)}",
        )


def _base(engine: Host, release: str, say: Say) -> str:
    """Return the tag of a base image that the engine has, after making one if need be."""
    own, official = f"testbed/debian:{release}", f"debian:{release}-slim"
    for there in (own, official):
        if engine.images.find(there) is not None:
            return there
    say(f"pulling {official}")
    try:
        engine.images.pull(official)
    except EngineFailed as refused:
        say(f"{official} cannot be pulled: bootstrapping Debian {release}")
        try:
            _bootstrap(engine, release, own, say)
        except EngineFailed as error:
            found = f"{official} cannot be pulled ({refused.found}), and {error.found}"
            raise EngineFailed(error.needed, found, error.do) from error
        return own
    return official


def _bootstrap(engine: Host, release: str, own: str, say: Say) -> None:
    with tempfile.TemporaryDirectory(prefix="testbed-") as scratch:
        tarball = Path(scratch) / "root.tar"
        bootstrap(release, tarball, mirror=os.environ.get("DEBIAN_MIRROR"), say=say)
        say(f"loading {own}")
        engine.images.load_root(str(tarball), own)


def _build_all(engine: Host, builds: list[tuple[str, str, str]], say: Say) -> list[str]:
    """Build image, release, base; the first failure, or an interrupt, ends the others.

    Returns the tags that are as they were: see ``ensure``.
    """
    ended = threading.Event()
    one_at_a_time = threading.Lock()

    def tell(text: str) -> None:
        with one_at_a_time:
            say(text)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="build") as pool:
        futures = [pool.submit(_build, engine, *build, tell, ended) for build in builds]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            return [name for future in futures if future in done and (name := future.result())]
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


def _build(engine: Host, image: str, release: str, base: str, say: Say, ended: threading.Event) -> str | None:
    """Build one image; return its tag if the one from before has to do."""
    folder, name = catalogue()[image], tag(image, release)
    arguments = {"DEBIAN_RELEASE": release, "BASE": base, **_host_arguments()}
    extra = _authorities() if (folder / "ca").is_dir() else {}
    replaced = engine.images.find(name)
    leftovers = [replaced["id"]] if replaced else []
    tail: deque[str] = deque(maxlen=25)
    try:
        for line in engine.images.build(context(folder, extra), name, arguments, {LABEL: digest(image)}):
            if ended.is_set():
                break
            tail.append(line)
            if line.startswith("Step ") and " : RUN " in line:  # the only steps that take time
                say(shorten(f"{name}: {line}", 100, placeholder=" ..."))
            elif layer := _LAYER.match(line):
                leftovers.append(layer[1])
    except EngineFailed as error:
        printed = "\n".join(tail)
        lacking = not_served(printed)
        if lacking and replaced:
            return name
        do = (
            f"see whether this machine reaches its Debian mirror; {ARCHIVE}"
            if lacking
            else "read what it printed above"
        )
        raise EngineFailed(f"the image {name}", f"its build failed: {error.found}\n{printed}", do) from error
    finally:
        for left in reversed(leftovers):  # children first: the engine keeps what something else is built on
            with suppress(EngineFailed):  # one image too many must not hide why a build failed
                engine.images.discard(left)
    return None


def _host_arguments() -> dict[str, str]:
    """Return the build arguments that depend on this machine: its proxies, and the mirror if one is named."""
    names = [*_PROXIES, *(p.upper() for p in _PROXIES), "DEBIAN_MIRROR"]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _authorities() -> dict[str, bytes]:
    """Return the certificate authorities that this machine trusts: behind a proxy that opens TLS, its own is there."""
    named = (os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    usual = (
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        ssl.get_default_verify_paths().cafile,
    )
    for path in (Path(path) for path in (*named, *usual) if path):
        with usable(path, "a bundle of certificate authorities"):
            if path.is_file():
                return {"ca/host.crt": path.read_bytes()}
    return {}
