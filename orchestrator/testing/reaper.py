"""The process of a watchdog: a script that waits for the end of its standard input, and removes all of an owner's beds.

It imports the program only after that end: until then it costs the start of an interpreter.
"""

import sys

LOOKS_S = (0, 2, 5, 10, 20)
"""Times of the removals, in seconds after the end: the engine may still create what the owner requested."""
LIMIT_S = 90
"""The process ends this many seconds after the end of its input at the latest, also if the engine does not answer."""
WORD = b"ended\n"
"""Input of an owner that has removed its objects itself."""


def watch(owner: str) -> None:
    """Wait for the end of standard input; without the word, remove the objects with this OWNER label.

    The owner's temporary folders go, too.
    """
    if sys.stdin.buffer.read() == WORD:
        return
    import shutil  # noqa: PLC0415 - see above, as the next ones
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
        with suppress(Exception):  # the next look tries again
            cleaning.remove_owned(docker.connect(), owner)


if __name__ == "__main__":
    watch(sys.argv[1])
