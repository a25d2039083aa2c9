"""Settings of the host's kernel: changed by one command at a time, with consent, and restored.

They belong to every network namespace of the machine, so a change is made with consent only, for a short time, and
under a lock. The lock is a container that is never started. An engine gives its name once, whoever asks from
wherever; its labels hold every value as it was and as it is to be, so that whoever finds it can put them back.
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
"""The name of the container that is the lock."""
SETTINGS = "testbed.settings"
"""Its label: JSON, name of each setting -> its value before, its value while the lock is held."""

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
"""Name, old value, new value: a value that somebody else has set meanwhile is theirs, and stays.
A refused one does not stop the others."""
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting."""

    name: str
    """As sysctl(8) has it."""
    before: str
    wanted: str


class HostSettings:
    """Settings that will be raised, and are put back on the way out, however that comes about; a higher one stays.

    ::

        with HostSettings(engine, {"net.ipv4.neigh.default.gc_thresh3": "16384"}) as settings:
            ...
            settings.apply()
            ...

    Entered, it holds the lock: nobody else changes them. After SIGKILL ``cleaning`` puts them back.

    Raises:
        HostCannot: another command holds the lock.
        EngineFailed: the kernel refuses.
    """

    def __init__(self, engine: Host, wanted: Mapping[str, str]) -> None:
        self._engine, self._wanted = engine, wanted
        self._lock: str | None = None
        self._identity = Identity(id=secrets.token_hex(4), bed="host-settings", kind=Kind.RUN, nodes=(), private=False)
        self._changes: tuple[Change, ...] = ()

    def __enter__(self) -> Self:
        try:
            with shielded():
                self._take()
        except BaseException as error:  # a signal that was held back: the lock is there
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with shielded():
            try:
                if self._lock:
                    _put_back(self._engine, self._identity, self._changes)
                    self._engine.node(self._lock).remove()
                    self._lock = None
            except Problem as problem:
                if error is None:
                    raise
                error.add_note(f"settings of the host are not back: {problem.found}; `testbed clean` tries again")

    def apply(self) -> None:
        """Give every setting its wanted value."""
        _write(self._engine, self._identity, [(c.name, c.before, c.wanted) for c in self._changes])

    def _take(self) -> None:
        """Take the lock with the values in it that stand when it is taken."""
        for _ in range(_TRIES):
            values = self._read()
            changes = tuple(
                Change(name=name, before=values[name], wanted=max(values[name], wanted, key=int))
                for name, wanted in self._wanted.items()
            )
            self._changes, self._lock = changes, self._make(changes)
            if self._read() == values:
                return
            self._engine.node(self._lock).remove()
            self._lock = None
        raise HostCannot("settings of the host that stand still", "somebody else changes them", "try again")

    def _make(self, changes: Iterable[Change]) -> str:
        said = {change.name: [change.before, change.wanted] for change in changes}
        labels = {**self._identity.labels(), SETTINGS: json.dumps(said)}
        try:
            return self._engine.create(ContainerSpec(name=LOCK, image=HELPER, command=("true",), labels=labels)).id
        except EngineFailed:
            for other in self._engine.find({SETTINGS: None}):
                if other.labels.get(ID) == self._identity.id:
                    return other.id  # it was made, and only the answer was lost
                raise HostCannot(
                    f"{', '.join(said)} to ourselves",
                    f"another command changes settings of this host ({other.labels.get(ID)})",
                    "wait for its end; `testbed clean` puts back what a killed one has left",
                ) from None
            raise

    def _read(self) -> dict[str, str]:
        names = list(self._wanted)
        return dict(zip(names, _on_the_host(self._engine, self._identity, _READ, *names).split(), strict=True))


def put_back(engine: Host, identity: Identity, lock: Found) -> None:
    """Put back the settings that the owner of a lock has changed; idempotent.

    Raises:
        EngineFailed: the kernel or the engine refused one; the others are back.
    """
    try:
        said = json.loads(lock.labels[SETTINGS])
        changes = [Change(name=name, before=str(before), wanted=str(wanted)) for name, (before, wanted) in said.items()]
    except (ValueError, AttributeError, TypeError) as error:
        raise EngineFailed(f"settings of the host in the label of {lock.name}", str(error), "remove it") from error
    _put_back(engine, identity, changes)


def _put_back(engine: Host, identity: Identity, changes: Iterable[Change]) -> None:
    """Give every setting that has its wanted value its old one."""
    _write(engine, identity, [(change.name, change.wanted, change.before) for change in changes])


def _write(engine: Host, identity: Identity, changes: Iterable[tuple[str, str, str]]) -> None:
    words = [word for change in changes for word in change]
    for name, *values in zip(words[::3], words[1::3], words[2::3], strict=True):
        if not _NAME.fullmatch(name) or not all(_VALUE.fullmatch(value) for value in values):
            raise EngineFailed("a setting that this program changes", f"{name}: {values}", "see the label of its lock")
    _on_the_host(engine, identity, _WRITE, *words)


def _on_the_host(engine: Host, identity: Identity, script: str, *words: str) -> str:
    """Run a script that may write settings: root owns them, so it needs no capability (net_ctl_permissions)."""
    done = engine.run(
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
