"""One run from start to end, and many: sweeps, bisection, capsules, forecasts."""
