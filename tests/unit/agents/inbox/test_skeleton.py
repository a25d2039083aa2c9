"""The skeleton of a large message: its parts are those of the whole message."""

import time
from base64 import encodebytes
from pathlib import Path
from quopri import encodestring
from random import Random

import pytest

from orchestrator.agents.inbox import mime
from orchestrator.agents.inbox.skeleton import Skeleton

_RANDOM = Random(7)
OCTETS = _RANDOM.randbytes(100_000)
LINES = b"".join(b"line %d =C3=A9\n" % i for i in range(10_000))


def part(content: bytes, *fields: bytes) -> bytes:
    return b"".join([b"--b\r\n", *(field + b"\r\n" for field in fields), b"\r\n", content, b"\r\n"])


TYPE = b"Content-Type: multipart/mixed; boundary="
BASE64, QUOTED = (b"Content-Transfer-Encoding: " + name for name in (b"Base64", b"quoted-printable"))
NESTED = b"Subject: inside\r\nContent-Type: multipart/mixed; boundary=in\r\n\r\n--in\r\n\r\n" + LINES + b"--in--\r\n"
MESSAGES = [
    b"Subject: x\r\n\r\n" + LINES * 20,
    b"Content-Transfer-Encoding: base64\r\n\r\n" + encodebytes(OCTETS * 3),
    TYPE + b"b\r\n\r\n" + part(b"short") + part(encodebytes(OCTETS), BASE64) + part(LINES) + b"--b--\r\n",
    TYPE + b'"b"\r\n\r\n' + part(encodestring(OCTETS), QUOTED) + part(OCTETS, b"Content-Type: image/png"),
    TYPE + b"b\n\n" + part(LINES + b"--b is no boundary\r\n--bb\r\n" + LINES) + part(b"end"),
    TYPE + b"b\r\n\r\n" + part(NESTED, b"Content-Type: message/rfc822") + part(b"end") + b"--b--\r\n" + LINES,
    TYPE + b"none\r\n\r\n" + LINES * 2,
    TYPE + b"b\r\n\r\n" + LINES + part(b"x" * 200_000) + part(b"x" * 8191) + part(b"", BASE64),
    b"X: " + b"y" * 50_000 + b"\r\n\r\n" + LINES,
    b"--",
]


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_parts_of_a_skeleton_are_those_of_the_message(tmp_path: Path, message: bytes) -> None:
    path = tmp_path / "message"
    path.write_bytes(message)
    found, whole = mime.read_file(path).parts, mime.read(message).parts
    assert [(p.id, p.content_type, p.filename, p.size) for p in found] == [
        (p.id, p.content_type, p.filename, p.size) for p in whole
    ]
    assert [b"".join(p.octets()) for p in found] == [b"".join(p.octets()) for p in whole]
    assert [p.text for p in found] == [p.text for p in whole]
    assert len(Skeleton(path).octets) < 160_000


def test_a_deleted_message_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(MESSAGES[2])
    body = mime.read_file(path)
    path.unlink()
    assert b"".join(body.part("2").octets()) == OCTETS


def test_a_look_for_boundaries_does_not_hold_up_the_process(tmp_path: Path) -> None:
    """A search holds the interpreter's lock: the inbox serves nobody meanwhile."""
    path = tmp_path / "message"
    path.write_bytes(TYPE + b"b\r\n\r\n" + part((b"QUJD" * 19 + b"\r\n") * 300_000, BASE64) + b"--b--\r\n")
    begun = time.process_time()
    Skeleton(path)
    assert time.process_time() - begun < 0.6
