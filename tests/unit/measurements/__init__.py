"""Unit tests of ``orchestrator.measurements``."""
