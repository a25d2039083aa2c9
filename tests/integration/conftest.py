"""What the integration tests share: the engine, and one relay bed that is up."""

from collections.abc import Iterator

import pytest

from orchestrator.hosts import Host, docker
from tests.integration.beds import Up, bring_down, bring_up
from tests.integration.own_engine import OwnEngine, own_engine


@pytest.fixture(scope="session")
def real_engine() -> Host:
    """Return the engine of this machine."""
    return docker.connect()


@pytest.fixture(scope="session")
def relay_bed(real_engine: Host) -> Iterator[Up]:
    """Keep the built-in bed with 40 domains up while tests look at it."""
    bed = bring_up("relay", "--domains", "40")
    yield bed
    bring_down(real_engine, bed)


@pytest.fixture(scope="module")
def mail(real_engine: Host) -> Iterator[Up]:
    """Keep the bed `mail` up for one module of tests."""
    bed = bring_up("mail")
    yield bed
    bring_down(real_engine, bed)


@pytest.fixture(scope="session")
def own() -> Iterator[OwnEngine]:
    """Keep an engine of the tests' own up, with the images of the built-in bed."""
    with own_engine(tuple(f"testbed/{name}:bookworm" for name in ("agents", "bind", "helper", "postfix"))) as engine:
        yield engine
