"""What an inbox costs: 100,000 messages of 10 KB kept, and found again.

::

    .venv/bin/python -m tests.bench.inbox [--messages 100000]

Exit code 1 when it takes 200 MB of memory, a search by recipient 10 ms, or one by subject or by words 100 ms.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from orchestrator.agents.inbox import search
from orchestrator.agents.inbox.spool import Spool
from orchestrator.agents.inbox.stored import Envelope

SIZE = 10_240
LIMITS = {"memory": 200.0, "recipient": 10.0, "subject": 100.0, "words": 100.0, "common": 300.0, "starts": 300.0}
_DICE = random.Random(1)
_VOCABULARY = ["".join(_DICE.choices("aeioubcdfghlmnprst", k=_DICE.randint(2, 11))) for _ in range(30_000)]
_WORDS = _DICE.choices(_VOCABULARY, [1 / rank for rank in range(1, 30_001)], k=500_000)
_PROSE = "\r\n".join(" ".join(_WORDS[at : at + 12]) for at in range(0, len(_WORDS), 12))
"""Words as often as those of a language (Zipf); a message has a piece of it."""


def letter(number: int) -> bytes:
    """Return what follows DATA."""
    head = (
        f"From: Ann <ann{number % 100}@example.org>\r\nTo: user{number}@example.com\r\nSubject: order {number}\r\n\r\n"
    )
    at = number * 997 % (len(_PROSE) - SIZE)
    body = f"code{number}\r\n{_PROSE[at : at + SIZE - len(head)]}\r\n".encode()
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


def index(spool: Spool) -> float:
    """Index the words of all messages; return the seconds it takes."""
    start = time.perf_counter()
    for _ in spool.words.fill():
        pass
    return time.perf_counter() - start


def search_ms(spool: Spool, queries: Sequence[str], count: int = 1) -> float:
    """Return the median time of a search and its total, as the HTTP API needs both, in milliseconds."""
    times = []
    for query in queries:
        where = search.where(search.parse(query))
        start = time.perf_counter()
        spool.find(*where, limit=100)
        total = spool.total(*where)
        times.append((time.perf_counter() - start) * 1e3)
        assert total == count, query
    return median(times)


def size(folder: str) -> int:
    """Return the octets of the files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir())


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), most_b=1 << 40, most_messages=1 << 40)
        each_us = fill(spool, options.messages)
        before_b = size(folder)
        indexed_s = index(spool)
        words_mb = (size(folder) - before_b) / 1e6
        some = range(options.messages - 1, 0, -options.messages // 20)
        figures = {
            "recipient": search_ms(spool, [f"to:user{n}@example.com" for n in some]),
            "subject": search_ms(spool, [f'subject:"order {n}"' for n in some if n * 10 >= options.messages]),
            "words": search_ms(spool, [f"code{n}" for n in some if n * 10 >= options.messages]),
            "common": search_ms(spool, ["order"], options.messages),
            "starts": search_ms(spool, ["ord"], options.messages),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        spool.close()
    print(f"{options.messages:,} messages of {SIZE:,} octets kept, {each_us:.0f} us each")
    print(f"words indexed in {indexed_s:.1f} s, {indexed_s / options.messages * 1e6:.0f} us each; {words_mb:.0f} MB")
    print(", ".join(f"{name} {figures[name]:.2f}" for name in LIMITS) + " (memory in MB, searches in ms)")
    print(f"limits: {LIMITS}")
    return 0 if all(figures[name] < limit for name, limit in LIMITS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
