"""Settings of the host's kernel: one command at a time changes them, with the user's consent, and restores them.

The settings apply to every network namespace of the machine. So they need consent and a lock, and change only briefly.
The lock is a container that is never started. Its name is unique in the engine; its labels hold the old and new values,
so that any other command can restore the old values.
"""

import json
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from orchestrator.errors import EngineFailed, HostCannot, Problem
from orchestrator.hosts import ContainerSpec, Found, Host
from orchestrator.hosts.helper import HELPER, on_the_host
from orchestrator.hosts.ownership import ID, Identity
from orchestrator.interrupts import shielded

LOCK = "testbed-host-settings"
"""Name of the lock container."""
SETTINGS = "testbed.settings"
"""Label of the lock container: ``_Values`` as JSON."""

_NAME = re.compile(r"net\.ipv4\.neigh\.default\.gc_thresh[123]")
_VALUE = re.compile(r"\d{1,10}")
_READ = 'for name do cat "/proc/sys/$(echo "$name" | tr . /)"; done'
_WRITE = """
failed=
while [ $# -gt 0 ]; do
    file=/proc/sys/$(echo "$1" | tr . /)
    now=$(cat "$file") && { [ "$now" != "$2" ] || echo "$3" > "$file"; } || failed=yes
    shift 3
done
[ -z "$failed" ]
"""
"""Arguments: name, old value, new value of each setting. A setting that no longer has its old
value is not changed. If the kernel refuses one value, the script still writes the others."""
_TRIES = 5

_Values = Mapping[str, tuple[str, str]]
"""Name of a setting as in sysctl(8) -> (old value, value while the lock is held)."""


class HostSettings:
    """Context manager that holds the lock; ``apply`` raises settings that are too low; the exit restores old values.

    ::

        with HostSettings(host, {"net.ipv4.neigh.default.gc_thresh3": "16384"}) as settings:
            ...
            settings.apply()
            ...

    After SIGKILL, ``cleaning`` restores the settings.

    Raises:
        HostCannot: another command holds the lock.
        EngineFailed: the kernel or the engine refused a change.
    """

    def __init__(self, host: Host, wanted: Mapping[str, str]) -> None:
        self._host, self._wanted = host, wanted
        self._lock: str | None = None
        self._identity = Identity(bed="host-settings")
        self._values: _Values = {}

    def __enter__(self) -> Self:
        try:
            with shielded():
                self._take()
        except BaseException as error:  # such as a signal that ``shielded`` held back: the lock may exist
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with shielded():
            try:
                if self._lock:
                    _restore(self._host, self._values)
                    self._host.node(self._lock).remove()
                    self._lock = None
            except Problem as problem:
                if error is None:
                    raise
                error.add_note(f"settings of the host are not restored: {problem.found}; `testbed clean` tries again")

    def apply(self) -> None:
        """Write the wanted values."""
        _change(self._host, self._values)

    def _take(self) -> None:
        """Create the lock with the current values in its label; if a value changes during this, start again."""
        for _ in range(_TRIES):
            now = self._read()
            self._values = {name: (now[name], max(now[name], new, key=int)) for name, new in self._wanted.items()}
            self._lock = self._make()
            if self._read() == now:
                return
            self._host.node(self._lock).remove()
            self._lock = None
        raise HostCannot("settings of the host that stay as they are", "another program changes them", "try again")

    def _make(self) -> str:
        labels = {**self._identity.labels(), SETTINGS: json.dumps(self._values)}
        try:
            return self._host.create(ContainerSpec(name=LOCK, image=HELPER, command=("true",), labels=labels)).id
        except EngineFailed:
            for other in self._host.find({SETTINGS: None}):
                if other.labels.get(ID) == self._identity.id:
                    return other.id  # the lock is ours: only the engine's answer was lost
                raise HostCannot(
                    f"exclusive use of {', '.join(self._values)}",
                    f"another command changes settings of this host ({other.labels.get(ID)})",
                    "wait for its end; after a killed command, `testbed clean` restores the settings",
                ) from None
            raise

    def _read(self) -> dict[str, str]:
        return dict(zip(self._wanted, _run(self._host, _READ, *self._wanted).split(), strict=True))


def put_back(host: Host, lock: Found) -> None:
    """Restore the settings changed by the owner of a lock; idempotent.

    Raises:
        EngineFailed: the kernel or the engine refused a value; the other settings are restored.
    """
    try:
        values = {name: (str(old), str(new)) for name, (old, new) in json.loads(lock.labels[SETTINGS]).items()}
    except (ValueError, AttributeError, TypeError) as error:
        needed = f"settings of the host in the label of {lock.name}"
        raise EngineFailed(needed, str(error), "remove that container") from error
    _restore(host, values)


def _restore(host: Host, values: _Values) -> None:
    """Restore the old value of every setting that still has the new value."""
    _change(host, {name: (new, old) for name, (old, new) in values.items()})


def _change(host: Host, values: _Values) -> None:
    """Write the second value of every setting that still has the first value."""
    for name, both in values.items():
        if not _NAME.fullmatch(name) or not all(map(_VALUE.fullmatch, both)):
            raise EngineFailed("a setting that this program changes", f"{name}: {both}", "see the label of its lock")
    _run(host, _WRITE, *(word for name, both in values.items() for word in (name, *both)))


def _run(host: Host, script: str, *words: str) -> str:
    """Run a script that may write settings. Root owns the settings; root needs no capability (net_ctl_permissions)."""
    return on_the_host(host, script, *words, needed="settings of the host's kernel", writes_sysctls=True)
