"""Settings of the host: one changer at a time, and back however it ends."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import EngineFailed, HostCannot
from orchestrator.hosts import ContainerSpec, Host, Output, cleaning, kernel_settings, ownership
from orchestrator.hosts.kernel_settings import LOCK, SETTINGS, HostSettings
from orchestrator.interrupts import Interrupted, raise_on_signals
from tests.unit.hosts.broken import broken
from tests.unit.hosts.fake import FakeHost

NAME = "net.ipv4.neigh.default.gc_thresh3"
WANTED = {NAME: "16384"}


class Kernel:
    """A kernel with one setting, under an engine in memory."""

    def __init__(self) -> None:
        self.values = {NAME: "1024"}
        self.reads = 0
        self.engine = FakeHost(self.answer)

    def answer(self, spec: ContainerSpec, command: tuple[str, ...]) -> Output:
        """Read or write it, as the helper's script would."""
        assert (spec.host_network, spec.writes_sysctls, spec.capabilities) == (True, True, ())
        script, words = command[2], command[4:]
        if script == kernel_settings._READ:
            self.reads += 1
            return Output(status=0, stdout="".join(f"{self.values[name]}\n" for name in words), stderr="")
        for name, old, new in zip(words[::3], words[1::3], words[2::3], strict=True):
            if self.values[name] == old:
                self.values[name] = new
        return Output(status=0, stdout="", stderr="")

    @property
    def as_it_was(self) -> bool:
        """The setting has its value, and nothing is left in the engine."""
        return self.values == {NAME: "1024"} and self.engine.find({}) == []


@pytest.fixture
def host() -> Kernel:
    return Kernel()


@pytest.fixture
def signals() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    raise_on_signals()
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_it_is_changed_when_that_is_said_and_comes_back(host: Kernel) -> None:
    with HostSettings(host.engine, WANTED) as settings:
        assert host.values[NAME] == "1024"
        settings.apply()
        assert host.values[NAME] == "16384"
    assert host.as_it_was


def test_a_setting_that_is_higher_already_is_never_lowered(host: Kernel) -> None:
    host.values[NAME] = "65536"
    with HostSettings(host.engine, WANTED) as settings:
        settings.apply()
        assert host.values[NAME] == "65536"
    assert host.values[NAME] == "65536"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_it_comes_back_after_a_failure(host: Kernel, error: BaseException) -> None:
    with pytest.raises(type(error)), HostSettings(host.engine, WANTED) as settings:  # noqa: PT012
        settings.apply()
        raise error
    assert host.as_it_was


@pytest.mark.usefixtures("signals")
def test_a_signal_while_the_lock_is_taken_leaves_nothing(host: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    take = HostSettings._take

    def interrupted(settings: HostSettings) -> None:
        take(settings)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(HostSettings, "_take", interrupted)
    with pytest.raises(Interrupted), HostSettings(host.engine, WANTED):
        pass
    assert host.as_it_was


def test_the_second_who_wants_to_is_refused_and_changes_nothing(host: Kernel) -> None:
    with HostSettings(host.engine, WANTED) as settings:
        settings.apply()
        with (
            pytest.raises(HostCannot, match="another command changes settings"),
            HostSettings(host.engine, {NAME: "99"}),
        ):
            pass
        assert host.values[NAME] == "16384"
    assert host.as_it_was


def test_a_value_that_moves_while_the_lock_is_taken_is_read_again(host: Kernel) -> None:
    real = host.answer

    def moving(spec: ContainerSpec, command: tuple[str, ...]) -> Output:
        done = real(spec, command)
        if host.reads == 1:
            host.values[NAME] = "2048"
        return done

    host.engine.answer = moving
    with HostSettings(host.engine, WANTED) as settings:
        settings.apply()
    assert host.values[NAME] == "2048"
    assert host.engine.find({}) == []


def test_what_somebody_else_has_set_meanwhile_stays(host: Kernel) -> None:
    with HostSettings(host.engine, WANTED) as settings:
        settings.apply()
        host.values[NAME] = "4096"
    assert host.values[NAME] == "4096"


@pytest.mark.parametrize("call", range(1, 11))
@pytest.mark.parametrize("late", [False, True])
def test_an_engine_that_breaks_at_any_call_leaves_what_clean_puts_back(
    host: Kernel, monkeypatch: pytest.MonkeyPatch, call: int, *, late: bool
) -> None:
    engine: Host = broken(host.engine, call, EngineFailed("an answer", "none", "try again"), late=late)
    try:
        with HostSettings(engine, WANTED) as settings:
            settings.apply()
    except EngineFailed:
        pass
    cleaned(host, monkeypatch)
    assert host.as_it_was


def cleaned(host: Kernel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Clean up as the command that follows does, when the one before is dead."""
    said: list[str] = []
    monkeypatch.setattr(ownership, "owner_state", lambda _label: ownership.Owner.DEAD)
    cleaning.clean(host.engine, everything=False, say=said.append)
    return said


def test_clean_puts_back_what_a_killed_command_left_and_leaves_a_living_one_alone(
    host: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = HostSettings(host.engine, WANTED)
    killed.__enter__()
    killed.apply()
    assert cleaning.clean(host.engine, everything=False, say=print).removed == []
    assert host.values[NAME] == "16384"
    assert cleaned(host, monkeypatch)[0].startswith("removing host-settings ")
    assert host.as_it_was


@pytest.mark.parametrize("error", [EngineFailed("a container removed", "busy", "wait"), RuntimeError("a bug")])
def test_settings_come_back_while_another_container_cannot_be_removed(
    host: Kernel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    killed = HostSettings(host.engine, WANTED)
    killed.__enter__()
    killed.apply()
    labels = killed._identity.labels()
    stays = host.engine.create(ContainerSpec(name="stays", image="x", command=("true",), labels=labels)).id
    remove = host.engine.remove

    def refuse(container: str) -> None:
        if container == stays:
            raise error
        remove(container)

    with monkeypatch.context() as patch:
        patch.setattr(host.engine, "remove", refuse)
        with pytest.raises(type(error), match=str(error)):
            cleaned(host, patch)
    assert host.values[NAME] == "1024"
    assert {found.name for found in host.engine.find({})} == {LOCK, "stays"}
    cleaned(host, monkeypatch)
    assert host.as_it_was


def test_a_setting_that_the_kernel_refuses_does_not_stop_the_others(tmp_path: Path) -> None:
    for name, value in (("a", "9"), ("c", "9"), ("d", "5")):
        (tmp_path / name).write_text(f"{value}\n")
    script = kernel_settings._WRITE.replace("/proc/sys", str(tmp_path))
    words = ("b", "9", "1", "a", "9", "1", "c", "9", "1", "d", "9", "1")
    done = subprocess.run(["sh", "-euc", script, "sh", *words], check=False, capture_output=True, text=True)
    assert (done.returncode, "b: No such file" in done.stderr) == (1, True)
    assert [(tmp_path / name).read_text() for name in "acd"] == ["1\n", "1\n", "5\n"]


@pytest.mark.parametrize(
    "label",
    [
        "no JSON",
        "[]",
        "1",
        '{"a": 1}',
        '{"a": ["1"]}',
        '{"a": [1, null]}',
        '{"kernel.core_pattern": ["a", "b"]}',
        f'{{"{NAME}": ["1;x", "16384"]}}',
    ],
)
def test_a_label_that_is_none_of_ours_is_refused(host: Kernel, monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    identity = ownership.Identity(bed="helper")
    labels: dict[str, Any] = {**identity.labels(), SETTINGS: label}
    host.engine.create(ContainerSpec(name=LOCK, image="x", command=("true",), labels=labels))
    with pytest.raises(EngineFailed):
        cleaned(host, monkeypatch)
    assert [found.name for found in host.engine.find({})] == [LOCK]
