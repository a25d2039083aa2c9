"""Code of the pytest plugin ``pytest_testbed``: beds of fixtures, marks, reports of failed tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from orchestrator.testing import MailBed


def mail_bed_fixture(
    *, scope: Any = "session", bed: "str | Path | Callable[[], MailBed]" = "mail"
) -> Callable[[pytest.FixtureRequest], "Iterator[MailBed]"]:
    """Return a fixture of a bed, for a conftest.py or a test module.

    ``mail_bed = mail_bed_fixture(scope="module")`` replaces the fixture ``mail_bed`` of the plugin, and so the bed
    that ``mailbox`` and ``inbox`` use.

    Args:
        scope: a scope of pytest.
        bed: the name of a built-in bed, a YAML file (relative to pytest's rootdir), or a function that returns an
            unstarted MailBed.
    """

    @pytest.fixture(scope=scope)
    def mail_bed(request: pytest.FixtureRequest) -> "Iterator[MailBed]":
        """Provide a bed."""
        yield from hold(request, bed)

    return mail_bed


def hold(request: pytest.FixtureRequest, bed: "str | Path | Callable[[], MailBed]" = "mail") -> "Iterator[MailBed]":
    """Bring a bed up for a fixture, yield it, and take it down at the end of the fixture."""
    from orchestrator.testing.plugin.beds import Beds  # noqa: PLC0415 - 1 s of imports, at the first use only

    with Beds.of(request.config).hold(request, bed) as held:
        yield held
