"""Knobs that would change nothing: they are refused where they are given."""

from typing import Any


def refuse_idle(scheme: str, why: str, **knobs: Any) -> None:
    """Refuses knobs that nothing reads.

    Args:
        scheme: whom the message names.
        why: nothing reads them.
        knobs: by name; None where they are not given.

    Raises:
        ValueError: one is given.
    """
    given = [f"{name}={value!r}" for name, value in knobs.items() if value is not None]
    if given:
        it = "it" if len(given) == 1 else "them"
        raise ValueError(f"{scheme}: {', '.join(given)} would change nothing, because {why}. Leave {it} out.")
