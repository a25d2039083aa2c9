"""Unit tests of ``orchestrator.plan``."""
