"""Programs that run inside the containers of a bed: the load generator and the sink."""
