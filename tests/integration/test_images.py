"""The images on the real engine: built once, rebuilt when changed, complete, and nothing left of what failed."""

import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker as sdk
import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Host, debian, docker, images, setup

pytestmark = pytest.mark.docker

RELEASE = images.DEFAULT_RELEASE


def silent(_text: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def engine() -> Host:
    """Set this machine up."""
    return setup.setup(silent)


def shell(engine: Host, image: str, command: str, release: str = RELEASE) -> str:
    """Run a line of shell in an image and return what it prints."""
    spec = ContainerSpec(
        name=f"testbed-probe-{uuid.uuid4().hex[:8]}",
        image=images.tag(image, release),
        command=("sh", "-ec", command),
        labels={},
    )
    output = engine.run(spec)
    assert output.status == 0, output.stderr + output.stdout
    return output.stdout


# ------------------------------------------------------------------------------------------------------- building


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make the folder of an image of our own: two stages, each with a label to find what is left of them."""
    name = f"probe-{uuid.uuid4().hex[:8]}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        "ARG DEBIAN_RELEASE=bookworm\n"
        "ARG BASE=debian:${DEBIAN_RELEASE}-slim\n"
        "FROM ${BASE} AS build\n"
        f"LABEL testbed.probe={name}\n"
        "COPY content /content\n"
        "RUN test ! -e /content/broken || { echo it is broken; exit 9; }\n"
        "FROM ${BASE}\n"
        f"LABEL testbed.probe={name}\n"
        "COPY --from=build /content /content\n"
    )
    (folder / "content").mkdir()
    (folder / "content" / "word").write_text("one")
    monkeypatch.setattr(images, "catalogue", lambda: {name: folder})
    yield folder
    client = sdk.from_env()
    for tags in left_of(folder):
        for tag in tags:
            client.images.remove(tag)


def left_of(probe: Path) -> list[list[str]]:
    """Return the tags of every image that a build of the probe has left, but for the parents of another."""
    found = sdk.from_env().images.list(filters={"label": f"testbed.probe={probe.name}"})
    return sorted(image.tags for image in found)


def test_an_image_is_built_again_only_when_its_folder_changed(engine: Host, probe: Path) -> None:
    said: list[str] = []
    images.ensure(engine, [(probe.name, RELEASE)], said.append)
    assert len(said) == 1
    images.ensure(engine, [(probe.name, RELEASE)], said.append)
    assert len(said) == 1
    assert shell(engine, probe.name, "cat /content/word") == "one"
    (probe / "content" / "word").write_text("two")
    images.ensure(engine, [(probe.name, RELEASE)], said.append)
    assert shell(engine, probe.name, "cat /content/word") == "two"
    assert left_of(probe) == [[images.tag(probe.name, RELEASE)]]


def test_a_build_that_fails_shows_why_and_leaves_nothing(engine: Host, probe: Path) -> None:
    (probe / "content" / "broken").touch()
    with pytest.raises(EngineFailed) as caught:
        images.ensure(engine, [(probe.name, RELEASE)], silent)
    assert "it is broken" in caught.value.found
    assert left_of(probe) == []
    # One request: `containers.list` inspects each container, also those that another test removes meanwhile.
    assert sdk.from_env().api.containers(all=True, filters={"label": f"testbed.probe={probe.name}"}) == []


def test_a_build_that_no_mirror_serves_keeps_the_image_from_before(engine: Host, probe: Path) -> None:
    before = (probe / "Dockerfile").read_text()
    images.ensure(engine, [(probe.name, RELEASE)], silent)
    unserved = (
        "RUN echo deb http://127.0.0.1:9/debian bookworm main > /etc/apt/sources.list\n"
        "RUN apt-get -o Acquire::Retries=0 update && apt-get install --yes bind9\n"
    )
    (probe / "Dockerfile").write_text(before + unserved)
    tag, told = images.tag(probe.name, RELEASE), list[str]()
    assert images.ensure(engine, [(probe.name, RELEASE)], told.append) == [tag]
    assert [line for line in told if line.startswith(f"warning: {tag} is used as it was built")]
    assert left_of(probe) == [[tag]]
    assert shell(engine, probe.name, "cat /content/word") == "one"


@pytest.mark.usefixtures("engine")
def test_set_up_again_takes_under_two_seconds() -> None:
    said: list[str] = []
    began = time.monotonic()
    setup.setup(said.append)
    assert time.monotonic() - began < 2
    assert said == []
    assert {state.state for state in images.states(docker.connect(), RELEASE)} == {"current"}


# -------------------------------------------------------------------------------------------------- what they hold


@pytest.mark.parametrize(
    ("image", "release"),
    [
        pytest.param(image, release, marks=() if release == RELEASE else pytest.mark.all_releases)
        for release in images.RELEASES
        for image in images.names(release)
    ],
)
def test_every_image_has_what_the_start_of_a_node_needs(engine: Host, image: str, release: str) -> None:
    images.ensure(engine, [(image, release)], silent)
    has = 'command -v ip && command -v nft && command -v setpriv && test -z "$(ls /var/lib/apt/lists)"'
    shell(engine, image, has, release)


def test_bind_and_postfix_have_their_programs(engine: Host) -> None:
    shell(engine, "bind", "named -v; named-checkconf; command -v named-checkzone; command -v rndc; test -d /run/named")
    shell(engine, "postfix", "postconf mail_version; command -v postqueue; command -v postlog")


def test_the_agents_have_their_libraries_and_no_certificate_authority_of_ours(engine: Host) -> None:
    shell(engine, "agents", "/opt/agents/bin/python -c 'import uvloop, hdrh.histogram, aiosmtplib'")
    shell(engine, "agents", "test ! -e /usr/local/share/ca-certificates/host.crt && ! command -v pip")


# ------------------------------------------------------------------------------------------------- the base image


@pytest.mark.long
def test_a_base_image_is_bootstrapped_with_its_own_release_in_its_sources(tmp_path: Path) -> None:
    said: list[str] = []
    debian.bootstrap("trixie", tmp_path / "root.tar", mirror=None, say=said.append)
    assert said
    with tarfile.open(tmp_path / "root.tar") as tar:
        sources = tar.extractfile("./etc/apt/sources.list")
        assert sources is not None
        assert b" trixie main" in sources.read()
        assert not [name for name in tar.getnames() if name.startswith("./usr/share/man/man1/")]


def test_a_release_that_no_mirror_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed) as caught:
        debian.bootstrap("nosuch", tmp_path / "root.tar", mirror=None, say=silent)
    assert "nosuch" in caught.value.needed
    assert "does not have a Release file" in caught.value.found
    assert "DEBIAN_MIRROR" in caught.value.do
