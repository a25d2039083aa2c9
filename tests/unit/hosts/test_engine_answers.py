"""What other engines leave out of their answers, or put otherwise: newer ones, older ones, podman's."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.errors import EngineFailed
from orchestrator.hosts import HostInfo
from orchestrator.hosts.docker import DockerHost, api
from tests.unit.standin import Answers, engine, frame, parts


@pytest.mark.parametrize("left_out", [{}, {"Config": None}, {"Config": {}}, {"Config": {"Labels": None}}])
def test_an_image_without_a_configuration_has_no_labels(left_out: dict[str, Any]) -> None:
    with engine({"GET /images/base/json": {"Id": "sha256:1", **left_out}}) as (it, _):
        assert it.images.find("base") == {"id": "sha256:1"}
        assert it.images.find("other") is None


def test_images_without_tags_labels_size_or_date_are_listed_as_they_are() -> None:
    listed = [
        {"Id": "sha256:1"},
        {"Id": "sha256:2", "RepoTags": None, "Labels": None},
        {"Id": "sha256:3", "RepoTags": ["a:1"], "Labels": None},
        {"Id": "sha256:4", "RepoTags": ["b:1"], "Labels": {"x": "y"}, "Size": 5, "Created": 6},
    ]
    with engine({"GET /images/json": listed}) as (it, _):
        assert it.images.list("x") == [
            ("a:1", {"id": "sha256:3", "size": "0"}),
            ("b:1", {"x": "y", "id": "sha256:4", "size": "5"}),
        ]


@pytest.mark.parametrize(
    ("facts", "removed"),
    [({}, True), ({"RepoTags": None}, True), ({"RepoTags": []}, True), ({"RepoTags": ["a:1"]}, False)],
)
def test_an_image_that_no_tag_names_is_discarded(facts: dict[str, Any], *, removed: bool) -> None:
    with engine({"GET /images/left/json": {"Id": "sha256:1", **facts}, "DELETE /images/left": []}) as (it, asked):
        it.images.discard("left")
        assert ("DELETE /images/left" in asked) is removed


@pytest.mark.parametrize(
    "last",
    [
        {"errorDetail": {"message": "manifest unknown"}, "error": "manifest unknown"},
        {"errorDetail": {"message": "manifest unknown"}},
        {"error": "manifest unknown"},
    ],
)
def test_what_fails_inside_the_stream_of_a_200_fails_with_its_reason(last: dict[str, Any]) -> None:
    stream = parts({"status": "Pulling from library/debian"}, last)
    there = {"GET /images/debian:x/json": {"Id": "sha256:1"}}
    with engine({**there, "POST /images/create": stream, "POST /build": stream}) as (it, _):
        with pytest.raises(EngineFailed, match="manifest unknown"):
            it.images.pull("debian:x")
        with pytest.raises(EngineFailed, match="manifest unknown"):
            it.images.load_root("/dev/null", "debian:x")
        with pytest.raises(EngineFailed, match="manifest unknown"):
            list(it.images.build(b"", "debian:x", {}, {}))


def test_a_pull_is_done_when_the_image_is_there() -> None:
    stream = parts({"status": "Download complete"})
    with engine({"POST /images/create": stream, "GET /images/debian:x/json": {"Id": "sha256:1"}}) as (it, _):
        it.images.pull("debian:x")
    with engine({"POST /images/create": stream}) as (it, _), pytest.raises(EngineFailed, match="no such image"):
        it.images.pull("debian:x")
    with engine({}) as (it, _), pytest.raises(EngineFailed, match="no such thing"):
        it.images.pull("debian:x")


@pytest.mark.parametrize(
    "stamp",
    [
        "2022-09-14T12:24:25.569294Z",
        "2022-09-14T12:24:25.569294000Z",
        "2022-09-14T06:24:25.569294000-06:00",
        "2022-09-14T17:54:25.569294+05:30",
        "2022-09-14t12:24:25.569294z",
        "2022-09-14T12:24:25.569294",
    ],
)
def test_a_time_is_read_in_its_own_zone_with_any_number_of_digits(stamp: str) -> None:
    assert api.unix(stamp) == 1663158265.569294


@pytest.mark.parametrize(("stamp", "t"), [("1970-01-01T00:00:07Z", 7), ("1970-01-01T02:00:07.5+02:00", 7.5)])
def test_a_time_may_have_few_digits_or_none(stamp: str, t: float) -> None:
    assert api.unix(stamp) == t


def test_a_log_with_local_times_is_read() -> None:
    log = frame(1, "1970-01-01T02:00:01.5+02:00 one\n") + frame(2, "1970-01-01T00:00:02Z two\n")
    with engine({"GET /containers/relay/logs": log}) as (it, _):
        assert [(line.t, line.text) for line in it.node("relay").logs(follow=False)] == [(1.5, "one"), (2, "two")]
    with (
        engine({"GET /containers/relay/logs": frame(1, "yesterday one\n")}) as (it, _),
        pytest.raises(EngineFailed, match="yesterday"),
    ):
        list(it.node("relay").logs(follow=False))


LOG = [frame(1, f"1970-01-01T00:00:0{n}.000000001Z {n}\n") for n in range(1, 6)]


@pytest.mark.parametrize("again", [LOG[3:], LOG[2:], LOG], ids=["the rest", "from the last line", "all of it"])
def test_last_lines_that_a_follower_was_not_sent_are_read_after_its_end(again: list[bytes]) -> None:
    """Engine 20.10 ends the stream of a container that ends while its log is sent, and leaves lines out."""
    with engine({"GET /containers/relay/logs": [b"".join(LOG[:3]), b"".join(again)]}) as (it, asked):
        assert [line.text for line in it.node("relay").logs(follow=True)] == ["1", "2", "3", "4", "5"]
        assert asked == ["GET /containers/relay/logs"] * 2


def test_a_log_whose_container_is_gone_at_its_end_was_read_to_its_end() -> None:
    with engine({"GET /containers/relay/logs": [b"".join(LOG), None]}) as (it, _):
        assert [line.text for line in it.node("relay").logs(follow=True)] == ["1", "2", "3", "4", "5"]


def test_containers_and_networks_are_found_with_as_little_as_their_ids() -> None:
    containers = [
        {"Id": "c1"},
        {"Id": "c2", "Names": None, "Labels": None, "Ports": None, "State": "running"},
        {"Id": "c3", "Names": ["/tb"], "Labels": {"a": "b"}, "State": "exited",
         "Ports": [{"PrivatePort": 25, "Type": "tcp"}, {"PrivatePort": 25, "PublicPort": 32768}, {}]},
    ]  # fmt: skip
    networks = [
        {"Id": "n1"},
        {"Id": "n2", "Name": "x", "Labels": None, "IPAM": None},
        {"Id": "n3", "Name": "y", "IPAM": {"Config": None}},
        {"Id": "n4", "Name": "z", "IPAM": {"Config": [{}, {"Subnet": None}, {"Subnet": "10.0.0.0/8"}]}},
    ]
    with engine({"GET /containers/json": containers, "GET /networks": networks}) as (it, _):
        found = it.find({})
    assert [(f.kind, f.id, f.name, f.state, dict(f.labels)) for f in found[:3]] == [
        ("container", "c1", "", "", {}),
        ("container", "c2", "", "running", {}),
        ("container", "c3", "tb", "exited", {"a": "b"}),
    ]
    assert dict(found[2].ports) == {"25/tcp": 32768}
    assert [(f.name, f.subnet) for f in found[3:]] == [("", None), ("x", None), ("y", None), ("z", "10.0.0.0/8")]


def test_an_engine_tells_of_itself_what_it_knows() -> None:
    with engine({"GET /info": {"NCPU": 2, "MemTotal": 1 << 30}}) as (it, _):
        assert it.info() == HostInfo(
            version="", api="1.41", kernel="", operating_system="", cpus=2, memory_b=1 << 30, cgroup="1", storage="",
            architecture="",
        )  # fmt: skip


def test_a_command_has_no_status_before_it_has_ended() -> None:
    """The engine says ``ExitCode: null`` of a command that runs on with its outputs closed."""
    inspected = [{"Running": True, "ExitCode": None}, {"Running": True}, {"Running": False, "ExitCode": 3}]
    answers: Answers = {
        "POST /containers/relay/exec": {"Id": "e1"},
        "POST /exec/e1/start": frame(1, "one\n"),
        "GET /exec/e1/json": inspected,
    }
    with engine(answers) as (it, _):
        assert it.node("relay").exec(("true",)).status == 3
    with engine(answers) as (it, _), pytest.raises(EngineFailed, match="status 3"):
        list(it.node("relay").exec_lines(("true",), timeout=9))


VERBS: dict[str, tuple[Answers, Callable[[DockerHost], object]]] = {
    "info": ({"GET /info": {}}, lambda it: it.info()),
    "info without a machine": ({"GET /info": {"NCPU": None}}, lambda it: it.info()),
    "image": ({"GET /images/base/json": {"Config": {}}}, lambda it: it.images.find("base")),
    "images": ({"GET /images/json": [None]}, lambda it: it.images.list("x")),
    "exec": ({"POST /containers/relay/exec": {}}, lambda it: it.node("relay").exec(("true",))),
    "exec_lines": (
        {"POST /containers/relay/exec": {}},
        lambda it: list(it.node("relay").exec_lines(("true",), timeout=9)),
    ),
    "wait": ({"POST /containers/relay/wait": {"Error": None}}, lambda it: it.node("relay").wait()),
    "find": ({"GET /containers/json": [{}], "GET /networks": []}, lambda it: it.find({})),
    "find in a list that is none": ({"GET /containers/json": "x", "GET /networks": []}, lambda it: it.find({})),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_answer_that_lacks_what_is_needed_is_the_engines_failure(verb: str) -> None:
    answers, act = VERBS[verb]
    with engine(answers) as (it, _), pytest.raises(EngineFailed, match="cannot be read"):
        act(it)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"ServerVersion": "4.3.1", "Rootless": False}, "Podman 4.3.1"),
        ({"ServerVersion": "28.2.2", "SecurityOptions": ["name=seccomp", "name=rootless"]}, "28.2.2 in rootless mode"),
    ],
)
def test_an_engine_that_cannot_run_beds_is_refused_before_anything_is_made(facts: dict[str, Any], found: str) -> None:
    with (
        engine({"GET /info": {"NCPU": 2, "MemTotal": 1 << 30, **facts}}) as (it, _),
        pytest.raises(EngineFailed, match=f"runs as root.*{found}.*DOCKER_HOST"),
    ):
        it.info()
