"""A node that waits until something is run in it, by exec: what every load generator is."""

import re

# The shell reaps what an exec leaves behind, and ends at once on SIGTERM because of its trap.
COMMAND = ("sh", "-c", "trap 'exit 0' TERM; echo waiting for orders; sleep infinity & wait")
READY = re.compile(r"^waiting for orders$")
