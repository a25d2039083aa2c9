"""Tests of the agents: real sinks, real loads, on 127.0.0.1."""
