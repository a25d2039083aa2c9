"""Unit tests of ``orchestrator.runs``."""
