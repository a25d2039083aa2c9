"""Recording of a bed that is up: streams from its nodes into its run directory."""
