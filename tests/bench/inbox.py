"""What an inbox costs: 100,000 messages of 10 KB kept, and found again.

::

    .venv/bin/python -m tests.bench.inbox [--messages 100000]

Exit code 1 when it takes 200 MB of memory, a search by recipient 10 ms, or one by subject 100 ms.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from orchestrator.agents.inbox import search
from orchestrator.agents.inbox.spool import Envelope, Spool

SIZE = 10_240
LIMITS = {"memory": 200.0, "recipient": 10.0, "subject": 100.0}


def letter(number: int) -> bytes:
    """Return what follows DATA."""
    head = (
        f"From: Ann <ann{number % 100}@example.org>\r\nTo: user{number}@example.com\r\nSubject: order {number}\r\n\r\n"
    )
    body = b"A line of a message, as long as many are.\r\n" * ((SIZE - len(head)) // 43)
    return head.encode() + body + b".\r\n"


def fill(spool: Spool, messages: int) -> float:
    """Keep messages; return microseconds for each."""
    start = time.perf_counter()
    for number in range(messages):
        content = spool.begin(1 << 20)
        content.feed(letter(number))
        to = (f"user{number}@example.com",)
        spool.keep(content, Envelope(sender="ann@example.org", recipients=to, client="198.18.0.3", helo="relay"))
    return (time.perf_counter() - start) / messages * 1e6


def search_ms(spool: Spool, queries: Sequence[str]) -> float:
    """Return the median time of a search that finds one message, in milliseconds."""
    times = []
    for query in queries:
        start = time.perf_counter()
        found = spool.find(*search.where(search.parse(query)))
        times.append((time.perf_counter() - start) * 1e3)
        assert len(found) == 1, query
    return median(times)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), most_b=1 << 40, most_messages=1 << 40)
        each_us = fill(spool, options.messages)
        some = range(options.messages - 1, 0, -options.messages // 20)
        figures = {
            "recipient": search_ms(spool, [f"to:user{n}@example.com" for n in some]),
            "subject": search_ms(spool, [f'subject:"order {n}"' for n in some if n * 10 >= options.messages]),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        spool.close()
    print(f"{options.messages:,} messages of {SIZE:,} octets kept, {each_us:.0f} us each")
    print(f"search by recipient {figures['recipient']:.2f} ms, by subject {figures['subject']:.1f} ms")
    print(f"memory {figures['memory']:.0f} MB (limits: {LIMITS})")
    return 0 if all(figures[name] < limit for name, limit in LIMITS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
