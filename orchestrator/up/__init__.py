"""A bed that is up: bring-up, handle, recording."""
