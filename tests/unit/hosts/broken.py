"""A host that breaks at a chosen call."""

import itertools
import threading
from collections.abc import Callable
from typing import Any, cast

from orchestrator.hosts import Host


class _Broken:
    """Wrapper of a host, node or images with one call counter; one call raises ``error``."""

    def __init__(self, part: Any, breaks: Callable[[], bool], error: BaseException, *, late: bool) -> None:
        self._part, self._breaks, self._error, self._late = part, breaks, error, late

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        if name == "images":
            return self._wrapped(value)
        if not callable(value):
            return value
        if name == "node":
            return lambda container: self._wrapped(value(container))

        def call(*args: Any, **kwargs: Any) -> Any:
            breaks = self._breaks()
            if breaks and not self._late:
                raise self._error
            done = value(*args, **kwargs)
            if breaks:
                raise self._error
            return self._wrapped(done) if name == "create" else done

        return call

    def _wrapped(self, part: Any) -> "_Broken":
        return _Broken(part, self._breaks, self._error, late=self._late)


def broken(host: Host, at: int, error: BaseException, *, late: bool = False) -> Host:
    """Return ``host`` with its call number ``at`` (from 1) raising ``error``; ``late``: after the call's work."""
    calls, lock = itertools.count(1), threading.Lock()

    def breaks() -> bool:
        with lock:
            return next(calls) == at

    return cast("Host", _Broken(host, breaks, error, late=late))
