"""``--verbose``: every command has it, it shows what the program does on standard error, and nothing without it."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from orchestrator import cli
from orchestrator.cli.scenario_commands import command
from orchestrator.hosts import docker
from tests.unit.cli import test_errors as test_cli_errors
from tests.unit.cli.test_errors import Command
from tests.unit.cli.test_nodes import HalfUp

testbed = test_cli_errors.testbed


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger = logging.getLogger("orchestrator")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers, logger.level = handlers, level


def switches(command: Any) -> set[str]:
    """Return the names of a command's options."""
    return {name for parameter in command.params for name in parameter.opts}


def test_every_command_has_it_before_and_behind_its_name() -> None:
    whole: Any = typer.main.get_command(cli.app)
    scenarios = [command("relay-throughput", whole.commands[group].body) for group in ("run", "bisect")]
    for each in (whole, *whole.commands.values(), *scenarios):
        assert {"--verbose", "-v"} <= switches(each), each.name


@pytest.mark.parametrize("words", [("-v", "down"), ("down", "--verbose")], ids=" ".join)
def test_it_says_what_is_done_on_standard_error(
    testbed: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(docker, "connect", HalfUp)
    ended = testbed(*words)
    assert "orchestrator.hosts.cleaning: remove bed x " in ended.err
    assert "orchestrator" not in ended.out


def test_without_it_nothing_is_said(testbed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "connect", HalfUp)
    assert "orchestrator." not in testbed("down").err


def test_what_is_asked_of_an_engine_is_said_without_the_credentials_of_its_address(
    testbed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://anna:secret@127.0.0.1:1")
    told = [line for line in testbed("ps", "-v").err.splitlines() if "orchestrator.hosts.docker: " in line]
    assert [line.partition(": ")[2] for line in told] == ["connect to tcp://127.0.0.1:1"]


def test_text_of_others_is_made_plain(testbed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "connect", HalfUp)
    testbed("down", "-v")
    logging.getLogger("orchestrator.hosts").debug("\x1b[31mred")
    assert "\x1b" not in testbed("down").err
