"""Measured numbers in few characters: as many digits as mean something."""

from __future__ import annotations

import math

NOTHING = "-"


def number(value: float | None) -> str:
    """A metric, with four places."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.5g}"


def count(parameters: int | None) -> str:
    """22_700_000 as "22.7 M"."""
    if parameters is None:
        return NOTHING
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return str(parameters)


def megabytes(value: float | None) -> str:
    """Three digits, where it is known."""
    if value is None:
        return NOTHING
    return three_digits(value)


def three_digits(value: float) -> str:
    """4.00, 90.9, 1,234: at least three digits, and none behind them that mean nothing."""
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{places}f}" if value >= 0.1 else f"{value:.3g}"
