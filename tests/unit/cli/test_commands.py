"""docs/commands.md names every command with the words of its help."""

import re
from pathlib import Path

import typer

from orchestrator import cli
from orchestrator.errors import ExitCode

PAGE = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `testbed (\S+)[^`]*` \| (.*) \| (.*) \|$", re.MULTILINE)


def test_the_page_of_the_commands_says_what_their_help_says() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    helped = {name: " ".join((command.help or "").split()) for name, command in commands.items()}
    assert {name: text for name, text, _ in ROW.findall(PAGE)} == helped


def test_the_page_names_the_exit_codes_that_there_are() -> None:
    named = {int(code) for code in re.findall(r"\b\d+\b", " ".join(codes for *_, codes in ROW.findall(PAGE)))}
    named |= {
        int(code) for code in re.findall(r"\b\d+\b", PAGE.partition("Every command ends")[2].partition("\n\n")[0])
    }
    assert named == set(ExitCode)
