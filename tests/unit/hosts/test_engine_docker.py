"""What is told to the real engine, and what it tells, where no engine is needed to see it."""

import io
import struct
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from docker.errors import APIError, StreamParseError
from urllib3.exceptions import ProtocolError

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, LogLine, docker
from orchestrator.hosts.docker import ssh
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
from orchestrator.hosts.docker.client import Clients, translated
from orchestrator.hosts.docker.node import DockerNode


def test_a_container_is_asked_for_with_what_its_spec_names_and_no_more() -> None:
    spec = ContainerSpec(name="testbed-1-relay", image="postfix", command=("start",), labels={}, publish=("25/tcp",))
    assert host_config(spec) == {
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "PortBindings": {"25/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "512m", "max-file": "2", "compress": "false"}},
    }


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_ports_are_published_at_the_address_of_the_spec(address: str) -> None:
    spec = ContainerSpec(name="x", image="x", command=(), labels={}, publish=("25/tcp",), publish_at=address)
    assert host_config(spec)["PortBindings"] == {"25/tcp": [{"HostIp": address, "HostPort": ""}]}


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
    "address",
    ["ssh://h/a:b", "ssh://h/a%b", "ssh://h/a$b", "ssh://h/a\\b", "ssh://h:0", "ssh://h:65536", "ssh://h:99999/x"],
)
def test_an_address_that_ssh_would_read_otherwise_is_refused(address: str) -> None:
    with pytest.raises(EngineFailed, match="correct DOCKER_HOST") as refused:
        ssh.parse(address)
    assert refused.value.found == address


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Point DOCKER_HOST at a server that speaks no TLS, and DOCKER_CERT_PATH at a folder of certificates."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*words, *files], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "ca.pem").write_bytes((tmp_path / "cert.pem").read_bytes())
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        yield tmp_path
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
def test_a_certificate_that_is_missing_is_named(certificates: Path, name: str) -> None:
    (certificates / name).unlink()
    with pytest.raises(EngineFailed, match="DOCKER_CERT_PATH") as refused:
        docker.connect()
    assert refused.value.found == f"{certificates / name}: No such file or directory"


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
def test_a_certificate_that_is_none_is_told_as_such(certificates: Path, name: str) -> None:
    (certificates / name).write_text("none")
    with pytest.raises(EngineFailed, match="DOCKER_CERT_PATH") as refused:
        docker.connect()
    assert refused.value.needed.startswith("a TLS connection to the engine")


@pytest.mark.usefixtures("certificates")
def test_an_engine_that_speaks_no_tls_is_told_as_such() -> None:
    with pytest.raises(EngineFailed, match="WRONG_VERSION_NUMBER") as refused:
        docker.connect()
    assert refused.value.needed.startswith("a TLS connection to the engine")


def test_an_engine_that_speaks_only_tls_is_told_as_such(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> None:  # as net/http of the engine does
        handler.wfile.write(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")

    assert certificates.is_dir()
    monkeypatch.setattr(BaseHTTPRequestHandler, "do_GET", refuse, raising=False)
    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name)
    with pytest.raises(EngineFailed, match="HTTPS server") as refused:
        docker.connect()
    assert refused.value.needed.startswith("a TLS connection to the engine")


@pytest.mark.parametrize(
    "error", [struct.error("unpack requires a buffer of 8 bytes"), ProtocolError("broken"), StreamParseError("cut")]
)
def test_a_stream_that_the_engine_cuts_is_its_failure(error: Exception) -> None:
    with pytest.raises(EngineFailed), translated("a log"):
        raise error


@pytest.mark.parametrize(
    ("refusals", "reason", "paused"),
    [(0, "", True), (4, "unable to freeze", True), (5, "unable to freeze", False), (1, "is not running", False)],
)
def test_a_pause_that_the_kernel_did_not_finish_is_tried_again(refusals: int, reason: str, *, paused: bool) -> None:
    answers = iter([APIError(f"OCI runtime pause failed: {reason}")] * refusals + [None])

    def pause(_: str) -> None:
        if error := next(answers):
            raise error

    node = DockerNode(cast("Clients", SimpleNamespace(here=SimpleNamespace(pause=pause))), "c1")
    if paused:
        node.pause()
    else:
        with pytest.raises(EngineFailed, match=reason):
            node.pause()
