"""Unit tests of ``orchestrator.bed``."""
