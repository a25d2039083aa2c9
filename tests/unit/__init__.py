"""Without Docker, in seconds."""
