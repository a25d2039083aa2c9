"""Execution of scenarios: single runs, sweeps, bisections, capsules, and forecasts of resource needs."""
