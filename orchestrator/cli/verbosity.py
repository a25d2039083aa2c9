"""The option ``--verbose`` of every command: log records of this program on standard error."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from orchestrator.cli.shell import say

_OPTION = Annotated[bool, typer.Option("--verbose", "-v", help="Log every action to standard error, with times.")]


def verbose(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option ``--verbose``, which configures logging before the command starts."""

    @functools.wraps(command)
    def call(*args: Any, verbose: bool, **given: Any) -> None:
        if verbose:
            log_to_stderr()
        command(*args, **given)

    own = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_OPTION)
    signature = inspect.signature(command)
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), own])  # type: ignore[attr-defined]
    call.__annotations__ = {**command.__annotations__, own.name: _OPTION}
    return call


def log_to_stderr() -> None:
    """Send every record of our loggers to standard error; idempotent. The one place that configures logging."""
    import logging

    class Stderr(logging.Handler):
        """Prints records like messages for a person, with control characters made visible."""

        def emit(self, record: logging.LogRecord) -> None:
            say(self.format(record))

    logger = logging.getLogger("orchestrator")
    if not logger.handlers:
        handler = Stderr()
        handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(name)s: %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
