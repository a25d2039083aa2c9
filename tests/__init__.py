"""Tests, and the benches that the README's figures come from."""
