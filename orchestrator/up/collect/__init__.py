"""Streams from the nodes of a bed into its run directory."""
