"""A host with a Docker Engine (20.10 and later), chosen as docker(1) does; only this package imports the SDK."""

import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import docker.errors
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.utils import kwargs_from_env

from orchestrator.errors import EngineFailed
from orchestrator.hosts.docker import ssh
from orchestrator.hosts.docker.client import TIMEOUT_S, Clients, short
from orchestrator.hosts.docker.host import DockerHost

__all__ = ["DockerHost", "connect", "current_context"]

_CORRECT_TLS = (
    "correct DOCKER_TLS_VERIFY and DOCKER_CERT_PATH (a folder with ca.pem, cert.pem and key.pem), or unset both for an "
    "engine without TLS"
)

_log = logging.getLogger(__name__)


def connect() -> DockerHost:
    """Return the engine named by the environment or the current Docker context.

    Raises:
        EngineFailed: the engine does not answer, or this user may not use it.
    """
    forward, address = None, None
    try:
        options = _options()
        url = urlsplit(options.get("base_url") or "")
        where = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
        _log.debug("connect to %s", where if url.scheme else "the usual socket")
        if url.scheme == "ssh":
            forward = ssh.Forward(address := ssh.parse(options["base_url"]))
            options = {"base_url": f"unix://{forward.socket}"}
        elif url.hostname and url.hostname not in {"localhost", "127.0.0.1", "::1"}:
            address = ssh.Target(host=url.hostname)
        client = docker.APIClient(**options, version="auto", timeout=TIMEOUT_S)
    except (docker.errors.DockerException, OSError, ValueError, TypeError, AttributeError) as error:
        refused = forward.refused() if forward else None
        if forward:
            forward.close()
        if isinstance(error, docker.errors.DockerException | OSError):
            raise refused or _no_engine(error) from error
        raise EngineFailed(  # an unreadable address or configuration
            "an address of a container engine (DOCKER_HOST, or the current Docker context)",
            f"{os.environ.get('DOCKER_HOST') or 'a configuration of Docker that cannot be read'}: {error}",
            "correct it, or remove it",
        ) from error
    return DockerHost(Clients(client, options, forward=forward), address=address)


def current_context() -> str:
    """Return the name of the current Docker context; ``default`` if none is chosen."""
    return str(get_current_context_name() or "default")


def _options() -> dict[str, Any]:
    """Return the client's options in docker(1)'s order: DOCKER_HOST, else DOCKER_CONTEXT, else the current context."""
    _look_at_certificates()
    options: dict[str, Any] = {**kwargs_from_env()}
    if not os.environ.get("DOCKER_HOST"):
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT") or None)
        if context is None:
            raise EngineFailed("the chosen Docker context", "no context has this name", "see `docker context ls`")
        if context.Host:
            options |= {"base_url": context.Host, **({"tls": context.TLSConfig} if context.TLSConfig else {})}
    return options


def _look_at_certificates() -> None:
    """Raise EngineFailed if a file required by DOCKER_TLS_VERIFY or DOCKER_CERT_PATH cannot be read."""
    folder, verify = os.environ.get("DOCKER_CERT_PATH"), os.environ.get("DOCKER_TLS_VERIFY")
    for name in (*(["cert.pem", "key.pem"] if folder or verify else []), *(["ca.pem"] if verify else [])):
        path = Path(folder or Path.home() / ".docker") / name
        try:
            path.open("rb").close()
        except OSError as error:
            raise EngineFailed(f"{name} for TLS with the engine", f"{path}: {error.strerror}", _CORRECT_TLS) from error


def _no_engine(error: Exception) -> EngineFailed:
    if isinstance(error, docker.errors.TLSParameterError) or "SSL" in repr(error) or "HTTPS server" in str(error):
        where = os.environ.get("DOCKER_HOST") or "the current Docker context"
        return EngineFailed(f"a TLS connection to the engine at {where}", _reason(error), _CORRECT_TLS)
    if "PermissionError" in repr(error) or "Permission denied" in str(error):
        return EngineFailed(
            "permission to use the container engine",
            "its socket is closed to this user",
            "use sudo, or add yourself to the group docker and log in again",
        )
    return EngineFailed(
        "a container engine that answers (Docker 20.10 or later)",
        f"none at {os.environ.get('DOCKER_HOST') or 'its usual place'}: {_reason(error)}",
        "`testbed setup` installs and starts one; DOCKER_HOST names another",
    )


def _reason(error: Exception) -> str:
    """Return the text of the innermost system error in a wrapped exception."""
    texts = re.findall(r"\(\d+, '([^']+)'\)|\[Errno -?\d+\] ([^'\")]+)", str(error))
    return "".join(texts[-1]) if texts else short(error)
