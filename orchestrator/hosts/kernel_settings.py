"""Settings of the host's kernel: changed by one command at a time, with consent, and restored.

They apply to every network namespace of the machine, hence the consent, the short time and the lock. The lock is a
container that is never started: its name is unique in the engine, and its labels hold the old and new values, so that
any later command can restore them.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from orchestrator.errors import EngineFailed, HostCannot, Problem
from orchestrator.hosts import ContainerSpec, Found, Host
from orchestrator.hosts.networks import HELPER
from orchestrator.hosts.ownership import ID, Identity, Kind
from orchestrator.interrupts import shielded

LOCK = "testbed-host-settings"
"""Name of the lock container."""
SETTINGS = "testbed.settings"
"""Label of the lock, JSON: name of a setting -> its old value, its value while the lock is held."""

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
"""Arguments: name, old value, new value of each setting. A value changed by another program meanwhile stays.
A refused value does not stop the others."""
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Change of one setting."""

    name: str
    """Name as in sysctl(8)."""
    before: str
    wanted: str


class HostSettings:
    """Context that holds the lock, raises settings on ``apply`` and restores them at its end; higher values stay.

    ::

        with HostSettings(host, {"net.ipv4.neigh.default.gc_thresh3": "16384"}) as settings:
            ...
            settings.apply()
            ...

    After SIGKILL ``cleaning`` restores them.

    Raises:
        HostCannot: another command holds the lock.
        EngineFailed: the kernel refused a value.
    """

    def __init__(self, host: Host, wanted: Mapping[str, str]) -> None:
        self._host, self._wanted = host, wanted
        self._lock: str | None = None
        self._identity = Identity(id=secrets.token_hex(4), bed="host-settings", kind=Kind.RUN, nodes=(), private=False)
        self._changes: tuple[Change, ...] = ()

    def __enter__(self) -> Self:
        try:
            with shielded():
                self._take()
        except BaseException as error:  # a signal arrived during ``shielded``: the lock exists
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with shielded():
            try:
                if self._lock:
                    _put_back(self._host, self._identity, self._changes)
                    self._host.node(self._lock).remove()
                    self._lock = None
            except Problem as problem:
                if error is None:
                    raise
                error.add_note(f"settings of the host are not restored: {problem.found}; `testbed clean` tries again")

    def apply(self) -> None:
        """Write the wanted values."""
        _write(self._host, self._identity, [(c.name, c.before, c.wanted) for c in self._changes])

    def _take(self) -> None:
        """Create the lock with the current values in its label; try again if a value changed meanwhile."""
        for _ in range(_TRIES):
            values = self._read()
            changes = tuple(
                Change(name=name, before=values[name], wanted=max(values[name], wanted, key=int))
                for name, wanted in self._wanted.items()
            )
            self._changes, self._lock = changes, self._make(changes)
            if self._read() == values:
                return
            self._host.node(self._lock).remove()
            self._lock = None
        raise HostCannot("settings of the host that do not change", "another program changes them", "try again")

    def _make(self, changes: Iterable[Change]) -> str:
        values = {change.name: [change.before, change.wanted] for change in changes}
        labels = {**self._identity.labels(), SETTINGS: json.dumps(values)}
        try:
            return self._host.create(ContainerSpec(name=LOCK, image=HELPER, command=("true",), labels=labels)).id
        except EngineFailed:
            for other in self._host.find({SETTINGS: None}):
                if other.labels.get(ID) == self._identity.id:
                    return other.id  # only the engine's answer was lost
                raise HostCannot(
                    f"exclusive use of {', '.join(values)}",
                    f"another command changes settings of this host ({other.labels.get(ID)})",
                    "wait for its end; after a killed command, `testbed clean` restores the settings",
                ) from None
            raise

    def _read(self) -> dict[str, str]:
        names = list(self._wanted)
        return dict(zip(names, _on_the_host(self._host, self._identity, _READ, *names).split(), strict=True))


def put_back(host: Host, identity: Identity, lock: Found) -> None:
    """Restore the settings changed by the owner of a lock; idempotent.

    Raises:
        EngineFailed: the kernel or the engine refused one; the others are restored.
    """
    try:
        values = json.loads(lock.labels[SETTINGS])
        changes = [Change(name=name, before=str(old), wanted=str(new)) for name, (old, new) in values.items()]
    except (ValueError, AttributeError, TypeError) as error:
        raise EngineFailed(f"settings of the host in the label of {lock.name}", str(error), "remove it") from error
    _put_back(host, identity, changes)


def _put_back(host: Host, identity: Identity, changes: Iterable[Change]) -> None:
    """Restore the old value of every setting that still has its wanted one."""
    _write(host, identity, [(change.name, change.wanted, change.before) for change in changes])


def _write(host: Host, identity: Identity, changes: Iterable[tuple[str, str, str]]) -> None:
    words = [word for change in changes for word in change]
    for name, *values in zip(words[::3], words[1::3], words[2::3], strict=True):
        if not _NAME.fullmatch(name) or not all(_VALUE.fullmatch(value) for value in values):
            raise EngineFailed("a setting that this program changes", f"{name}: {values}", "see the label of its lock")
    _on_the_host(host, identity, _WRITE, *words)


def _on_the_host(host: Host, identity: Identity, script: str, *words: str) -> str:
    """Run a script that may write settings; as root, their owner, it needs no capability (net_ctl_permissions)."""
    done = host.run(
        ContainerSpec(
            name=identity.name(f"settings-{secrets.token_hex(3)}"),
            image=HELPER,
            command=("sh", "-euc", script, "sh", *words),
            labels=identity.labels(),
            host_network=True,
            writes_sysctls=True,
        )
    )
    if done.status != 0:
        raise EngineFailed("settings of the host's kernel", done.failure, "see `testbed doctor`")
    return done.stdout
