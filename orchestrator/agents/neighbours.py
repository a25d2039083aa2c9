"""Probe of the neighbour table: queries many on-link addresses or connects to them at once; counts the outcomes.

::

    python3 -m orchestrator.agents.neighbours look-up FIRST COUNT NAME          query each for the MX of NAME over UDP
    python3 -m orchestrator.agents.neighbours connect FIRST COUNT PORT          open a TCP connection to each
    python3 -m orchestrator.agents.neighbours fill FIRST COUNT NAME             query each once, do not wait for answers

The addresses are COUNT consecutive IPv4 addresses from FIRST. Each takes an entry of the kernel's neighbour table
(arp(7)). Prints JSON lines: ``{"table": NeighbourTable}`` first and after each round of queries or connections, and
``{"report": Report}`` at the end (not for ``fill``).
"""

import errno
import json
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path

from orchestrator.agents.output import complain, say

TRIES = 3
"""Maximum number of queries to one address: as many as dig(1) sends, but at shorter intervals."""
ROUND_S = 1.0
CONNECT_S = 3.5
"""Time limit of all connections together, in seconds. The kernel repeats a SYN 1 s and 3 s after the first SYN."""
BATCH = 32
"""Number of queries between two reads of answers; a socket buffer holds a few hundred answers."""
IP_RECVERR = 11
"""Option of linux/in.h that the socket module does not define."""
MX, INTERNET, RECURSE = 15, 1, 0x0100
"""Type MX, class IN, and the RD bit of a header (RFC 1035, 3.2.2, 3.2.4, 4.1.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourTable:
    """Counters of the kernel's IPv4 neighbour table, shared by all network namespaces (NDTA_STATS, rtnetlink(7))."""

    t: float
    """Unix time."""
    entries: int
    fulls: int
    """Failed allocations of an entry since the boot (table_fulls)."""
    limit: int
    """Maximum number of entries: gc_thresh3 (arp(7))."""

    @classmethod
    def read(cls) -> "NeighbourTable":
        """Read the counters; they are the same in every network namespace."""
        command = ("ip", "-json", "-statistics", "ntable", "show", "name", "arp_cache")
        return cls.parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    @classmethod
    def parse(cls, output: str) -> "NeighbourTable":
        """Parse the output of ip(8), which lists the whole table and the parameters of every device."""
        whole = next(table for table in json.loads(output) if "dev" not in table)
        return cls(t=time.time(), entries=whole["entries"], fulls=whole["table_fulls"], limit=whole["thresh3"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Outcome of one attempt for each address."""

    asked: int
    reached: int
    """Addresses that answered a query or accepted the connection."""
    errors: dict[str, int]
    """Errno name -> number of failures of sendto(2) or connect(2), on a socket with default options."""
    told: dict[str, int]
    """Errno name -> number of failures of one more datagram to each unreached address. Its socket has the option
    IP_RECVERR (ip(7)); without this option, udp(7) sockets hide ENOBUFS."""
    dropped: int
    """Datagrams dropped by the kernel in this network namespace without an error (Udp SndbufErrors, /proc/net/snmp)."""


def look_up(addresses: Collection[str], name: str) -> Report:
    """Query each address over UDP until it answers, at most TRIES times."""
    query, before = _query(name), _dropped()
    waiting, errors = dict.fromkeys(addresses), Counter[str]()
    with _udp() as plain:
        for _ in range(TRIES):
            deadline = time.monotonic() + ROUND_S
            errors.update(_send(plain, query, waiting))
            _show()
            while waiting and (left := deadline - time.monotonic()) > 0 and select.select([plain], [], [], left)[0]:
                _receive(plain, waiting)
            if not waiting:
                break
    dropped = _dropped() - before
    with _udp() as strict:
        strict.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        named = Counter(_send(strict, query, dict(waiting)))
    reached = len(addresses) - len(waiting)
    return Report(asked=len(addresses), reached=reached, errors=dict(errors), told=dict(named), dropped=dropped)


def fill(addresses: Collection[str], name: str) -> None:
    """Query each address once without waiting for answers; each query adds a table entry until the table is full."""
    with _udp() as plain:
        list(_send(plain, _query(name), dict.fromkeys(addresses)))
    _show()


def connect(addresses: Collection[str], port: int) -> Report:
    """Open TCP connections to all addresses at once; close each connection once it is established."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opening: dict[int, socket.socket] = {}
    codes: list[int] = []
    poll = select.epoll()
    for address in addresses:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(0)
        code = client.connect_ex((address, port))
        if code == errno.EINPROGRESS:
            opening[client.fileno()] = client
            poll.register(client, select.EPOLLOUT)
        else:
            codes.append(code)
            client.close()
    deadline = time.monotonic() + CONNECT_S
    while opening and (left := deadline - time.monotonic()) > 0:
        for number, _ in poll.poll(left):
            with opening.pop(number) as client:
                codes.append(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    _show()
    for client in opening.values():
        client.close()
    errors = Counter(errno.errorcode[code] for code in codes if code)
    return Report(asked=len(addresses), reached=codes.count(0), errors=dict(errors), told={}, dropped=0)


def _send(asking: socket.socket, query: bytes, waiting: dict[str, None]) -> Iterator[str]:
    """Send a query to each address, and remove the addresses that answer; yield the errno name of each failure."""
    for number, address in enumerate(list(waiting), 1):
        try:
            asking.sendto(query, (address, 53))
        except OSError as error:
            yield errno.errorcode.get(error.errno or 0, str(error))
        if number % BATCH == 0:
            _receive(asking, waiting)


def _receive(asking: socket.socket, waiting: dict[str, None]) -> None:
    """Read the answers received so far, and remove their addresses from ``waiting``."""
    while True:
        try:
            _, (address, _) = asking.recvfrom(512)
        except BlockingIOError:
            return
        except OSError:
            continue
        waiting.pop(address, None)


def _udp() -> socket.socket:
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.settimeout(0)
    return asking


def _query(name: str) -> bytes:
    """Build a query for the MX of a name (RFC 1035, 4.1)."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode("ascii").split(b"."))
    return struct.pack(">6H", 1, RECURSE, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", MX, INTERNET)


def _dropped() -> int:
    """Read Udp SndbufErrors."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text(encoding="ascii").splitlines() if line[:4] == "Udp:"
    )
    return int(values[names.index("SndbufErrors")])


def _show() -> None:
    say({"table": asdict(NeighbourTable.read())})


def main(words: list[str]) -> int:
    """Run one of the three commands."""
    try:
        act, first, count, word = words
        start = int(IPv4Address(first))
        addresses = [str(IPv4Address(start + n)) for n in range(int(count))]
        acts: dict[str, Callable[[], Report | None]] = {
            "look-up": lambda: look_up(addresses, word),
            "connect": lambda: connect(addresses, int(word)),
            "fill": lambda: fill(addresses, word),
        }
        _show()
        report = acts[act]()
    except (ValueError, KeyError) as error:
        complain(f"{error}\n{__doc__}")
        return 2
    if report:
        say({"report": asdict(report)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
