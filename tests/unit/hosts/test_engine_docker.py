"""What is told to the real engine, and what it tells, where no engine is needed to see it."""

import io
import struct
import tarfile
import time
from ipaddress import IPv4Network
from typing import Any

import pytest
from docker.errors import StreamParseError
from urllib3.exceptions import ProtocolError

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, LogLine, docker
from orchestrator.hosts.docker.api import (
    STDERR,
    STDOUT,
    archive,
    found_container,
    found_network,
    frames,
    host_config,
    lines,
    once,
)
from orchestrator.hosts.docker.client import translated


def test_a_container_is_asked_for_with_what_its_spec_names_and_no_more() -> None:
    spec = ContainerSpec(name="testbed-1-relay", image="postfix", command=("start",), labels={}, publish=("25/tcp",))
    assert host_config(spec) == {
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "PortBindings": {"25/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "512m", "max-file": "2", "compress": "false"}},
    }


def test_archived_files_are_not_of_this_moment() -> None:
    """Postfix waits until main.cf has not changed for a second: a relay's start took 1 s longer than it should."""
    with tarfile.open(fileobj=io.BytesIO(archive({"/etc/postfix/main.cf": b"biff = no\n"}))) as tar:
        assert [member.name for member in tar] == ["etc/postfix/main.cf"]
        assert all(member.mtime < time.time() - 3600 for member in tar)


def pieces(*texts: str) -> list[tuple[int, bytes]]:
    """Return pieces of a log, each ``STREAM STAMP TEXT``."""
    return [(int(text[0]), text[2:].encode()) for text in texts]


def test_a_log_that_is_told_again_after_a_rotation_is_told_once() -> None:
    before = pieces("1 T1 a\n", "1 T2 b\n", "2 T3 c\n", "1 T4 long,", "1 T4 long,", "1 T4 end\n")
    after = pieces("1 T5 a\n", "2 T6 x\n")
    for start in range(len(before)):
        if before[start - 1][1].endswith(b"\n"):  # a file begins with a whole line
            assert list(once([*before, *before[start:], *after])) == [*before, *after]


def test_lines_of_one_moment_are_all_told() -> None:
    told = pieces("1 T1 a\n", "1 T1 b\n", "2 T1 a\n", "1 T1 xx", "1 T1 xx", "1 T1 xx\n", "1 T2 a\n")
    assert list(once(told)) == told


def test_lines_are_put_together_from_the_pieces_of_both_streams() -> None:
    sent = [
        (STDOUT, b"1970-01-01T00:00:01.5Z one half,"),
        (STDERR, b"1970-01-01T00:00:02Z whole\r\n"),
        (STDOUT, b"1970-01-01T00:00:03.000000001Z the other\n"),
        (STDERR, b"1970-01-01T00:00:04Z no end"),
    ]
    printed = io.BytesIO(b"".join(struct.pack(">BxxxL", stream, len(piece)) + piece for stream, piece in sent))
    assert list(lines(frames(printed.read))) == [
        LogLine(t=2.0, text="whole"),
        LogLine(t=1.5, text="one half,the other"),
        LogLine(t=4.0, text="no end"),
    ]


@pytest.mark.parametrize(
    ("ipam", "subnets"),
    [
        ({"Config": [{"Subnet": "10.100.50.0/22"}]}, ["10.100.48.0/22"]),
        ({"Config": [{"Subnet": "2001:db8::1/64"}]}, []),
        ({"Config": [{"Subnet": "fd00::/8"}, {"Subnet": "10.1.0.0/16"}, {"Subnet": "10.2.0.9/16"}]},
         ["10.1.0.0/16", "10.2.0.0/16"]),
        ({"Config": [{"Gateway": "10.1.0.1"}, {"Subnet": None}, {"Subnet": ""}, {"Subnet": "none"}]}, []),
        ({"Config": [{"Subnet": "10.1.0.0/99"}]}, []),
        ({"Config": []}, []),
        ({"Config": None}, []),
        ({}, []),
        (None, []),
    ],
)  # fmt: skip
def test_a_network_is_read_whatever_its_address_management_says(ipam: Any, subnets: list[str]) -> None:
    found = found_network({"Id": "1", "Name": "x", "Labels": None, "IPAM": ipam})
    assert found.subnets == tuple(map(IPv4Network, subnets))
    assert found.subnet == (subnets[0] if subnets else None)


def test_an_object_of_the_engine_with_nothing_but_an_id_is_read() -> None:
    assert (found_network({"Id": "1"}).name, found_network({"Id": "1"}).labels) == ("", {})
    container = found_container({"Id": "1", "Names": [], "Ports": None})
    assert (container.name, container.labels, container.state, container.ports) == ("", {}, "", {})


@pytest.mark.parametrize("address", ["ssh://[", "ssh://[::1", "tcp://x:99999", "tcp://127.0.0.1:abc"])
def test_an_address_that_is_none_is_named_and_not_our_bug(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(EngineFailed) as refused:
        docker.connect()
    assert refused.value.found.startswith(f"{address}: ")


@pytest.mark.parametrize(
    "error", [struct.error("unpack requires a buffer of 8 bytes"), ProtocolError("broken"), StreamParseError("cut")]
)
def test_a_stream_that_the_engine_cuts_is_its_failure(error: Exception) -> None:
    with pytest.raises(EngineFailed), translated("a log"):
        raise error
