"""Mailbox with an HTTP API: keeps every message unchanged, and offers a search."""

import gc

gc.set_threshold(50_000, 20, 20)  # with the default of 700, garbage collection takes a sixth of the imports' CPU time
