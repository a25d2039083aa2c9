"""A bed that is up: bring-up, its handle, its recording."""
