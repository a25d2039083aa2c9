"""Readiness probe: sends one stamped message to each of a few domains, with aiosmtplib.

::

    python3 -m orchestrator.agents.probe --server 198.18.0.3 --run 0123abcd --domains d0.test,d7.test

The message to the n-th domain has sequence number n. Its sender is ``probe`` at the first domain; its recipient is the
domain's first address in ``--recipients FILE`` (``LoadOrder.recipients``). If the server accepts every message, the
probe prints ``{"accepted": n}`` and exits with 0; else it prints the reply on standard error and exits with 1.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from aiosmtplib import SMTP, SMTPException

from orchestrator.agents.order import check_names, check_recipients
from orchestrator.agents.output import complain, say
from orchestrator.agents.smtp import HOST
from orchestrator.agents.wire import Composer

SIZE = 512
"""Octets of the body."""


async def probe(server: str, port: int, run: str, domains: list[str], recipients: list[str], seconds: float) -> None:
    """Send the messages over one connection, one after another; raises SMTPException or OSError."""
    sender = f"probe@{domains[0]}"
    composer = Composer(run, sender, domains, [SIZE], recipients)
    client = SMTP(hostname=server, port=port, timeout=seconds, local_hostname=HOST, start_tls=False, use_tls=False)
    async with client:
        for seq in range(len(domains)):
            now = time.monotonic_ns()
            to = composer.recipient(seq, seq).decode()
            await client.sendmail(sender, [to], composer.letter(seq, seq, now, now))


def _within(domains: list[str], file: Path | None) -> list[str]:
    """Return the file's local parts, and those of its addresses that are in these domains."""
    lines = file.read_text(encoding="ascii").split() if file else ["user"]
    return [line for line in lines if "@" not in line or line.partition("@")[2] in domains]


def main() -> int:
    """Run the probe."""
    parser = argparse.ArgumentParser(description="send one stamped message to each of a few domains")
    parser.add_argument("--server", required=True, metavar="ADDRESS")
    parser.add_argument("--port", type=int, default=25)
    parser.add_argument("--run", required=True, metavar="ID", help="eight hex digits")
    parser.add_argument("--domains", required=True, metavar="NAME,NAME,...")
    parser.add_argument("--recipients", type=Path, metavar="FILE", help="one address or local part a line")
    parser.add_argument("--timeout", type=float, default=20.0, metavar="SECONDS", help="for one reply")
    options = parser.parse_args()
    domains = options.domains.split(",")
    try:
        check_names(options.run, domains)
        recipients = _within(domains, options.recipients)
        check_recipients(domains, recipients)
        asyncio.run(probe(options.server, options.port, options.run, domains, recipients, options.timeout))
    except (SMTPException, OSError, ValueError) as error:
        complain(f"{options.server} port {options.port}: {type(error).__name__}: {error}")
        return 1
    say({"accepted": len(domains)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
