"""A scenario is found without importing it, be it a module or a package."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from orchestrator import scenarios
from orchestrator.cli import scenario_commands
from orchestrator.cli.run import Runs
from orchestrator.errors import InvalidInput


def test_every_scenario_is_found() -> None:
    assert scenario_commands.names() == list(scenarios.known())


@pytest.mark.parametrize("name", scenarios.known())
def test_a_list_says_the_first_line_of_a_scenario(name: str) -> None:
    module = inspect.getmodule(type(scenarios.scenario(name)))
    listed = Runs().get_command(None, name).help
    assert module
    assert listed == (module.__doc__ or "").splitlines()[0]


def test_what_is_no_scenario_is_not_found() -> None:
    assert Runs().get_command(None, "-") is None


def test_a_parameter_from_disk_is_what_the_file_or_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "x").write_text("y")
    (tmp_path / "list").write_text("# who\nanna\n")
    seen: dict[str, Any] = {}
    made = scenario_commands.command("relay-throughput", lambda _scenario, values: seen.update(values))
    made.main(["--relay-files", str(tmp_path), "--recipients", str(tmp_path / "list")], standalone_mode=False)
    assert seen == {"relay_files": {"/etc/x": "y", "/list": "# who\nanna\n"}, "recipients": ["anna"]}


def test_only_an_option_that_is_given_can_contradict_another(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a.test\n")
    made = scenario_commands.command(
        "relay-throughput",
        lambda scenario, values: seen.append(scenario_commands.params_of(scenario, values).model_dump()["domains"]),
    )
    seen: list[int] = []
    made.main(["--domain-names", str(tmp_path / "list")], standalone_mode=False)
    assert seen == [1]
    with pytest.raises(InvalidInput, match="domains: 2560, but 1 named"):
        made.main(["--domain-names", str(tmp_path / "list"), "--domains=2560"], standalone_mode=False)
