"""A session of pytest that holds a bed; tests kill it. It prints its owner label, its watchdog, and each phase."""
# ruff: noqa: T201  its lines are what the test reads

import os
import smtplib
import time
from collections.abc import Iterator

import pytest

from orchestrator.hosts.ownership import this_process
from orchestrator.testing import mail_bed_fixture, watchdog

if os.environ.get("BEDS") == "testcontainers":
    from orchestrator.testing.containers import MailBed
else:
    from orchestrator.testing import MailBed  # type: ignore[assignment]

made = mail_bed_fixture(bed=MailBed)


@pytest.fixture(scope="session")
def before() -> Iterator[None]:
    """Print the phases around the life of the bed."""
    print("\nowner", this_process(), flush=True)
    print("start", flush=True)
    yield
    print("stopped", flush=True)


def test_mail_arrives(before: None, made: MailBed) -> None:  # noqa: ARG001
    print("watchdog", watchdog._watchdogs[this_process()].process.pid, flush=True)
    print("tests", flush=True)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        box = made.mailbox()
        with smtplib.SMTP(made.relay.host, made.relay.port, timeout=30) as smtp:
            smtp.sendmail("ann@example.org", box, "Subject: hello\r\n\r\ntext\r\n")
        made.inbox.wait_for(to=box, timeout=30)
    print("stop", flush=True)
