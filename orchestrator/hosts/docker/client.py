"""Clients of the Docker SDK, one for each thread, and translation of the SDK's errors."""

import logging
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
from urllib3.exceptions import HTTPError

from orchestrator.errors import EngineFailed
from orchestrator.hosts.docker import ssh

_log = logging.getLogger(__name__)

TIMEOUT_S = 120
"""Time limit for an answer of the engine."""
_POOL = 64
"""Connections kept open for the streams and calls of one thread."""


class Clients:
    """One client for each thread, because threads must not share a connection pool."""

    def __init__(
        self, client: docker.APIClient, options: Mapping[str, Any], *, forward: ssh.Forward | None = None
    ) -> None:
        self._forward = forward  # this reference keeps the forward open
        self._options = {**options, "version": client.api_version, "timeout": TIMEOUT_S, "max_pool_size": _POOL}
        self._local = threading.local()
        self._local.client = client

    @property
    def here(self) -> docker.APIClient:
        """The client of this thread."""
        if not hasattr(self._local, "client"):
            self._local.client = docker.APIClient(**self._options)
        client: docker.APIClient = self._local.client
        return client


@contextmanager
def translated(needed: str) -> Iterator[None]:
    """Log a request to the engine, and convert the SDK's exceptions to ``EngineFailed``."""
    _log.debug("ask for %s", needed)
    try:
        yield
    except docker.errors.APIError as error:
        raise EngineFailed(
            needed,
            f"the engine refused: {short(error)}",
            "correct the cause that it names; `testbed doctor` checks this host",
        ) from error
    except (docker.errors.DockerException, docker.errors.StreamParseError, HTTPError, OSError) as error:
        # Before ValueError: an exception of the library requests is an OSError, and may also be a ValueError.
        raise EngineFailed(needed, f"the engine did not answer: {short(error)}", "see whether it runs") from error
    except (KeyError, TypeError, AttributeError, ValueError, struct.error) as error:
        raise EngineFailed(
            needed,
            f"the engine's answer cannot be read: {error!r}"[:600],
            "report it with the engine's version (`docker version`)",
        ) from error


def short(error: Exception) -> str:
    """Return the engine's error text, at most 600 characters."""
    explained = getattr(error, "explanation", None)
    return str(explained or error)[:600]
