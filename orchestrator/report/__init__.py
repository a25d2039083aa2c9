"""Reports of a run directory: terminal and HTML."""
