"""The images: their folders, their contexts, and when they are built."""

import io
import json
import os
import re
import tarfile
import tempfile
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.hosts import Host, docker, images
from tests.unit.cli import test_errors as test_cli_errors
from tests.unit.cli.test_errors import Command
from tests.unit.hosts.fake import FakeHost

ROOT = Path(__file__).parents[3]
testbed = test_cli_errors.testbed
PIN = re.compile(r"^([a-z0-9-]+)==([^ ]+)", re.MULTILINE)


class Builder:
    """An engine's images, in memory; ``broken`` names the tags whose build fails at its second step, saying ``why``."""

    def __init__(self, *there: str, broken: tuple[str, ...] = (), why: str = "E: no such package") -> None:
        self.why = why
        self.here: dict[str, dict[str, str]] = {tag: {"id": tag} for tag in there}
        self.broken = broken
        self.built: list[tuple[str, Mapping[str, str]]] = []
        self.contexts: dict[str, bytes] = {}
        self.discarded: list[str] = []
        self.running = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def find(self, tag: str) -> Mapping[str, str] | None:
        """Look one up."""
        return self.here.get(tag)

    def list(self, label: str) -> Sequence[tuple[str, Mapping[str, str]]]:
        """List those with a label."""
        return [(tag, {**facts, "size": "1000"}) for tag, facts in self.here.items() if label in facts]

    def build(self, context: bytes, tag: str, args: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[str]:
        """Print two steps."""
        with self._lock:
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        try:
            yield "Step 1/2 : FROM base"
            yield " ---> 0123456789ab"
            yield "Step 2/2 : RUN something"
            if tag in self.broken:
                yield self.why
                raise EngineFailed("the build", "a step returned 100", "read it")
            self.built.append((tag, dict(args)))
            self.contexts[tag] = context
            self.here[tag] = {"id": f"id of {tag}", **labels}
        finally:
            with self._lock:
                self.running -= 1

    def discard(self, image: str) -> None:
        """Note what was discarded."""
        self.discarded.append(image)


@pytest.fixture(autouse=True)
def _locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no other test that builds the same image."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def engine(builder: Builder) -> Host:
    return cast("Host", SimpleNamespace(images=builder))


def silent(_text: str) -> None:
    """Nobody listens."""


ALL = [(image, "bookworm") for image in images.names()]
BASES = [f"testbed/debian:{release}" for release in images.RELEASES]


# ---------------------------------------------------------------------------------------------------- the folders


def test_every_image_of_the_checkout_is_in_the_catalogue() -> None:
    assert set(images.catalogue()) == {"agents", "bind", "helper", "inbox", "postal", "postfix"}


@pytest.mark.parametrize("image", images.catalogue())
def test_a_folder_builds_by_itself(image: str) -> None:
    folder = images.catalogue()[image]
    dockerfile = (folder / "Dockerfile").read_text()
    assert "ARG DEBIAN_RELEASE=bookworm\n" in dockerfile
    assert "ARG BASE=debian:${DEBIAN_RELEASE}-slim\n" in dockerfile
    assert "ARG DEBIAN_MIRROR=\n" in dockerfile
    assert "://" not in dockerfile, "a registry or mirror is named"
    for source in re.findall(r"^COPY (?!--from)(\S+)", dockerfile, re.MULTILINE):
        assert (folder / source).exists()


@pytest.mark.parametrize(
    "file",
    ["requirements.txt", "requirements-dev.txt", "images/agents/requirements.txt", "images/inbox/requirements.txt"],
)
def test_every_requirement_is_pinned_by_hash_and_names_no_host_or_path(file: str) -> None:
    text = (ROOT / file).read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert all(PIN.match(block) and "--hash=sha256:" in block for block in blocks)
    assert not re.search(r"/|index", text)


def test_what_builds_the_project_names_no_folder_of_one_machine() -> None:
    """Absolute paths are those that every Debian has (hier(7))."""
    files = [ROOT / "Makefile", ROOT / "pyproject.toml", *(ROOT / ".ci").iterdir(), *ROOT.glob("images/*/*")]
    paths = re.compile(r"(?:^|[\s\"'=:(|!&>])/(\w+)")
    named = {root for file in files if file.is_file() for root in paths.findall(file.read_text())}
    assert {"dev", "usr"} <= named
    assert named <= {"bin", "dev", "etc", "opt", "proc", "run", "sbin", "sys", "tmp", "usr", "var"}


def test_the_containers_run_the_versions_that_the_tests_run() -> None:
    ours = dict(PIN.findall((ROOT / "requirements.txt").read_text()))
    agents = dict(PIN.findall((ROOT / "images/agents/requirements.txt").read_text()))
    assert agents.items() <= ours.items()
    assert {"uvloop", "hdrhistogram", "aiosmtplib"} <= set(agents)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for file, wanted in (
        ("requirements.txt", project["project"]["dependencies"]),
        ("requirements-dev.txt", project["dependency-groups"]["dev"]),
        ("images/agents/requirements.txt", project["dependency-groups"]["agents"]),
        ("images/inbox/requirements.txt", project["dependency-groups"]["inbox"]),
    ):
        pins = dict(PIN.findall((ROOT / file).read_text()))
        named = {re.split(r"[>=<]", w)[0] for w in wanted if isinstance(w, str)}  # an included group has its own pins
        assert named <= set(pins), f"run `make requirements`: {file}"


# --------------------------------------------------------------------------------------------------- the contexts

trees = st.dictionaries(st.sampled_from(["Dockerfile", "a", "ca/README", "ca/b", "d/e/f"]), st.binary(max_size=50))


def grown(tree: Mapping[str, bytes], into: Path) -> Path:
    for name, content in tree.items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return into


@settings(max_examples=20)  # each writes two folders
@given(tree=trees, data=st.data())
def test_a_context_depends_on_nothing_but_names_and_content(tree: dict[str, bytes], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(tree.items()))))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first = images.context(grown(tree, Path(one)))
        moved = grown(shuffled, Path(other))
        for file in moved.rglob("*"):
            file.chmod(0o700)
            os.utime(file, (1, 1))
        assert images.context(moved) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert {m.name: cast("io.BufferedReader", tar.extractfile(m)).read() for m in tar} == tree


@settings(max_examples=20)
@given(tree=trees.filter(bool), data=st.data())
def test_a_context_changes_with_any_content(tree: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(tree)))
    with tempfile.TemporaryDirectory() as folder:
        before = images.context(grown(tree, Path(folder)))
        (Path(folder) / name).write_bytes(tree[name] + b"!")
        assert images.context(Path(folder)) != before


def test_only_the_build_that_needs_them_gets_the_certificate_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.crt"
    bundle.write_text("certificates")
    monkeypatch.setenv("PIP_CERT", str(bundle))
    builder = Builder(*BASES)
    images.ensure(engine(builder), ALL, silent)
    holders = {tag for tag, context in builder.contexts.items() if b"certificates" in context}
    assert holders == {"testbed/agents:bookworm", "testbed/inbox:bookworm"}


# ------------------------------------------------------------------------------------------- when they are built


def test_what_is_missing_is_built_once_on_its_release() -> None:
    builder = Builder(*BASES)
    wanted = [("bind", "trixie"), ("bind", "bookworm"), ("bind", "trixie")]
    images.ensure(engine(builder), wanted, silent)
    assert sorted(tag for tag, _ in builder.built) == ["testbed/bind:bookworm", "testbed/bind:trixie"]
    for tag, args in builder.built:
        release = tag.partition(":")[2]
        assert args["DEBIAN_RELEASE"] == release
        assert args["BASE"] == f"testbed/debian:{release}"
    images.ensure(engine(builder), wanted, silent)
    assert len(builder.built) == 2


@pytest.mark.parametrize("there", [BASES, []], ids=["image", "base"])
def test_an_image_that_another_process_builds_is_waited_for(monkeypatch: pytest.MonkeyPatch, there: list[str]) -> None:
    builder, waits, begun, told = Builder(*there), threading.Event(), threading.Event(), []
    bootstrapped: list[str] = []

    def slow(_say: object = None) -> None:
        begun.set()
        waits.wait(5)

    def base(_host: Host, release: str, own: str, say: object) -> None:
        slow(say)
        bootstrapped.append(release)
        builder.here[own] = {"id": own}

    def tell(text: str) -> None:
        told.append(text)
        if "another process" in text:
            waits.set()

    def refuse(_builder: Builder, tag: str) -> None:
        raise EngineFailed(f"image {tag}", "no registry", "try again")

    monkeypatch.setattr(images, "_bootstrap", base)
    monkeypatch.setattr(Builder, "pull", refuse, raising=False)
    with ThreadPoolExecutor(1) as pool:
        # An image of its own for each: only the base is common.
        first = pool.submit(images.ensure, engine(builder), [("bind", "bookworm")], slow)
        begun.wait(5)
        images.ensure(engine(builder), [("bind" if there else "postfix", "bookworm")], tell)
        first.result()
    assert any("another process" in text for text in told)
    assert len(builder.built) == (1 if there else 2)
    assert bootstrapped == ([] if there else ["bookworm"])


def test_a_lock_is_kept_in_a_folder_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> None:
        with images._alone("testbed/bind:bookworm", silent):
            pass

    build()
    runtime, folder = tmp_path / "temporary", f"testbed-{os.getuid()}"
    assert [path.name for path in (tmp_path / folder).iterdir()] == ["testbed-bind:bookworm"]
    runtime.mkdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    (runtime / folder).symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match="belongs to this user"):
        build()
    (runtime / folder).unlink()
    build()
    lock = runtime / folder / "testbed-bind:bookworm"
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="a folder of locks"):
        build()
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    (runtime / "testbed-4711").mkdir()
    with pytest.raises(InvalidInput, match="belongs to this user"):
        build()


def test_what_changed_is_built_again_and_the_old_one_discarded() -> None:
    builder = Builder(*BASES)
    builder.here["testbed/bind:bookworm"] = {"id": "old", images.LABEL: "of another folder"}
    assert {s.tag: s.state for s in images.states(engine(builder), "bookworm")} == {
        "testbed/agents:bookworm": "missing",
        "testbed/bind:bookworm": "stale",
        "testbed/helper:bookworm": "missing",
        "testbed/inbox:bookworm": "missing",
        "testbed/postal:bookworm": "missing",
        "testbed/postfix:bookworm": "missing",
    }
    images.ensure(engine(builder), [("bind", "bookworm")], silent)
    assert [tag for tag, _ in builder.built] == ["testbed/bind:bookworm"]
    assert "old" in builder.discarded
    assert {s.state for s in images.states(engine(builder), "bookworm")} == {"missing", "current"}


def test_a_build_of_all_says_of_each_image_what_it_did() -> None:
    builder = Builder(*BASES, broken=("testbed/bind:bookworm",), why=NOT_SERVED[0])
    builder.here["testbed/bind:bookworm"] = {"id": "old", images.LABEL: "of another folder"}
    builder.here["testbed/postfix:bookworm"] = {"id": "same", images.LABEL: images.digest("postfix")}
    told: list[str] = []
    assert {state.tag: state.build for state in images.build_all(engine(builder), "bookworm", told.append)} == {
        "testbed/agents:bookworm": "built",
        "testbed/bind:bookworm": "kept as it was built: no mirror serves its rebuild",
        "testbed/helper:bookworm": "built",
        "testbed/inbox:bookworm": "built",
        "testbed/postal:bookworm": "built",
        "testbed/postfix:bookworm": f"kept: built from the same files, sha256 {images.digest('postfix')[:12]}",
    }
    assert told[-1].startswith("warning: testbed/bind:bookworm is used as it was built")  # it stays on a terminal


def test_images_says_of_each_what_was_done(testbed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    there = FakeHost()
    there.images.tags = {"testbed/debian:bookworm": {"id": "base"}}
    there.images.tags["testbed/bind:bookworm"] = {"id": "same", "size": "1000000", images.LABEL: images.digest("bind")}
    tags = there.images.tags
    monkeypatch.setattr(there.images, "list", lambda _: [(t, {"size": "1000000", **f}) for t, f in tags.items()])
    monkeypatch.setattr(docker, "connect", lambda: there)
    shown = testbed("images", "--build").out.splitlines()
    assert [line.split("MB")[1].split()[0] for line in shown] == ["built", "kept:", "built", "built", "built", "built"]
    assert {state["build"] for state in json.loads(testbed("images", "--format", "json").out)} == {""}


def test_the_registrys_base_image_is_used_where_it_is() -> None:
    builder = Builder("debian:trixie-slim")
    images.ensure(engine(builder), [("helper", "trixie")], silent)
    assert builder.built[0][1]["BASE"] == "debian:trixie-slim"


def test_no_base_image_names_what_the_registry_and_the_bootstrap_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(release: str, *_: object, **__: object) -> None:
        raise EngineFailed(f"a base image of Debian {release}", "mmdebstrap ended with 25", "read its message")

    monkeypatch.setattr(images, "bootstrap", refuse)
    with pytest.raises(EngineFailed) as caught:
        images.ensure(FakeHost(), [("helper", "bookworm")], silent)
    assert "debian:bookworm-slim cannot be pulled (it has none)" in caught.value.found
    assert "mmdebstrap ended with 25" in caught.value.found


def test_proxies_and_a_named_mirror_reach_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "proxy.test:3128")
    monkeypatch.setenv("DEBIAN_MIRROR", "archive.test/debian")
    builder = Builder(*BASES)
    images.ensure(engine(builder), [("bind", "bullseye")], silent)
    _, args = builder.built[0]
    assert args["http_proxy"] == "proxy.test:3128"
    assert args["DEBIAN_MIRROR"] == "archive.test/debian"


def test_at_most_two_are_built_at_once_and_what_takes_time_is_told() -> None:
    builder = Builder(*BASES)
    told: list[str] = []
    images.ensure(engine(builder), ALL, told.append)
    assert builder.most_at_once <= 2
    assert sorted(told) == [f"{images.tag(*image)}: Step 2/2 : RUN something" for image in ALL]


def test_a_failed_build_shows_what_it_printed_and_leaves_nothing() -> None:
    builder = Builder(*BASES, broken=("testbed/postfix:bookworm",))
    with pytest.raises(EngineFailed) as caught:
        images.ensure(engine(builder), [("postfix", "bookworm")], silent)
    assert "testbed/postfix:bookworm" in caught.value.needed
    assert "E: no such package" in caught.value.found
    assert builder.discarded == ["0123456789ab"]
    assert builder.running == 0


def test_a_leftover_that_the_engine_keeps_does_not_hide_why_a_build_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Builder, image: str) -> None:
        raise EngineFailed(f"image {image} removed", "it is in use", "wait")

    monkeypatch.setattr(Builder, "discard", refuse)
    builder = Builder(*BASES, broken=("testbed/postfix:bookworm",))
    with pytest.raises(EngineFailed, match="E: no such package"):
        images.ensure(engine(builder), [("postfix", "bookworm")], silent)


NOT_SERVED = [
    "E: The repository 'mirror.test/debian bullseye Release' does not have a Release file.",
    "E: The repository 'mirror.test/debian bullseye Release' no longer has a Release file.",
    "E: Release file for mirror.test/debian/dists/bullseye-updates/InRelease is expired (invalid since 3d).",
    "E: The repository 'mirror.test/debian bullseye InRelease' is not signed.",
    "E: Failed to fetch mirror.test/debian/pool/main/b/bind9/bind9_9.16.50_amd64.deb  404  Not Found",
    "W: Failed to fetch mirror.test/debian/dists/bullseye/InRelease  Temporary failure resolving 'mirror.test'",
    "E: Unable to locate package bind9",
]


@pytest.mark.parametrize("why", NOT_SERVED)
def test_a_build_that_no_mirror_serves_names_the_way_to_an_archive(why: str) -> None:
    builder = Builder(*BASES, broken=("testbed/bind:bullseye",), why=why)
    with pytest.raises(EngineFailed) as caught:
        images.ensure(engine(builder), [("bind", "bullseye")], silent)
    assert why in caught.value.found
    assert "DEBIAN_MIRROR" in caught.value.do
    assert "archive" in caught.value.do
    assert "://" not in caught.value.do


@pytest.mark.parametrize("why", NOT_SERVED)
def test_an_image_from_before_is_used_where_no_mirror_serves_its_rebuild_and_said_to_be(why: str) -> None:
    builder = Builder(*BASES, broken=("testbed/bind:bullseye",), why=why)
    builder.here["testbed/bind:bullseye"] = {"id": "old", images.LABEL: "of another folder"}
    told: list[str] = []
    wanted = [("bind", "bullseye"), ("helper", "bookworm")]
    assert images.ensure(engine(builder), wanted, told.append) == ["testbed/bind:bullseye"]
    assert "testbed/bind:bullseye is used as it was built" in told[-1]
    assert builder.here["testbed/bind:bullseye"]["id"] == "old"
    assert [tag for tag, _ in builder.built] == ["testbed/helper:bookworm"]


def test_an_image_from_before_is_not_used_where_its_rebuild_is_broken() -> None:
    builder = Builder(*BASES, broken=("testbed/bind:bullseye",), why="sh: 1: instal: not found")
    builder.here["testbed/bind:bullseye"] = {"id": "old", images.LABEL: "of another folder"}
    with pytest.raises(EngineFailed, match="instal: not found"):
        images.ensure(engine(builder), [("bind", "bullseye")], silent)


def test_an_image_from_before_needs_no_base_image_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(release: str, *_: object, **__: object) -> None:
        raise EngineFailed(f"a base image of Debian {release}", NOT_SERVED[0], "read its message")

    monkeypatch.setattr(images, "bootstrap", refuse)
    there = FakeHost()
    there.images.tags["testbed/bind:bullseye"] = {"id": "old", images.LABEL: "of another folder"}
    assert images.ensure(there, [("bind", "bullseye")], silent) == ["testbed/bind:bullseye"]
    with pytest.raises(EngineFailed, match="a base image of Debian bullseye"):
        images.ensure(there, [("bind", "bullseye"), ("postfix", "bullseye")], silent)


@pytest.mark.parametrize(
    "beside", [".Dockerfile.swp", "Dockerfile~", "__pycache__/x.pyc", "../README.md", "../new/Dockerfile"]
)
def test_what_is_no_file_of_an_image_does_not_build_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    folder = tmp_path / "images" / "bind"
    grown({"Dockerfile": b"FROM x\n"}, folder)
    monkeypatch.setattr(images, "catalogue", lambda: {"bind": folder})
    builder = Builder(*BASES)
    images.ensure(engine(builder), [("bind", "bookworm")], silent)
    grown({beside: b"else"}, folder)
    images.ensure(engine(builder), [("bind", "bookworm")], silent)
    assert len(builder.built) == 1
    grown({"Dockerfile": b"FROM y\n"}, folder)
    images.ensure(engine(builder), [("bind", "bookworm")], silent)
    assert len(builder.built) == 2


def test_a_listener_that_gives_up_ends_every_build() -> None:
    builder = Builder(*BASES)

    def give_up(_text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.ensure(engine(builder), ALL, give_up)
    assert builder.running == 0


@pytest.mark.parametrize(
    ("image", "release", "named"),
    [("exim", "bookworm", "exim"), ("bind", "sarge", "sarge"), ("agents", "bullseye", "3.9")],
)
def test_what_cannot_be_built_is_refused_before_the_engine_is_asked(image: str, release: str, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        images.ensure(cast("Host", None), [("bind", "bookworm"), (image, release)], silent)
    assert named in caught.value.found
    assert "bookworm" in caught.value.do or "postfix" in caught.value.do


def test_an_image_with_python_libraries_is_not_offered_on_a_release_whose_python_is_too_old() -> None:
    folder = Path(__file__).parents[3] / "images"
    with_libraries = {image for image in images.catalogue() if (folder / image / "requirements.txt").exists()}
    assert with_libraries == {"agents", "inbox"}
    assert with_libraries.isdisjoint(images.names("bullseye"))
    with pytest.raises(InvalidInput, match=r"Python is 3\.9"):
        images.ensure(cast("Host", FakeHost()), [("inbox", "bullseye")], lambda _line: None)
