"""A run directory, shown: terminal and HTML."""
