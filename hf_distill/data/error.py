"""The user's data cannot be used: one error for all of it, and how a bad value is shown in it."""

from typing import Any


class DataError(ValueError):
    """Data that cannot be used. The message names the file and line, or the split and row, and what was expected."""


def short(value: Any) -> str:
    """Its repr, cut to 50 characters."""
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:47]}..."
