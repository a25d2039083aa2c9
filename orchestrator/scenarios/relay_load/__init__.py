"""Shared parts of the scenarios that send a load through a relay; not a scenario."""
