"""pytest plugin of testbed: options, and the fixtures ``mail_bed``, ``mailbox`` and ``inbox``; see docs/testing.md.

This module imports no other module of testbed before a test uses one of the fixtures. The module is not in testbed's
package ``orchestrator``, because a project under test may have a package of the same name. In that case the fixtures
fail with an error that names the other package, and tests without these fixtures run.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import pytest

if TYPE_CHECKING:
    from orchestrator.testing import MailBed, Mailbox
    from orchestrator.testing.inbox import BedInbox

Scope: TypeAlias = Literal["session", "package", "module", "class", "function"]


class Shared(NamedTuple):
    """Folder and FIFO through which the workers of pytest-xdist share a bed; the workers' controller owns both."""

    folder: Path
    lifeline: int
    """File descriptor that is open for writing as long as the controller lives."""


_SHARED = pytest.StashKey[Shared]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and settings."""
    group = parser.getgroup("testbed", "testbed (beds for tests of mail and DNS)")
    group.addoption(
        "--testbed-keep",
        nargs="?",
        const="failed",
        choices=("failed", "always"),
        help="keep beds up after the tests: those that a failed test used (default), or all",
    )
    group.addoption(
        "--testbed-report",
        type=Path,
        metavar="DIR",
        help="for each failed test that used a bed, save the mail (.eml), the nodes' logs and the queue below DIR",
    )
    group.addoption(
        "--testbed-engine",
        choices=("skip", "require"),
        help="without a container engine, skip the tests that use a bed, or fail them (default if CI is set)",
    )
    scopes = "scope of the fixture mail_bed: session, package, module, class or function"
    parser.addini("mail_bed_scope", scopes, "string", "session")
    parser.addini(
        "mail_bed_workers",
        "beds of session scope under pytest-xdist: one `shared` by all workers, or one for `each`",
        "string",
        "shared",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the settings, which pytest does not check."""
    for name, choices in {"mail_bed_workers": ("shared", "each"), "mail_bed_scope": get_args(Scope)}.items():
        if (found := config.getini(name)) not in choices:
            raise pytest.UsageError(f"{name}: needed: {' or '.join(choices)}; found: {found!r}")


def _scope(fixture_name: str, config: pytest.Config) -> Scope:
    scope: Scope = config.getini(fixture_name + "_scope")
    return scope


@pytest.fixture(scope=_scope)
def mail_bed(request: pytest.FixtureRequest) -> "Iterator[MailBed]":
    """Provide a bed with a relay, DNS and an inbox, one for all tests, or in the scope of mail_bed_scope."""
    _require_ours()
    from orchestrator.testing.plugin import hold  # noqa: PLC0415 - imports nothing of testbed before a test needs it

    yield from hold(request)


@pytest.fixture
def mailbox(mail_bed: "MailBed") -> "Mailbox":
    """Return an address of this test alone."""
    return mail_bed.mailbox()


@pytest.fixture
def inbox(mail_bed: "MailBed") -> "BedInbox":
    """Return the inbox of the bed; mail that arrived before this test does not count."""
    return mail_bed.inbox


def _require_ours() -> None:
    """Fail the test if Python finds another package ``orchestrator`` than the one beside this module."""
    spec = importlib.util.find_spec("orchestrator")
    found = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    ours = Path(__file__).with_name("orchestrator")
    if not any(place.resolve() == ours.resolve() for place in found):
        other = ", ".join(map(str, found)) or (spec and spec.origin)
        pytest.fail(
            "the fixtures of pytest_testbed need testbed's package `orchestrator`\n"
            f"needed: {ours}\nfound:  {other}, another package of that name, which Python finds first\n"
            "do:     rename that package, or bring the bed up with `testbed up mail` from an environment of its own",
            pytrace=False,
        )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In a controller of pytest-xdist: tell a worker the folder through which the workers share a bed."""
    stash: pytest.Stash = node.config.stash
    if _SHARED not in stash:
        folder = Path(tempfile.mkdtemp(prefix="pytest-testbed-"))
        os.mkfifo(folder / "lifeline")
        stash[_SHARED] = Shared(folder, os.open(folder / "lifeline", os.O_RDWR))
    node.workerinput["testbed"] = {"folder": str(stash[_SHARED].folder), "controller": os.getpid()}


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    """In a controller of pytest-xdist: name the beds that stay up."""
    shared = config.stash.get(_SHARED, None)
    if shared and any(shared.folder.glob("*.json")):
        from orchestrator.testing.plugin import workers  # noqa: PLC0415

        for note in workers.notes(config, shared.folder):
            terminalreporter.write_line(note)


def pytest_unconfigure(config: pytest.Config) -> None:
    """In a controller of pytest-xdist: take the shared beds down. The workers have ended (pytest-xdist#1045)."""
    if shared := config.stash.get(_SHARED, None):
        try:
            if any(shared.folder.glob("*.json")):
                from orchestrator.testing.plugin import workers  # noqa: PLC0415

                workers.take_down(config, *shared)
        finally:
            os.close(shared.lifeline)
            shutil.rmtree(shared.folder, ignore_errors=True)
