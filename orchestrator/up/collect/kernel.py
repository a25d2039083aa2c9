"""Kernel log of the engine's machine, read with dmesg in a helper container."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from orchestrator.hosts import Host
from orchestrator.hosts.helper import on_the_host

_READ = r"""
cut -d ' ' -f 1 /proc/uptime
date +%s.%N
log=$(dmesg --raw)
printf "%s\n" "$log" | grep -E "$1" || [ $? = 1 ]
"""
_LINE = re.compile(r"(?:<\d+>)?\[\s*(\d+\.\d+)\](?:\[[^]]*\])? ?(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLine:
    """One line of the kernel's log."""

    t: float = field(compare=False)
    """Approximate Unix time: the log's own clock differs from CLOCK_BOOTTIME and from CLOCK_REALTIME."""
    stamp: str
    """Seconds since the boot, as printed; unique together with the text."""
    text: str


def lines(host: Host, pattern: str, after: Collection[KernelLine] = ()) -> list[KernelLine]:
    """Return the lines in the kernel's buffer that match ``pattern`` (grep -E) and are not in ``after``.

    Raises:
        EngineFailed: the log could not be read.
    """
    output = on_the_host(
        host,
        _READ,
        pattern,
        needed="the kernel's log",
        do="read it with dmesg",
        host_network=False,
        capabilities=("SYSLOG",),
    )
    uptime, now, *printed = output.splitlines()
    boot = float(now) - float(uptime)
    matches = (_LINE.fullmatch(line) for line in printed)
    found = [KernelLine(t=boot + float(line[1]), stamp=line[1], text=line[2]) for line in matches if line]
    known = set(after)
    return [line for line in found if line not in known]
