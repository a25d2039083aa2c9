"""Start command of a load generator's container, which waits for an exec."""

import re

# The shell reaps orphans of an exec, and its trap ends it at once on SIGTERM.
COMMAND = ("sh", "-c", "trap 'exit 0' TERM; echo waiting for orders; sleep infinity & wait")
READY = re.compile(r"^waiting for orders$")
