"""Signals: one exception on the way in, none inside a shield, and none is swallowed."""

import gc
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from orchestrator.cli import shell
from orchestrator.errors import ExitCode
from orchestrator.interrupts import Interrupted, raise_on_signals, shielded

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = [signal.getsignal(number) for number in NUMBERS]
    raise_on_signals()
    yield
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


def raises_again() -> bool:
    """Say whether each of the signals still raises."""
    for number in NUMBERS:
        try:
            signal.raise_signal(number)
        except Interrupted as interrupted:
            if str(interrupted) == number.name:
                continue
        return False
    return True


def shield(*numbers: signal.Signals, fails: bool = False) -> list[str]:
    """Send signals to ourselves inside a nested shield; return what the block did, and the signal that came of it."""
    did = []
    try:
        with shielded():
            with shielded():
                for number in numbers:
                    signal.raise_signal(number)
            did.append("went on")
            if fails:
                raise KeyError
    except Interrupted as interrupted:
        did += [str(interrupted), type(interrupted.__context__).__name__]
    return did


def test_a_signal_inside_waits_for_the_end_of_the_outer_block() -> None:
    assert shield(signal.SIGTERM) == ["went on", "SIGTERM", "NoneType"]
    assert raises_again()


def test_several_signals_inside_are_one_request_to_end() -> None:
    assert shield(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) == ["went on", "SIGHUP", "NoneType"]
    assert shield() == ["went on"], "nothing is left over for the next shield"
    assert raises_again()


def test_a_block_that_fails_loses_no_signal() -> None:
    assert shield(signal.SIGINT, fails=True) == ["went on", "SIGINT", "KeyError"]
    assert raises_again()


def send_before_opcode(number: int) -> tuple[int, bool, list[str]]:
    """Send SIGINT before opcode ``number`` of a shield; return the opcodes run until then, if it raised, what was done.

    Handlers run between two opcodes, so these are all the moments there are.
    """
    count, raised = 0, False
    did: list[str] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == number:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    def work() -> None:
        with shielded():
            did.append("begun")
            did.append("done")

    gc.disable()  # an exception in the destructor of somebody else's object is lost, whoever raises it
    try:
        sys.settrace(trace)
        work()
    except Interrupted:
        raised = True
    finally:
        sys.settrace(None)
        gc.enable()
    return count, raised, did


def test_no_moment_is_a_bad_one() -> None:
    whole, _, _ = send_before_opcode(0)
    assert whole > 50
    for number in range(1, whole + 1):
        _, raised, did = send_before_opcode(number)
        assert raised, f"swallowed at opcode {number}"
        assert did in ([], ["begun", "done"]), f"broken off at opcode {number}"
        assert raises_again(), f"deaf after a signal at opcode {number}"


STORM = """
import os, signal, sys, threading
from orchestrator.interrupts import Interrupted, raise_on_signals, shielded

raise_on_signals()
threading.Thread(target=threading.Event().wait, daemon=True).start()  # the kernel may choose this one
begun = done = 0

def clean_up():
    global begun, done
    with shielded():
        begun += 1
        with shielded():
            "".join(str(n) for n in range(20))
        done += 1

heard = "ready"
while True:
    try:
        if heard:
            os.write(1, f"{heard} {done == begun}\\n".encode())
            heard = ""
        while True:
            clean_up()
    except Interrupted as interrupted:
        heard = str(interrupted)
"""


def test_a_thousand_signals_at_random_moments_are_all_heard_and_break_nothing() -> None:
    rng = random.Random(4)
    with subprocess.Popen([sys.executable, "-c", STORM], stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdout
        try:
            assert child.stdout.readline() == b"ready True\n"
            for sent in range(1000):
                until = time.perf_counter() + rng.random() * 1e-4
                while time.perf_counter() < until:
                    pass
                number = rng.choice(NUMBERS)
                child.send_signal(number)
                assert select.select([child.stdout], [], [], WAIT_S)[0], f"signal {sent} of 1,000 was swallowed"
                assert child.stdout.readline() == f"{number.name} True\n".encode()
        finally:
            child.kill()


THREADS = """
import os, signal, sys, threading
from orchestrator.interrupts import Interrupted, raise_on_signals, shielded

raise_on_signals()
inside, sent = threading.Event(), threading.Event()

def other():
    with shielded():  # of no effect in another thread: signals are the main one's
        inside.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        sent.set()

thread = threading.Thread(target=other)
thread.start()
try:
    with shielded():
        inside.set()
        thread.join()
        sent.wait()
        blocked = os.popen("grep SigBlk /proc/self/status").read().split()[1]
        print("whole", int(blocked, 16), flush=True)
except Interrupted as interrupted:
    print(interrupted, flush=True)
"""


def test_a_signal_that_another_thread_takes_is_held_back_too_and_children_inherit_no_mask() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert done.stdout.splitlines() == ["whole 0", "SIGTERM"]


def test_a_signal_in_the_first_moment_of_a_command_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise_on_signals()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(shell, "raise_on_signals", interrupted)
    with pytest.raises(SystemExit) as end:
        shell.run_guarded(lambda: None)
    assert end.value.code == ExitCode.INTERRUPTED
    assert "interrupted (SIGTERM)" in capsys.readouterr().err
