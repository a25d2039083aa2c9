"""A process that holds a bed, for tests that kill it: it prints its owner label, its watchdog, and each phase."""
# ruff: noqa: T201  its lines are what the test reads

import os
import smtplib
import time

from orchestrator.hosts.ownership import this_process
from orchestrator.testing import watchdog

if os.environ.get("BEDS") == "testcontainers":
    from orchestrator.testing.containers import MailBed
else:
    from orchestrator.testing import MailBed  # type: ignore[assignment]

print("owner", this_process(), flush=True)
bed = MailBed()
print("start", flush=True)
bed.start()
print("watchdog", watchdog._watchdogs[this_process()].process.pid, flush=True)
print("tests", flush=True)
until = time.monotonic() + 2
while time.monotonic() < until:
    box = bed.mailbox()
    with smtplib.SMTP(bed.relay.host, bed.relay.port, timeout=30) as smtp:
        smtp.sendmail("ann@example.org", box, "Subject: hello\r\n\r\ntext\r\n")
    bed.inbox.wait_for(to=box, timeout=30)
print("stop", flush=True)
bed.stop()
print("stopped", flush=True)
