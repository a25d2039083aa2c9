"""Help and completion are quick because of what they do not import (the times: tests/bench/help.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTBED = str(Path(sys.executable).with_name("testbed"))
HEAVY = {"docker", "dns", "hdrh", "requests", "rich", "yaml"}
OURS = {f"orchestrator{module}" for module in ("", ".cli", ".errors", ".interrupts", ".plaintext")}
"""What may be imported of ours, beside the modules of the command line."""


def imported(*arguments: str, **environment: str) -> set[str]:
    """Return the modules that a command imports, by the interpreter's own account; the command has to succeed."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", TESTBED, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "command", [(), ("run",), ("bisect",), ("capsule",), ("doctor",), ("up",), ("clean",)], ids=" ".join
)
def test_help_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    modules = imported(*command, "--help")
    assert "orchestrator.cli" in modules
    assert not modules & HEAVY
    assert {m for m in modules if m.startswith("orchestrator") and not m.startswith("orchestrator.cli.")} <= OURS


def test_the_first_help_does_without_pydantic() -> None:
    assert "pydantic" not in imported("--help")


@pytest.mark.parametrize("words", ["testbed ", "testbed run ", "testbed bisect ", "testbed doctor ", "testbed up "])
def test_completion_imports_nothing_heavy(words: str) -> None:
    asked = {"_TESTBED_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert not imported(**asked) & HEAVY


def test_help_of_a_scenario_shows_plain_types() -> None:
    shown = subprocess.run(
        [TESTBED, "run", "relay-throughput", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--rate" in shown
    assert "Annotated" not in shown
