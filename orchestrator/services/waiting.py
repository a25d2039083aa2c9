"""Start command of a load generator's container, which waits for an exec."""

import re

# The shell reaps what an exec leaves behind, and ends at once on SIGTERM because of its trap.
COMMAND = ("sh", "-c", "trap 'exit 0' TERM; echo waiting for orders; sleep infinity & wait")
READY = re.compile(r"^waiting for orders$")
