"""Unit tests of ``orchestrator.hosts``."""
