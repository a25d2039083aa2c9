"""On the real engine."""
