"""Shared parts of scenarios that send a load through a relay; no scenario itself."""
