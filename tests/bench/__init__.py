"""Measurements of the testbed itself, against other ways of doing the same."""
