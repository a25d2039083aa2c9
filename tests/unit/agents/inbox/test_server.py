"""The program of the inbox: it ends when it is told to."""

import json
import smtplib
import socket
import subprocess
import sys
from pathlib import Path


def test_sigterm_waits_for_no_client_that_stops_reading(tmp_path: Path) -> None:
    arguments = ("--listen", "127.0.0.1", "--smtp", "0", "--http", "0", "--spool", str(tmp_path / "spool"))
    command = [sys.executable, "-m", "orchestrator.agents.inbox.server", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            listening = json.loads(process.stdout.readline())
            with smtplib.SMTP("127.0.0.1", listening["smtp"][0], timeout=5) as smtp:
                smtp.sendmail("a@d0.test", ["b@d1.test"], b"Subject: big\r\n\r\n" + (b"x" * 998 + b"\r\n") * 20_000)
            with socket.create_connection(("127.0.0.1", listening["http"][0]), timeout=5) as silent:
                silent.sendall(b"GET /api/messages/1/raw HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert silent.recv(12) == b"HTTP/1.1 200"
                process.terminate()
                assert process.wait(timeout=6) == 0
        finally:
            process.kill()
