"""Figures of a verdict in words: name, value and unit. Numbers have three significant digits."""

from collections.abc import Mapping
from typing import Any

FIGURE_UNITS = {
    "_per_s": ("per second", 1.0),
    "_per_minute": ("per minute", 1.0),
    "_per_cpu_s": ("per CPU second", 1.0),
    "_ms_per_message": ("ms per message", 1.0),
    "_ms": ("ms", 1.0),
    "_s": ("s", 1.0),
    "_mb": ("MB", 1.0),
    "_b": ("MB", 1e-6),
}
"""Suffix of a figure's name -> (unit in words, factor that converts to this unit); the first match counts."""


def figure(name: str, value: float | None) -> tuple[str, str, str]:
    """Return a figure of a verdict as text: (name without the unit, value, unit).

    >>> figure("relay_messages_per_s", 451.3)
    ('relay messages', '451', 'per second')
    """
    end, (unit, factor) = next(((e, u) for e, u in FIGURE_UNITS.items() if name.endswith(e)), ("", ("", 1.0)))
    if name.startswith("share_") or name.endswith("_share"):
        unit, factor = "%", 100.0
    return name.removesuffix(end).replace("_", " ").replace("cpu", "CPU"), number(value, factor), unit


def number(value: float | None, factor: float = 1.0) -> str:
    """Format a number: three significant digits (integers: all), commas for thousands; None as ``not measured``."""
    if value is None:
        return "not measured"
    if value == 0 or (isinstance(value, int) and factor == 1):
        return f"{value:,.0f}"
    value *= factor
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{places}f}"


def best_figure(verdict: Mapping[str, Any] | None) -> tuple[str, str, str] | None:
    """Return the first measured figure of a verdict as text; None without one, or if the verdict is INCONCLUSIVE."""
    if verdict and verdict.get("outcome") == "INCONCLUSIVE":
        return None
    figures = (verdict or {}).get("figures") or {}
    return next((figure(name, value) for name, value in figures.items() if value is not None), None)
