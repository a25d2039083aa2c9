"""A scenario is found without importing it, be it a module or a package."""

import inspect

import pytest

from orchestrator import scenarios
from orchestrator.cli import asking
from orchestrator.cli.run import Runs


def test_every_scenario_is_found() -> None:
    assert asking.names() == list(scenarios.known())


@pytest.mark.parametrize("name", scenarios.known())
def test_a_list_says_the_first_line_of_a_scenario(name: str) -> None:
    module = inspect.getmodule(type(scenarios.scenario(name)))
    listed = Runs().get_command(None, name).help
    assert module
    assert listed == (module.__doc__ or "").splitlines()[0]


def test_what_is_no_scenario_is_not_found() -> None:
    assert Runs().get_command(None, "-") is None
