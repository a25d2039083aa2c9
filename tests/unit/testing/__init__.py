"""Unit tests of ``orchestrator.testing``."""
