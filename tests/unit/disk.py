"""A disk that is full, for tests: the kernel refuses to let any file of this process grow (setrlimit(2))."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full(room: int = 0) -> Iterator[None]:
    """Let no file grow beyond ``room`` octets: a write fails with EFBIG, as it does with ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill() -> None:
    """Let no file grow from here on; ``full`` around it ends that."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
