"""Images of the nodes: builds missing and changed ones; builds get this machine's proxies and certificate authorities.

An image has changed if its folder below ``images/`` differs from the folder at the build. If no mirror serves a
rebuild, the old image is used, with a warning: otherwise a release that has left the mirrors could never be used
again. A build that fails for any other reason is an error.

Plain ``docker build`` also builds a folder; this module adds the proxies, the authorities and a base image (local,
otherwise pulled, otherwise bootstrapped).
"""

import hashlib
import logging
import os
import re
import ssl
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache
from importlib.resources import files
from pathlib import Path
from stat import S_ISDIR
from textwrap import shorten
from typing import get_args

from orchestrator import services
from orchestrator.bed.model import Bed, Release
from orchestrator.errors import EngineFailed, InvalidInput, Problem, usable
from orchestrator.hosts import Host
from orchestrator.hosts.debian import ARCHIVE, Say, bootstrap, not_served
from orchestrator.hosts.docker.api import archive
from orchestrator.hosts.helper import HELPER

_log = logging.getLogger(__name__)

LABEL = "testbed.context"
"""Label of an image: digest of the image's folder at the build."""
RELEASES: tuple[str, ...] = get_args(Release)
DEFAULT_RELEASE = "bookworm"

_NOT_ON = {(image, "bullseye"): "its Python is 3.9, the agents need 3.11" for image in ("agents", "inbox")}
_AT_ONCE = 2
"""Number of parallel builds; builds mostly wait for the network and for dpkg's writes."""
_LAYER = re.compile(r" ---> ([0-9a-f]{12})$")
"""Line in a build's output with the image id of a step."""
_NOT_OURS = re.compile(r"(^|/)(\.|__pycache__)|~(/|$)")
"""Path of a hidden file, a cache or an editor's backup."""
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
"""Build arguments predefined by the engine: a Dockerfile needs no ARG for them, and they are not in the image."""


def tag(image: str, release: str) -> str:
    """Return the tag of one image on one Debian release."""
    return f"testbed/{image}:{release}"


def resources(folder: str) -> Path:
    """Return a data folder of the program, in the checkout or in the installed package."""
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
    """Return the SHA-256 of an image's folder; ``ensure`` compares it with the image's label."""
    return hashlib.sha256(context(catalogue()[image])).hexdigest()


def context(folder: Path, extra: Mapping[str, bytes] | None = None) -> bytes:
    """Return a folder as a tar, without hidden files, caches and editors' backups; equal files give equal bytes.

    ``extra``: files to add, path -> content.
    """
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    content = {name: path.read_bytes() for name, path in paths.items() if not _NOT_OURS.search(name)}
    return archive({**content, **(extra or {})})


def names(release: str = DEFAULT_RELEASE) -> list[str]:
    """Return the names of the images that support a Debian release.

    Raises:
        InvalidInput: the release is not supported.
    """
    if release not in RELEASES:
        raise InvalidInput("a supported Debian release", repr(release), f"choose one of {', '.join(RELEASES)}")
    return [image for image in catalogue() if (image, release) not in _NOT_ON]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """State of an image in the engine."""

    tag: str
    state: str
    """``current``, ``stale`` (its folder has changed since it was built) or ``missing``."""
    size_b: int | None
    """Size with shared layers; ``None`` if the image is missing."""
    build: str = ""
    """Action of ``build_all`` and its reason; empty if ``states`` alone was called."""


def states(host: Host, release: str) -> list[State]:
    """Return the state of every image of a Debian release.

    Raises:
        InvalidInput: the release is not supported.
    """
    built = dict(host.images.list(LABEL))
    result = []
    for image in names(release):
        name = tag(image, release)
        facts = built.get(name)
        state = "missing" if facts is None else "current" if facts[LABEL] == digest(image) else "stale"
        result.append(State(tag=name, state=state, size_b=int(facts["size"]) if facts else None))
    return result


def build_all(host: Host, release: str, say: Say) -> list[State]:
    """Build every missing or stale image of a Debian release; return the states of all its images afterwards.

    Raises:
        InvalidInput: the release is not supported.
        EngineFailed: as in ``ensure``.
    """
    before = {state.tag: state.state for state in states(host, release)}
    old = ensure(host, [(image, release) for image in names(release)], say)

    def done(image: str) -> str:
        name = tag(image, release)
        if before[name] == "current":
            return f"kept: built from the same files, sha256 {digest(image)[:12]}"
        return "kept as it was built: no mirror serves its rebuild" if name in old else "built"

    return [
        replace(state, build=done(image)) for image, state in zip(names(release), states(host, release), strict=True)
    ]


def needed_by(bed: Bed) -> list[tuple[str, str]]:
    """Return (name, Debian release) of each image that a bed needs, including the helper's."""
    nodes = [(services.service(node.service).image, node.release) for node in bed.nodes.values()]
    return [("helper", DEFAULT_RELEASE), *dict.fromkeys(nodes)]


def ensure(host: Host, needed: Iterable[tuple[str, str]], say: Say) -> list[str]:
    """Build each of these images (name, Debian release) that is missing or stale.

    Returns:
        Tags of stale images that are used because no mirror served their rebuild.

    Raises:
        InvalidInput: an image or release does not exist.
        EngineFailed: a base image is not available, or a build failed; holds the end of the build's output.
    """
    wanted = dict.fromkeys(needed)
    check(wanted)
    with ExitStack() as locks:
        for image in sorted(_missing(host, wanted)):  # one order: no deadlock of two processes
            locks.enter_context(_alone(tag(*image), say))
        return _build_missing(host, _missing(host, wanted), say)


def ensure_helper(host: Host, say: Say) -> None:
    """Build the helper's image if it is missing; a stale one is kept.

    Raises:
        EngineFailed: as in ``ensure``.
    """
    if host.images.find(HELPER) is None:
        ensure(host, [("helper", DEFAULT_RELEASE)], say)


def _missing(host: Host, wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(image, release) for image, release in wanted if not is_current(host, image, release)]


def is_current(host: Host, image: str, release: str) -> bool:
    """Whether the engine has an image that was built from this version's files."""
    return (host.images.find(tag(image, release)) or {}).get(LABEL) == digest(image)


@contextmanager
def _alone(name: str, say: Say) -> Iterator[None]:
    """Lock an image for the block: if another process of this user builds the image, report this and wait."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"testbed-{os.getuid()}"
    with usable(folder, "a folder of locks"):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not S_ISDIR(found.st_mode) or found.st_uid != os.getuid():  # /tmp is shared: another user may own it
            what = "a folder of locks that belongs to this user"
            raise InvalidInput(what, f"{folder}: a link, a file or another user's", "set XDG_RUNTIME_DIR or TMPDIR")
        file = os.fdopen(os.open(folder / name.replace("/", "-"), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
    with file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that makes {name}")
            flock(file, LOCK_EX)
        yield


def _build_missing(host: Host, missing: Sequence[tuple[str, str]], say: Say) -> list[str]:
    _log.info("build %s", ", ".join(tag(*image) for image in missing) or "no image: all are current")
    builds, old = [], []
    for release in dict.fromkeys(release for _, release in missing):
        those = [(image, release) for image, of in missing if of == release]
        try:
            base = _base(host, release, say)
        except EngineFailed as error:
            if not not_served(error.found) or any(host.images.find(tag(*image)) is None for image in those):
                raise
            old += [tag(*image) for image in those]
        else:
            builds += [(*image, base) for image in those]
    old += _build_all(host, builds, say)
    for name in old:
        say(
            f"warning: {name} is used as it was built: its folder has changed since, and no mirror serves its rebuild; "
            f"{ARCHIVE}"
        )
    return old


def check(needed: Iterable[tuple[str, str]]) -> None:
    """Check that these images (name, Debian release) exist.

    Raises:
        InvalidInput: an image or release does not exist.
    """
    for image, release in needed:
        if image not in catalogue():
            raise InvalidInput("the name of an image", repr(image), f"choose one of {', '.join(catalogue())}")
        if image not in names(release):
            possible = [r for r in RELEASES if image in names(r)]
            raise InvalidInput(
                f"a Debian release supported by the image {image}",
                f"{release}: {_NOT_ON[image, release]}",
                f"choose one of {', '.join(possible)}",
            )


def _base(host: Host, release: str, say: Say) -> str:
    """Return the tag of a local base image; pull or bootstrap one if there is none."""
    own, official = f"testbed/debian:{release}", f"debian:{release}-slim"
    with _alone(own, say):
        for present in (own, official):
            if host.images.find(present) is not None:
                return present
        say(f"pulling {official}")
        try:
            host.images.pull(official)
        except EngineFailed as refused:
            say(f"{official} cannot be pulled: bootstrapping Debian {release}")
            try:
                _bootstrap(host, release, own, say)
            except EngineFailed as error:
                found = f"{official} cannot be pulled ({refused.found}), and {error.found}"
                raise EngineFailed(error.needed, found, error.do) from error
            return own
        return official


def _bootstrap(host: Host, release: str, own: str, say: Say) -> None:
    with tempfile.TemporaryDirectory(prefix="testbed-") as scratch:
        tarball = Path(scratch) / "root.tar"
        bootstrap(release, tarball, mirror=os.environ.get("DEBIAN_MIRROR"), say=say)
        say(f"loading {own}")
        host.images.load_root(str(tarball), own)


def _build_all(host: Host, builds: list[tuple[str, str, str]], say: Say) -> list[str]:
    """Build each (image, release, base); return what ``ensure`` returns. A failure or interrupt ends all builds."""
    ended = threading.Event()
    one_at_a_time = threading.Lock()

    def tell(text: str) -> None:
        with one_at_a_time:
            say(text)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="build") as pool:
        futures = [pool.submit(_build, host, *build, tell, ended) for build in builds]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            return [name for future in futures if future in done and (name := future.result())]
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


def _build(host: Host, image: str, release: str, base: str, say: Say, ended: threading.Event) -> str | None:
    """Build one image; return its tag if no mirror served the build and the old image must be used, else ``None``."""
    folder, name = catalogue()[image], tag(image, release)
    arguments = {"DEBIAN_RELEASE": release, "BASE": base, **_host_arguments()}
    extra = _authorities() if (folder / "ca").is_dir() else {}
    replaced = host.images.find(name)
    leftovers = [replaced["id"]] if replaced else []
    tail: deque[str] = deque(maxlen=25)
    try:
        for line in host.images.build(context(folder, extra), name, arguments, {LABEL: digest(image)}):
            if ended.is_set():
                break
            tail.append(line)
            if line.startswith("Step ") and " : RUN " in line:  # other steps are fast
                say(shorten(f"{name}: {line}", 100, placeholder=" ..."))
            elif layer := _LAYER.match(line):
                leftovers.append(layer[1])
    except EngineFailed as error:
        printed = "\n".join(tail)
        lacking = not_served(printed)
        if lacking and replaced:
            return name
        do = f"see whether this machine reaches its Debian mirror; {ARCHIVE}" if lacking else "read its output above"
        raise EngineFailed(f"the image {name}", f"its build failed: {error.found}\n{printed}", do) from error
    finally:
        for left in reversed(leftovers):  # children first: the engine keeps an image that has a child
            with suppress(EngineFailed):  # a leftover image must not hide the reason of a failed build
                host.images.discard(left)
    return None


def _host_arguments() -> dict[str, str]:
    """Return this machine's build arguments: its proxies, and DEBIAN_MIRROR if set."""
    names = [*_PROXIES, *(p.upper() for p in _PROXIES), "DEBIAN_MIRROR"]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _authorities() -> dict[str, bytes]:
    """Return the certificate authorities that this machine trusts, including a TLS-intercepting proxy's."""
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
