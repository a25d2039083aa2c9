"""Mailbox with an HTTP API: keeps every message untouched, and finds it again."""

import gc

gc.set_threshold(50_000, 20, 20)  # with the default of 700, garbage collection takes a sixth of the imports' CPU time
