"""Process of a watchdog: a script that waits for the end of its standard input, then removes all beds of an owner.

The script imports the program only after the wait: until then it costs no more than a bare interpreter.
"""

import sys

LOOKS_S = (0, 2, 5, 10, 20)
"""Times of the removals, in seconds after the end of input: the engine may still create objects meanwhile."""
LIMIT_S = 90
"""Time limit in seconds from the end of input to the end of the process, even if the engine does not answer."""
WORD = b"ended\n"
"""The owner writes this word when it has removed its objects itself."""


def watch(owner: str) -> None:
    """Wait for the end of standard input; if it was not ``WORD``, remove the objects with this OWNER label.

    Removes the owner's temporary folders, too.
    """
    if sys.stdin.buffer.read() == WORD:
        return
    import shutil  # noqa: PLC0415 - only after the wait, see above
    import signal  # noqa: PLC0415
    import tempfile  # noqa: PLC0415
    import time  # noqa: PLC0415
    from contextlib import suppress  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    signal.alarm(LIMIT_S)
    ended = time.monotonic()
    from orchestrator.hosts import cleaning, docker, ownership  # noqa: PLC0415

    for folder in Path(tempfile.gettempdir()).glob(f"{ownership.scratch(owner)}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for look in LOOKS_S:
        time.sleep(max(0.0, ended + look - time.monotonic()))
        with suppress(Exception):  # the next removal tries again
            cleaning.remove_owned(docker.connect(), owner)


if __name__ == "__main__":
    watch(sys.argv[1])
