"""A real inbox under its memory limit: large messages are viewed by several clients at once."""

import hashlib
import json
import smtplib
from base64 import encodebytes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from orchestrator.hosts import Host
from tests.integration.beds import Up, bring_down, bring_up

pytestmark = pytest.mark.docker

MEMORY_MB = 160
"""Limit of the container: what its plan says (``services.inbox``)."""
FILE = b"".join(i.to_bytes(4, "big") for i in range(9_000_000))
MULTIPART = (
    b"Subject: large\r\nDKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=x; h=subject; bh=x; b=x\r\n"
    b"Content-Type: multipart/mixed; boundary=cut\r\n\r\n"
)
LETTER = b"--cut\r\nContent-Type: text/html\r\n\r\n<p>hello</p>\r\n--cut\r\n"
ATTACHED = b"Content-Type: application/zip; name=large.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
SENT = {
    "attachment": MULTIPART + LETTER + ATTACHED + encodebytes(FILE).replace(b"\n", b"\r\n") + b"--cut--\r\n",
    "boundaries": MULTIPART + LETTER + b"\r\n--cut\r\n\r\n" * 4_000_000,
    "text": b"Subject: large\r\n\r\n" + b"word " * 10_000_000 + b"\r\n",
}


@pytest.fixture(scope="module")
def inbox(real_engine: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    nodes = {"dns": {"service": "bind"}, "inbox": {"service": "inbox", "limits": {"memory_mb": MEMORY_MB}}}
    file = tmp_path_factory.mktemp("memory") / "memory.yaml"
    file.write_text(json.dumps({"name": "inboxmend", "lab": "bridge", "domains": ["example.com"], "nodes": nodes}))
    made = bring_up(Path(file))
    yield made
    bring_down(real_engine, made)


@pytest.mark.parametrize("kind", SENT)
def test_four_clients_view_a_message_of_50_mb_within_the_memory_limit(inbox: Up, kind: str) -> None:
    with smtplib.SMTP("127.0.0.1", inbox.port("inbox", "25/tcp"), timeout=60) as smtp:
        smtp.sendmail("ann@example.com", [f"{kind}@example.com"], SENT[kind])
    with httpx.Client(base_url=f"http://127.0.0.1:{inbox.port('inbox', '8025/tcp')}", timeout=120) as client:
        (id_,) = [one["id"] for one in client.get("/api/wait", params={"to": f"{kind}@example.com"}).json()["messages"]]

        def view(path: str) -> int:
            """Get a path, and keep none of its octets."""
            with client.stream("GET", path) as answer:
                for _ in answer.iter_bytes():
                    pass
                return answer.status_code

        for path in (f"/api/messages/{id_}", f"/api/messages/{id_}/raw", f"/api/messages/{id_}/authentication",
                     f"/api/v1/message/{id_}", f"/api/v1/message/{id_}/raw", f"/view/{id_}.html"):  # fmt: skip
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(view, [path] * 4)) == [200] * 4, path
        if kind == "attachment":
            whole = client.get(f"/api/messages/{id_}").json()
            assert (whole["html"], whole["parts"][1]["size"]) == ("<p>hello</p>", len(FILE))
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(view, [f"/api/messages/{id_}/parts/2"] * 4)) == [200] * 4
            (shown,) = client.get(f"/api/v1/message/{id_}").json()["Attachments"]
            assert shown["Checksums"]["SHA256"] == hashlib.sha256(FILE).hexdigest()
            assert client.get(f"/api/v1/message/{id_}/part/2").content == FILE
        assert client.get(f"/api/messages/{id_}/raw").content == SENT[kind]
