"""Tests of the inbox, without Docker."""
