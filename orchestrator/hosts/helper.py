"""The helper: a one-shot container that runs a shell script on the engine's machine with the given rights."""

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
    """Run a script in ``sh -eu`` with ``words`` as its arguments; return its output.

    The error message contains ``needed`` (the script's purpose) and ``do`` (advice after a failure). ``bed``: give the
    container the labels of this bed, so that a clean-up of the bed removes the container.

    Raises:
        EngineFailed: the script failed, or the engine refused.
    """
    identity = bed or Identity(bed="helper")
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
