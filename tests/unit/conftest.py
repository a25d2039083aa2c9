"""What all unit tests share."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The whole of the unit tests takes less than 10 s: what takes long for each example says so, and takes fewer.
settings.register_profile("quick", max_examples=50, deadline=None)
settings.load_profile("quick")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported: it stays to the end."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Leave out fsync(2): what a test writes need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield
