"""The Compose files, read by Compose itself, where this machine has one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDERS = sorted((Path(__file__).parents[2] / "compose").glob("*/compose.yaml"))


def _compose() -> list[str] | None:
    """Return the command: the plugin of docker, or the older program that Debian 12 has."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ):
            return command
    return None


COMPOSE = _compose()


@pytest.mark.skipif(COMPOSE is None, reason="no Compose here (Debian 12: docker-compose, 13: docker-compose)")
@pytest.mark.parametrize("file", FOLDERS, ids=lambda file: str(file.parent.name))
def test_compose_reads_the_file_and_asks_for_the_parent(file: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TESTBED_PARENT"}
    for parent, said in ((None, "ip link add"), ("tbcp", "")):
        done = subprocess.run(
            [*(COMPOSE or ()), "--file", file, "config", "--quiet"],
            env={**environment, **({"TESTBED_PARENT": parent} if parent else {})},
            text=True,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode == 0) == bool(parent), done.stderr
        assert said in done.stderr
