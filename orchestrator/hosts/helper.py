"""The helper: a one-shot container that runs a shell script on the engine's machine, with the rights it names."""

import secrets

from orchestrator.errors import EngineFailed
from orchestrator.hosts import ContainerSpec, Host
from orchestrator.hosts.ownership import Identity

HELPER = "testbed/helper:bookworm"


def on_the_host(
    host: Host,
    script: str,
    *words: str,
    needed: str,
    do: str = "see `testbed doctor`",
    bed: Identity | None = None,
    host_network: bool = True,
    capabilities: tuple[str, ...] = (),
    writes_sysctls: bool = False,
) -> str:
    """Run a script for ``sh -eu`` with these arguments and return its output.

    ``needed`` and ``do``: purpose of the script, and cure of its failure, for the error message. ``bed``: the bed whose
    labels the container gets, so that a clean-up of that bed removes it.

    Raises:
        EngineFailed: the script failed, or the engine refused.
    """
    identity = bed or Identity.reading()
    done = host.run(
        ContainerSpec(
            name=identity.name(f"helper-{secrets.token_hex(3)}"),
            image=HELPER,
            command=("sh", "-euc", script, "sh", *words),
            labels=identity.labels(),
            host_network=host_network,
            capabilities=capabilities,
            writes_sysctls=writes_sysctls,
        )
    )
    if done.status != 0:
        raise EngineFailed(needed, done.failure, do)
    return done.stdout
