"""Unit tests of ``orchestrator.up``."""
