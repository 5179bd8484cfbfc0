"""Text that stays text in Markdown."""

from __future__ import annotations

import re
from typing import Any


def cell(text: Any) -> str:
    """Text for one line of Markdown, in a table too."""
    return " ".join(str(text).split()).replace("|", r"\|")


def fenced(text: str, language: str) -> str:
    """A code block whose fence no run of backticks in the text can close."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"
