"""Send one stamped message to each of a few domains through a server, with the full SMTP library: is it ready?

::

    python3 -m orchestrator.agents.probe --server 198.18.0.3 --run 0123abcd --domains d0.test,d7.test

The n-th domain named gets sequence number n. Prints ``{"accepted": n}`` and exits with 0 when the server took every
message; else says on standard error what it answered, and exits with 1.
"""

import argparse
import asyncio
import sys
import time

from aiosmtplib import SMTP, SMTPException

from orchestrator.agents.order import check_names
from orchestrator.agents.output import complain, say
from orchestrator.agents.wire import Composer

SENDER = "probe@d0.test"
SIZE = 512
"""Octets of the body."""


async def probe(server: str, port: int, run: str, domains: list[str], seconds: float) -> None:
    """Send the messages, one after the other, over one connection.

    Raises:
        SMTPException, OSError: the server cannot be reached, or refused one.
    """
    composer = Composer(run, SENDER, domains, [SIZE])
    async with SMTP(hostname=server, port=port, timeout=seconds, start_tls=False, use_tls=False) as client:
        for seq, domain in enumerate(domains):
            now = time.monotonic_ns()
            await client.sendmail(SENDER, [f"user@{domain}"], composer.letter(seq, seq, now, now))


def main() -> int:
    """Run the probe."""
    parser = argparse.ArgumentParser(description="send one stamped message to each of a few domains")
    parser.add_argument("--server", required=True, metavar="ADDRESS")
    parser.add_argument("--port", type=int, default=25)
    parser.add_argument("--run", required=True, metavar="ID", help="eight hex digits")
    parser.add_argument("--domains", required=True, metavar="NAME,NAME,...")
    parser.add_argument("--timeout", type=float, default=20.0, metavar="SECONDS", help="for one reply")
    options = parser.parse_args()
    domains = options.domains.split(",")
    try:
        check_names(options.run, domains)
        asyncio.run(probe(options.server, options.port, options.run, domains, options.timeout))
    except (SMTPException, OSError, ValueError) as error:
        complain(f"{options.server} port {options.port}: {type(error).__name__}: {error}")
        return 1
    say({"accepted": len(domains)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
