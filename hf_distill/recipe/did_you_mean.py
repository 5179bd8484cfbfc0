"""The known name that a misspelt one is closest to, for the last words of an error."""

import difflib
from collections.abc import Iterable
from typing import Any


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like this one, whatever its case; None where none looks alike."""
    lowered = {entry.lower(): entry for entry in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def did_you_mean(name: Any, known: Iterable[str], or_list: bool = True) -> str:
    """`; did you mean 'task'?`, or else what is known (`or_list`, up to 40 names), or else nothing."""
    known = list(known)
    close = closest(name, known) if isinstance(name, str) else None
    if close is not None:
        return f"; did you mean '{close}'?"
    return f"; known: {', '.join(known)}" if or_list and known and len(known) <= 40 else ""
